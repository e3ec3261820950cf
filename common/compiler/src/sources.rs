//! Address words become sets, one for each distinct word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_policy::{AddressWord, Documents, List, Site, Trust};
use voipfleet_ruleset::identifiers::{ListName, NodeName};
use voipfleet_ruleset::ruleset::{
    AddressSet, Family, Interface, LiveName, LiveSets, Scope, SetName, SetStem,
};

use super::address::{Elements, is_reachable, is_world};
use super::address_expansion::Members;
use super::live::of_cluster;
use super::provenance::{Member, Provenance};
use super::set_names::Stems;
use super::{CompileError, NodeInput};

/// Sources that a rule matches.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The word, for the rule's label; empty for the world and for literal addresses.
    pub(super) word: String,
    /// The set; none: any source.
    pub(super) set: Option<SetStem>,
    /// The families in which the set has members, or may have some.
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

/// What a set holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Until the next push.
    pub(super) own: Elements,
    /// Where more comes from between pushes.
    pub(super) live: BTreeSet<LiveName>,
}

/// Resolves words, each once.
pub(super) struct Sources<'a> {
    pub(super) site: &'a Site,
    pub(super) documents: &'a Documents,
    pub(super) nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
    /// For provenance and warnings; nothing that is emitted hangs on it.
    live: &'a LiveSets,
    stems: Stems,
    resolved: BTreeMap<(AddressWord, bool), Option<Source>>,
    /// Words that name nobody, whatever set they have.
    nobody: BTreeSet<(AddressWord, bool)>,
    sets: BTreeMap<SetStem, Content>,
    /// Words without an address, and the fields that use them.
    empty: BTreeMap<String, BTreeSet<String>>,
    pub(super) provenance: Provenance,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        site: &'a Site,
        documents: &'a Documents,
        nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
        live: &'a LiveSets,
    ) -> Self {
        Self {
            site,
            documents,
            nodes,
            live,
            nobody: BTreeSet::new(),
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
                    if self.names_nobody(word, place.media) {
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
            let mut members = Members::default();
            members.push(&literals, &origin);
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
        let key = Self::key(word, media);
        if let Some(known) = self.resolved.get(&key) {
            return Ok(known.clone());
        }
        let media = key.1;
        let stem = self.stem(word, media)?;
        let source = if let AddressWord::List(name) = word {
            let list = self.list(name, field)?;
            let content = Content {
                own: Elements::new(list.addresses.clone(), list.expiring.clone()),
                live: list
                    .feed
                    .iter()
                    .map(|_| LiveName::Feed(name.clone()))
                    .collect(),
            };
            let origin = format!("list {name}").into();
            self.provenance.record_whole(stem.clone(), origin);
            self.keep(stem, word.to_string(), content)
        } else {
            let mut members = self.members(word, media, field)?;
            if members.is_empty() {
                self.nobody.insert(key.clone());
            }
            if *word == AddressWord::Clients {
                members.live(LiveName::Allow, &"let in by an operator".into());
            }
            self.add(stem, word.to_string(), members)
        };
        if source.is_none() {
            self.nobody.insert(key.clone());
        }
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

    /// Only what has providers in it differs for media.
    fn key(word: &AddressWord, media: bool) -> (AddressWord, bool) {
        let differs = matches!(
            word,
            AddressWord::Clients | AddressWord::Providers | AddressWord::Provider(_)
        );
        (word.clone(), media && differs)
    }

    /// Whether a word that was looked at names nobody, now or between pushes.
    fn names_nobody(&self, word: &AddressWord, media: bool) -> bool {
        self.nobody.contains(&Self::key(word, media))
    }

    /// A set that only holds what `live` holds.
    pub(super) fn live_set(
        &mut self,
        stem: &str,
        live: impl IntoIterator<Item = (LiveName, Arc<str>)>,
    ) -> Result<Option<Source>, CompileError> {
        let mut members = Members::default();
        for (name, origin) in live {
            members.live(name, &origin);
        }
        Ok(self.add(stem.parse()?, String::new(), members))
    }

    /// A set of denied addresses, which is no opening and has no other provenance than its name.
    pub(super) fn denied(
        &mut self,
        stem: SetStem,
        denied: Content,
        origin: String,
    ) -> Option<Source> {
        self.provenance.record_whole(stem.clone(), origin.into());
        self.keep(stem, String::new(), denied)
    }

    /// Every set, both families apart, ready for the nodes that use it.
    pub(super) fn address_sets(&self) -> BTreeMap<SetName, AddressSet> {
        let mut sets = BTreeMap::new();
        for (stem, content) in &self.sets {
            for family in Family::BOTH {
                let name = SetName {
                    stem: stem.clone(),
                    family,
                };
                let set = AddressSet::new(name.clone(), content.own.lasting.iter().copied())
                    .with_expiring(content.own.expiring.iter().copied())
                    .with_live_names(content.live.iter().cloned());
                if !set.is_empty() || !set.live.is_empty() {
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

    /// What live sources hold, as far as it is known, with who asked for it.
    pub(super) fn live_nets<'m>(
        &self,
        live: &'m [(LiveName, Arc<str>)],
    ) -> impl Iterator<Item = (IpNet, &'m Arc<str>)> {
        live.iter().flat_map(|(name, origin)| {
            let value = self.live.get(name).into_iter();
            let nets = value.flat_map(|value| {
                let ending = value.expiring.iter().map(|one| &one.net);
                value.elements.iter().chain(ending).copied()
            });
            nets.map(move |net| (net, origin))
        })
    }

    /// The addresses by which nodes reach each other.
    pub(super) fn cluster_nets(&self) -> Vec<IpNet> {
        self.cluster().map(|member| member.net).collect()
    }

    fn cluster(&self) -> impl Iterator<Item = Member> {
        let interface = self.site.cluster.interface.as_ref();
        self.nodes.iter().flat_map(move |(name, node)| {
            let addresses = node.cluster_addresses(interface).into_iter();
            addresses.map(move |(on, address)| Member {
                net: IpNet::from(address),
                origin: format!("node {name}: {on}").into(),
            })
        })
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

    fn add(&mut self, stem: SetStem, word: String, members: Members) -> Option<Source> {
        let cluster = of_cluster(self.site);
        let elements = members.nets.iter().map(|member| member.net).collect();
        let content = Content {
            own: Elements::new(elements, Vec::new()),
            live: members.live.iter().map(|(name, _)| name.clone()).collect(),
        };
        let mut origins = members.nets;
        if content.live.contains(&cluster) {
            origins.extend(self.cluster());
        }
        let others: Vec<_> = members
            .live
            .into_iter()
            .filter(|(name, _)| *name != cluster)
            .collect();
        origins.extend(self.live_nets(&others).map(|(net, origin)| Member {
            net,
            origin: Arc::clone(origin),
        }));
        self.provenance.record(stem.clone(), origins);
        self.keep(stem, word, content)
    }

    fn keep(&mut self, stem: SetStem, word: String, content: Content) -> Option<Source> {
        let now = content.own.now();
        let has =
            |family| !content.live.is_empty() || now.iter().any(|net| Family::of(net) == family);
        let scope = match (has(Family::V4), has(Family::V6)) {
            (true, true) => Scope::Both,
            (true, false) => Scope::V4,
            (false, true) => Scope::V6,
            (false, false) => return None,
        };
        let is_world = is_world(&now);
        self.sets.insert(stem.clone(), content);
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

pub(super) fn unresolved(field: &str, word: &str) -> CompileError {
    CompileError::Unresolved {
        place: field.to_owned(),
        word: word.to_owned(),
    }
}
