//! What is behind an address word when rulesets are made: networks, and dynamic sets of more.

use std::collections::BTreeSet;

use ipnet::IpNet;
use voipfleet_policy::{AddressSource, AddressWord, Documents, MissingDocument, Site};
use voipfleet_ruleset::ruleset::{DynamicSetName, Expiring, ProviderPart, Scheduled};

use super::CompileError;
use super::address::Elements;
use super::membership;

/// What is behind a word.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Networks of the documents that stay.
    pub(super) nets: Vec<IpNet>,
    /// Networks that end.
    pub(super) expiring: Vec<Expiring>,
    /// Networks that begin.
    pub(super) scheduled: Vec<Scheduled>,
    /// Dynamic sets.
    pub(super) dynamic: BTreeSet<DynamicSetName>,
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        self.all_nets().next().is_none() && self.dynamic.is_empty()
    }

    /// Every network of the documents, whatever its time.
    pub(super) fn all_nets(&self) -> impl Iterator<Item = IpNet> {
        let ending = self.expiring.iter().map(|one| one.net);
        let beginning = self.scheduled.iter().map(|one| one.net);
        self.nets.iter().copied().chain(ending).chain(beginning)
    }

    /// The networks as elements of a set.
    pub(super) fn elements(&self) -> Elements {
        Elements::new(self.nets.clone(), self.expiring.clone())
            .with_scheduled(self.scheduled.clone())
    }

    pub(super) fn extend(&mut self, others: Members) {
        self.nets.extend(others.nets);
        self.expiring.extend(others.expiring);
        self.scheduled.extend(others.scheduled);
        self.dynamic.extend(others.dynamic);
    }
}

/// What is behind `word` of `field`; of providers, this part.
pub(super) fn members(
    site: &Site,
    documents: &Documents,
    word: &AddressWord,
    part: ProviderPart,
    field: &str,
) -> Result<Members, CompileError> {
    if *word == AddressWord::Admins {
        let mut members = Members::default();
        for word in &site.admins {
            members.extend(admin(site, documents, word)?);
        }
        return Ok(members);
    }
    let expansion = site.expand(documents, word, &[part]);
    if let Some(missing) = expansion.missing.first() {
        return Err(unresolved(missing, field));
    }
    let mut members = Members::default();
    for addresses in expansion.addresses {
        members.nets.extend(addresses.nets.iter().map(IpNet::trunc));
        members.expiring.extend(addresses.expiring);
        members.scheduled.extend(addresses.scheduled);
        let hosts = addresses.hosts.iter().cloned();
        members.dynamic.extend(hosts.map(DynamicSetName::Name));
        match addresses.source {
            AddressSource::Cluster => {
                members.nets.extend(&site.cluster.members);
                members
                    .dynamic
                    .extend(membership::dynamic_names(&site.cluster));
            }
            AddressSource::List(name) if addresses.is_fetched => {
                members.dynamic.insert(DynamicSetName::Feed(name.clone()));
            }
            _ => {}
        }
    }
    Ok(members)
}

/// Admins must get in when no name resolves and no list can be fetched.
fn admin(site: &Site, documents: &Documents, word: &AddressWord) -> Result<Members, CompileError> {
    let reason = match word {
        AddressWord::World => "SSH would be open to the world",
        AddressWord::Admins => "`admins` cannot refer to itself",
        AddressWord::Cluster => "its members reach SSH anyway; name the addresses of people",
        _ => {
            let members = members(site, documents, word, ProviderPart::Signalling, "admins")?;
            match members.dynamic.first() {
                // Of these, the agents make rules of their own, which no kernel begins or ends.
                None if !members.expiring.is_empty() || !members.scheduled.is_empty() => {
                    "it holds addresses that expire or begin later, and rules made from admins do \
                     neither"
                }
                None => return Ok(members),
                Some(DynamicSetName::Name(_)) => {
                    "it has DNS names, and SSH must not hang on DNS; name the admins' \
                     addresses in a list of its own"
                }
                Some(DynamicSetName::Feed(_)) => {
                    "it is fetched from elsewhere, and SSH must not hang on that; name the \
                     admins' addresses"
                }
                Some(_) => "it changes without a push; name the addresses of people",
            }
        }
    };
    Err(CompileError::Meaningless {
        place: "admins".to_owned(),
        word: word.to_string(),
        reason,
    })
}

pub(super) fn unresolved(missing: &MissingDocument, field: &str) -> CompileError {
    CompileError::Unresolved {
        place: missing.field.unwrap_or(field).to_owned(),
        word: missing.word.to_string(),
    }
}
