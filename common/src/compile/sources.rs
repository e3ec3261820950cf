//! Address words become sets, one for each distinct word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{Elements, is_reachable, is_world};
use super::provenance::{Member, Provenance};
use super::stems::Stems;
use super::{CompileError, NodeInput};
use crate::names::{ListName, NodeName, ProviderName, TenantName};
use crate::policy::{AddressWord, Documents, List, Site, Trust};
use crate::ruleset::{AddressSet, Family, Interface, Scope, SetName, SetStem};

/// Sources that a rule matches.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The word, for the rule's label; empty for the world and for literal addresses.
    pub(super) word: String,
    /// The set; none: any source.
    pub(super) set: Option<SetStem>,
    /// The families in which the set has members.
    pub(super) scope: Scope,
    /// The interface that they come by; none: any.
    pub(super) interface: Option<Interface>,
    /// So much of the address space that it is the world.
    pub(super) is_world: bool,
}

/// Who writes the words, for messages, names of sets and provenance.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// The field: `services.sip.from`.
    pub(super) field: &'a str,
    /// What the set of literal addresses is called: `svc` and `sip`.
    pub(super) literals: (&'a str, &'a str),
    /// Providers are reached on their media networks.
    pub(super) media: bool,
}

/// Resolves words, each once.
pub(super) struct Sources<'a> {
    site: &'a Site,
    documents: &'a Documents,
    nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
    stems: Stems,
    resolved: BTreeMap<(AddressWord, bool), Option<Source>>,
    sets: BTreeMap<SetStem, Elements>,
    /// Words without an address, and the fields that use them.
    empty: BTreeMap<String, BTreeSet<String>>,
    pub(super) provenance: Provenance,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        site: &'a Site,
        documents: &'a Documents,
        nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
    ) -> Self {
        Self {
            site,
            documents,
            nodes,
            stems: Stems::default(),
            resolved: BTreeMap::new(),
            sets: BTreeMap::new(),
            empty: BTreeMap::new(),
            provenance: Provenance::default(),
        }
    }

    /// The sources that `words` name, in the words' own order, so that the order in which an
    /// operator lists them changes nothing. `world` makes the others needless.
    pub(super) fn resolve(
        &mut self,
        words: &[AddressWord],
        place: &Place<'_>,
    ) -> Result<Vec<Source>, CompileError> {
        let words: BTreeSet<&AddressWord> = words.iter().collect();
        let mut sources = Vec::new();
        let mut literals = Vec::new();
        for word in words {
            match word {
                AddressWord::World => return Ok(vec![Source::world()]),
                // What comes by loopback is let through by the agent's own first rules.
                AddressWord::Local => {}
                // Members of a fully trusted cluster are let through at the top of the chain.
                AddressWord::Cluster if self.site.cluster.trust == Trust::Full => {}
                AddressWord::Net(net) => literals.push(*net),
                word => {
                    let source = self.word(word, place.media, place.field)?;
                    if source.is_none() {
                        let fields = self.empty.entry(word.to_string()).or_default();
                        fields.insert(place.field.to_owned());
                    }
                    sources.extend(source);
                }
            }
        }
        if !literals.is_empty() {
            let (kind, name) = place.literals;
            let origin: Arc<str> = format!("site {}: {}", self.site.name, place.field).into();
            let stem = self.stems.stem(kind, name)?;
            let members = literals
                .into_iter()
                .map(|net| Member {
                    net,
                    origin: Arc::clone(&origin),
                })
                .collect();
            sources.extend(self.add(stem, String::new(), members));
        }
        Ok(sources)
    }

    /// The source behind one word that is a set; none if it has no address.
    pub(super) fn word(
        &mut self,
        word: &AddressWord,
        media: bool,
        field: &str,
    ) -> Result<Option<Source>, CompileError> {
        // Only what has providers in it differs for media.
        let media = media
            && matches!(
                word,
                AddressWord::Clients | AddressWord::Providers | AddressWord::Provider(_)
            );
        let key = (word.clone(), media);
        if let Some(known) = self.resolved.get(&key) {
            return Ok(known.clone());
        }
        let stem = self.stem(word, media)?;
        let source = if let AddressWord::List(name) = word {
            let list = self.list(name, field)?;
            let addresses = Elements::new(list.addresses.clone(), list.expiring.clone());
            let origin = format!("list {name}").into();
            self.provenance.record_whole(stem.clone(), origin);
            self.keep(stem, word.to_string(), addresses)
        } else {
            let members = self.members(word, media, field)?;
            self.add(stem, word.to_string(), members)
        };
        let source = source.map(|source| Source {
            interface: match word {
                AddressWord::Cluster => self.site.cluster.interface.clone(),
                _ => None,
            },
            ..source
        });
        self.resolved.insert(key, source.clone());
        Ok(source)
    }

    /// A set of denied addresses, which is no opening and has no other provenance than its name.
    pub(super) fn denied(
        &mut self,
        stem: SetStem,
        elements: Elements,
        origin: String,
    ) -> Option<Source> {
        self.provenance.record_whole(stem.clone(), origin.into());
        self.keep(stem, String::new(), elements)
    }

    /// Every set, both families apart, ready for the nodes that use it.
    pub(super) fn address_sets(&self) -> BTreeMap<SetName, AddressSet> {
        let mut sets = BTreeMap::new();
        for (stem, elements) in &self.sets {
            for family in Family::BOTH {
                let name = SetName {
                    stem: stem.clone(),
                    family,
                };
                let set = AddressSet::new(name.clone(), elements.lasting.iter().copied())
                    .with_expiring(elements.expiring.iter().copied());
                if !set.is_empty() {
                    sets.insert(name, set);
                }
            }
        }
        sets
    }

    /// Words without an address, and the fields that use them.
    pub(super) fn empty(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.empty
    }

    pub(super) fn stems(&mut self) -> &mut Stems {
        &mut self.stems
    }

    /// A list.
    pub(super) fn list(&self, name: &ListName, field: &str) -> Result<&'a List, CompileError> {
        let list = self.documents.lists.get(name);
        list.ok_or_else(|| unresolved(field, &format!("list:{name}")))
    }

    /// The prefixes behind a word, each with who asked for it.
    pub(super) fn members(
        &self,
        word: &AddressWord,
        media: bool,
        field: &str,
    ) -> Result<Vec<Member>, CompileError> {
        let mut members = Vec::new();
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
            AddressWord::Cluster => self.cluster(&mut members),
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
                push(&mut members, &list.addresses, &origin);
            }
            AddressWord::Net(net) => {
                let origin: Arc<str> = format!("site {}: {field}", self.site.name).into();
                push(&mut members, &[*net], &origin);
            }
        }
        Ok(members)
    }

    fn admin(&self, word: &AddressWord) -> Result<Vec<Member>, CompileError> {
        let reason = match word {
            AddressWord::World => "everybody would have SSH",
            AddressWord::Admins => "it is what is being said",
            _ => return self.members(word, false, "admins"),
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
        members: &mut Vec<Member>,
    ) -> Result<(), CompileError> {
        let tenant = self.documents.tenants.get(name);
        let tenant = tenant.ok_or_else(|| unresolved(field, &format!("tenant:{name}")))?;
        for (network, nets) in &tenant.networks {
            push(members, nets, &format!("tenant {name}: {network}").into());
        }
        Ok(())
    }

    fn provider(
        &self,
        name: &ProviderName,
        media: bool,
        field: &str,
        members: &mut Vec<Member>,
    ) -> Result<(), CompileError> {
        let provider = self.documents.providers.get(name);
        let provider = provider.ok_or_else(|| unresolved(field, &format!("provider:{name}")))?;
        let (part, nets) = if media {
            ("media", &provider.media)
        } else {
            ("signalling", &provider.signalling)
        };
        push(members, nets, &format!("provider {name}: {part}").into());
        Ok(())
    }

    /// The addresses by which nodes reach each other: those on the cluster's interface, or, of a
    /// node that has none there, all that others can reach.
    fn cluster(&self, members: &mut Vec<Member>) {
        let interface = self.site.cluster.interface.as_ref();
        for (name, node) in self.nodes {
            for (on, address) in node.cluster_addresses(interface) {
                members.push(Member {
                    net: IpNet::from(address),
                    origin: format!("node {name}: {on}").into(),
                });
            }
        }
    }

    fn stem(&mut self, word: &AddressWord, media: bool) -> Result<SetStem, CompileError> {
        Ok(match word {
            AddressWord::Tenant(name) => self.stems.stem("tenant", name.as_str())?,
            AddressWord::Provider(name) if media => self.stems.stem("media", name.as_str())?,
            AddressWord::Provider(name) => self.stems.stem("provider", name.as_str())?,
            AddressWord::List(name) => self.stems.stem("list", name.as_str())?,
            word if media => format!("{word}-media").parse()?,
            word => word.to_string().parse()?,
        })
    }

    fn add(&mut self, stem: SetStem, word: String, members: Vec<Member>) -> Option<Source> {
        let elements = members.iter().map(|member| member.net).collect();
        let elements = Elements::new(elements, Vec::new());
        self.provenance.record(stem.clone(), members);
        self.keep(stem, word, elements)
    }

    fn keep(&mut self, stem: SetStem, word: String, elements: Elements) -> Option<Source> {
        let now = elements.now();
        let has = |family| now.iter().any(|net| Family::of(net) == family);
        let scope = match (has(Family::V4), has(Family::V6)) {
            (true, true) => Scope::Both,
            (true, false) => Scope::V4,
            (false, true) => Scope::V6,
            (false, false) => return None,
        };
        let is_world = is_world(&now);
        self.sets.insert(stem.clone(), elements);
        Some(Source {
            word,
            set: Some(stem),
            scope,
            interface: None,
            is_world,
        })
    }
}

impl Source {
    pub(super) fn world() -> Self {
        Self {
            word: String::new(),
            set: None,
            scope: Scope::Both,
            interface: None,
            is_world: true,
        }
    }
}

impl NodeInput {
    /// Its addresses that other machines can reach.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &super::InterfaceAddress> {
        self.addresses
            .iter()
            .filter(|address| is_reachable(address.net.addr()))
    }
}

fn push(members: &mut Vec<Member>, nets: &[IpNet], origin: &Arc<str>) {
    members.extend(nets.iter().map(|net| Member {
        net: net.trunc(),
        origin: Arc::clone(origin),
    }));
}

fn unresolved(field: &str, word: &str) -> CompileError {
    CompileError::Unresolved {
        place: field.to_owned(),
        word: word.to_owned(),
    }
}
