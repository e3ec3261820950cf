//! Address words become sets, one for each distinct word.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_policy::{AddressSpace, AddressWord, Documents, List, MissingDocument, Site, Trust};
use voipfleet_ruleset::identifiers::{ListName, NodeName};
use voipfleet_ruleset::ruleset::{
    AddressSet, DynamicSetName, DynamicSets, Family, Interface, ProviderPart, Scope, SetName,
    SetOwner, SetStem,
};

use super::address::Elements;
use super::address_expansion::{self, Members, unresolved};
use super::membership::{self, Membership};
use super::set_names::Stems;
use super::{CompileError, NodeInput};

/// Sources that a rule matches.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The word, for the rule's label; `None` for the world and for literal addresses.
    pub(super) word: Option<String>,
    /// The set; `None` for any source.
    pub(super) set: Option<SetStem>,
    /// The families in which the set has members, or may have some.
    pub(super) scope: Scope,
    /// The interface that they come by; `None` for any.
    pub(super) interface: Option<Interface>,
    /// So much of the address space that it is the world.
    pub(super) is_world: bool,
}

/// The field that words are in.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// The field, for messages: `services.sip.from`.
    pub(super) field: &'a str,
    /// The owner of the addresses that are written there in place of words.
    pub(super) literals: SetOwner,
    /// On which of their networks providers are reached.
    pub(super) part: ProviderPart,
    /// What is let in there, a fully trusted member may send by the cluster's interface anyway.
    pub(super) has_members: bool,
}

/// What a set holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Until the next push.
    pub(super) own: Elements,
    /// Where more comes from between pushes.
    pub(super) dynamic: BTreeSet<DynamicSetName>,
    /// Where that must lie; empty: anywhere.
    pub(super) within: Vec<IpNet>,
}

/// Resolves words, each once.
pub(super) struct Sources<'a> {
    pub(super) site: &'a Site,
    pub(super) documents: &'a Documents,
    pub(super) nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
    /// For warnings only: no ruleset depends on what dynamic sets hold.
    dynamic: &'a DynamicSets,
    stems: Stems,
    resolved: BTreeMap<(AddressWord, ProviderPart), Option<Source>>,
    /// Words without an address, now and between pushes, even if they have a set.
    without_address: BTreeSet<(AddressWord, ProviderPart)>,
    sets: BTreeMap<SetStem, (SetOwner, Content)>,
    /// Words without an address, and the fields that use them.
    empty: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        site: &'a Site,
        documents: &'a Documents,
        nodes: &'a BTreeMap<&'a NodeName, &'a NodeInput>,
        dynamic: &'a DynamicSets,
    ) -> Self {
        Self {
            site,
            documents,
            nodes,
            dynamic,
            without_address: BTreeSet::new(),
            stems: Stems::default(),
            resolved: BTreeMap::new(),
            sets: BTreeMap::new(),
            empty: BTreeMap::new(),
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
                AddressWord::Cluster
                    if place.has_members && self.site.cluster.trust == Trust::Full => {}
                AddressWord::Net(net) => literals.push(*net),
                word => {
                    let source = self.word(word, place.part, place.field)?;
                    if self.has_no_address(word, place.part) {
                        let fields = self.empty.entry(word.to_string()).or_default();
                        fields.insert(place.field.to_owned());
                    }
                    sources.extend(source);
                }
            }
        }
        if !literals.is_empty() {
            let content = Content {
                own: Elements::new(literals, Vec::new()),
                ..Content::default()
            };
            sources.extend(self.add_set(place.literals.clone(), None, content)?);
        }
        Ok(sources)
    }

    /// The source behind one word that is a set; `None` if it has no address.
    pub(super) fn word(
        &mut self,
        word: &AddressWord,
        part: ProviderPart,
        field: &str,
    ) -> Result<Option<Source>, CompileError> {
        let key = Self::key(word, part);
        if let Some(known) = self.resolved.get(&key) {
            return Ok(known.clone());
        }
        let Some(owner) = set_owner(word, key.1) else {
            return Ok(None);
        };
        let content = self.content(word, key.1, field)?;
        let has_own =
            !content.own.is_empty() || content.dynamic.iter().any(|n| *n != DynamicSetName::Allow);
        let source = self.add_set(owner, Some(word.to_string()), content)?;
        if source.is_none() || !has_own {
            self.without_address.insert(key.clone());
        }
        self.resolved.insert(key, source.clone());
        Ok(source)
    }

    fn content(
        &self,
        word: &AddressWord,
        part: ProviderPart,
        field: &str,
    ) -> Result<Content, CompileError> {
        if let AddressWord::List(name) = word {
            let list = self.list(name, field)?;
            let feed = list.feed.iter().map(|_| DynamicSetName::Feed(name.clone()));
            return Ok(Content {
                own: Elements::new(list.addresses.clone(), list.dated.expiring.clone())
                    .with_scheduled(list.dated.scheduled.clone()),
                dynamic: feed.collect(),
                ..Content::default()
            });
        }
        let mut members = self.members(word, part, field)?;
        if *word == AddressWord::Clients {
            members.dynamic.insert(DynamicSetName::Allow);
        }
        let mut content = Content::from(members);
        if *word == AddressWord::Cluster && !content.dynamic.is_empty() {
            content.within = membership::bounds(&self.site.cluster);
        }
        Ok(content)
    }

    /// Only what has providers in it differs for media.
    fn key(word: &AddressWord, part: ProviderPart) -> (AddressWord, ProviderPart) {
        let differs = matches!(
            word,
            AddressWord::Clients | AddressWord::Providers | AddressWord::Provider(_)
        );
        let part = if differs {
            part
        } else {
            ProviderPart::Signalling
        };
        (word.clone(), part)
    }

    /// Whether a word that was resolved has no address, now or between pushes.
    fn has_no_address(&self, word: &AddressWord, part: ProviderPart) -> bool {
        self.without_address.contains(&Self::key(word, part))
    }

    /// Adds a set, and gives the source that matches it; `None` if it never holds anything.
    pub(super) fn add_set(
        &mut self,
        owner: SetOwner,
        word: Option<String>,
        content: Content,
    ) -> Result<Option<Source>, CompileError> {
        let now = content.own.now();
        let has =
            |family| !content.dynamic.is_empty() || now.iter().any(|net| Family::of(net) == family);
        let scope = match (has(Family::V4), has(Family::V6)) {
            (true, true) => Scope::Both,
            (true, false) => Scope::V4,
            (false, true) => Scope::V6,
            (false, false) => return Ok(None),
        };
        let stem = self.stems.of(&owner)?;
        self.sets.insert(stem.clone(), (owner, content));
        Ok(Some(Source {
            word,
            set: Some(stem),
            scope,
            interface: None,
            is_world: AddressSpace::of(&now).is_world(),
        }))
    }

    /// Every set, both families apart, ready for the nodes that use it.
    pub(super) fn address_sets(&self) -> BTreeMap<SetName, AddressSet> {
        let mut sets = BTreeMap::new();
        for (stem, (owner, content)) in &self.sets {
            for family in Family::BOTH {
                let name = SetName {
                    stem: stem.clone(),
                    family,
                };
                let set = AddressSet::new(name.clone(), content.own.lasting.iter().copied())
                    .with_owner(owner.clone())
                    .with_expiring(content.own.expiring.iter().copied())
                    .with_scheduled(content.own.scheduled.iter().copied())
                    .with_dynamic_names(content.dynamic.iter().cloned())
                    .within(content.within.iter().copied());
                if !set.is_empty() || !set.dynamic.is_empty() {
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

    /// What is behind `word` of `field`; of providers, this part.
    pub(super) fn members(
        &self,
        word: &AddressWord,
        part: ProviderPart,
        field: &str,
    ) -> Result<Members, CompileError> {
        address_expansion::members(self.site, self.documents, word, part, field)
    }

    /// A list.
    pub(super) fn list(&self, name: &ListName, field: &str) -> Result<&'a List, CompileError> {
        self.documents.lists.get(name).ok_or_else(|| {
            let word = AddressWord::List(name.clone());
            unresolved(&MissingDocument { word, field: None }, field)
        })
    }

    /// What dynamic sets hold, as far as it is known.
    pub(super) fn dynamic_nets<'n>(
        &self,
        dynamic: impl IntoIterator<Item = &'n DynamicSetName>,
    ) -> impl Iterator<Item = IpNet> {
        dynamic
            .into_iter()
            .filter_map(|name| self.dynamic.get(name))
            .flat_map(|value| {
                let ending = value.expiring.iter().map(|one| &one.net);
                value.elements.iter().chain(ending).copied()
            })
    }

    /// The addresses of members that nodes report inside the networks that the document names.
    pub(super) fn cluster_nets(&self) -> Vec<IpNet> {
        if self.site.cluster.networks.is_empty() {
            return Vec::new();
        }
        let membership = Membership::of(&self.site.cluster, self.nodes.values().copied());
        membership.members.into_keys().map(IpNet::from).collect()
    }
}

impl From<Members> for Content {
    fn from(members: Members) -> Self {
        Self {
            own: members.elements(),
            dynamic: members.dynamic,
            within: Vec::new(),
        }
    }
}

/// Whose set a word becomes; `None` for words that become none.
fn set_owner(word: &AddressWord, part: ProviderPart) -> Option<SetOwner> {
    match word {
        AddressWord::Clients => Some(SetOwner::Clients(part)),
        AddressWord::Providers => Some(SetOwner::Providers(part)),
        AddressWord::Tenants => Some(SetOwner::Tenants),
        AddressWord::Admins => Some(SetOwner::Admins),
        AddressWord::Cluster => Some(SetOwner::Cluster),
        AddressWord::Tenant(name) => Some(SetOwner::Tenant(name.clone())),
        AddressWord::Provider(name) => Some(SetOwner::Provider(name.clone(), part)),
        AddressWord::List(name) => Some(SetOwner::List(name.clone())),
        AddressWord::World | AddressWord::Local | AddressWord::Net(_) => None,
    }
}

impl Source {
    pub(super) fn world() -> Self {
        Self {
            word: None,
            set: None,
            scope: Scope::Both,
            interface: None,
            is_world: true,
        }
    }
}
