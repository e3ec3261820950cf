//! Who is behind an address word: networks, and live sources of more.

use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_policy::AddressWord;
use voipfleet_ruleset::identifiers::{ProviderName, TenantName};
use voipfleet_ruleset::ruleset::{DnsName, LiveName};

use super::CompileError;
use super::live::of_cluster;
use super::provenance::Member;
use super::sources::{Sources, unresolved};

/// Who is behind a word.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Networks, each with who asked for it.
    pub(super) nets: Vec<Member>,
    /// Live sources, each with who asked for it. Of a node's address it is the node.
    pub(super) live: Vec<(LiveName, Arc<str>)>,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty() && self.live.is_empty()
    }

    pub(super) fn push(&mut self, nets: &[IpNet], origin: &Arc<str>) {
        self.nets.extend(nets.iter().map(|net| Member {
            net: net.trunc(),
            origin: Arc::clone(origin),
        }));
    }

    pub(super) fn live(&mut self, name: LiveName, origin: &Arc<str>) {
        self.live.push((name, Arc::clone(origin)));
    }

    pub(super) fn extend(&mut self, others: Members) {
        self.nets.extend(others.nets);
        self.live.extend(others.live);
    }

    fn hosts(&mut self, names: &[DnsName], place: &str) {
        for name in names {
            let origin: Arc<str> = format!("{place}, {name}").into();
            self.live(LiveName::Name(name.clone()), &origin);
        }
    }
}

impl Sources<'_> {
    /// Who is behind a word.
    pub(super) fn members(
        &self,
        word: &AddressWord,
        media: bool,
        field: &str,
    ) -> Result<Members, CompileError> {
        let mut members = Members::default();
        match word {
            AddressWord::World | AddressWord::Local => {}
            AddressWord::Clients => {
                members = self.members(&AddressWord::Tenants, media, field)?;
                members.extend(self.members(&AddressWord::Providers, media, field)?);
            }
            AddressWord::Tenants => {
                for name in &self.site.tenants {
                    self.tenant(name, "tenants", &mut members)?;
                }
            }
            AddressWord::Providers => {
                for name in &self.site.providers {
                    self.provider(name, media, "providers", &mut members)?;
                }
            }
            AddressWord::Admins => {
                for word in &self.site.admins {
                    members.extend(self.admin(word)?);
                }
            }
            AddressWord::Cluster => {
                members.live(of_cluster(self.site), &"the cluster".into());
            }
            AddressWord::Tenant(name) => self.tenant(name, field, &mut members)?,
            AddressWord::Provider(name) => self.provider(name, media, field, &mut members)?,
            AddressWord::List(name) => {
                let list = self.list(name, field)?;
                if !list.expiring.is_empty() {
                    // Of these, the agents make rules of their own, which no kernel ends.
                    return Err(CompileError::Meaningless {
                        place: field.to_owned(),
                        word: word.to_string(),
                        reason: "it holds addresses that end, and what stands there does not end \
                                 by itself",
                    });
                }
                let origin: Arc<str> = format!("list {name}").into();
                members.push(&list.addresses, &origin);
                if list.feed.is_some() {
                    members.live(LiveName::Feed(name.clone()), &origin);
                }
            }
            AddressWord::Net(net) => {
                let origin: Arc<str> = format!("site {}: {field}", self.site.name).into();
                members.push(&[*net], &origin);
            }
        }
        Ok(members)
    }

    /// Who mends a node must get in when names do not resolve and no list can be fetched.
    fn admin(&self, word: &AddressWord) -> Result<Members, CompileError> {
        let reason = match word {
            AddressWord::World => "everybody would have SSH",
            AddressWord::Admins => "it is what is being said",
            _ => {
                let members = self.members(word, false, "admins")?;
                match members.live.first() {
                    None => return Ok(members),
                    Some((LiveName::Name(_), _)) => {
                        "it has DNS names, and SSH must not hang on DNS; name the admins' \
                         addresses in a list of its own"
                    }
                    Some((LiveName::Feed(_), _)) => {
                        "it is fetched from elsewhere, and SSH must not hang on that; name the \
                         admins' addresses"
                    }
                    Some(_) => "its members reach SSH anyway; name the addresses of people",
                }
            }
        };
        Err(CompileError::Meaningless {
            place: "admins".to_owned(),
            word: word.to_string(),
            reason,
        })
    }

    fn tenant(
        &self,
        name: &TenantName,
        field: &str,
        members: &mut Members,
    ) -> Result<(), CompileError> {
        let tenant = self.documents.tenants.get(name);
        let tenant = tenant.ok_or_else(|| unresolved(field, &format!("tenant:{name}")))?;
        for (network, nets) in &tenant.networks {
            members.push(nets, &format!("tenant {name}: {network}").into());
        }
        for (network, names) in &tenant.names {
            members.hosts(names, &format!("tenant {name}: {network}"));
        }
        Ok(())
    }

    fn provider(
        &self,
        name: &ProviderName,
        media: bool,
        field: &str,
        members: &mut Members,
    ) -> Result<(), CompileError> {
        let provider = self.documents.providers.get(name);
        let provider = provider.ok_or_else(|| unresolved(field, &format!("provider:{name}")))?;
        let (part, nets, names) = if media {
            ("media", &provider.media, &provider.media_names)
        } else {
            (
                "signalling",
                &provider.signalling,
                &provider.signalling_names,
            )
        };
        let place = format!("provider {name}: {part}");
        members.push(nets, &place.as_str().into());
        members.hosts(names, &place);
        Ok(())
    }
}
