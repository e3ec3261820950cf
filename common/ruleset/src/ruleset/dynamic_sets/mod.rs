//! Dynamic sets: addresses that change between pushes, apart from the rulesets that use them.
//!
//! A set of a ruleset may name dynamic sets beside its own elements. What these hold travels
//! apart and is in no digest of a ruleset. Both together are the *effective* ruleset, an
//! ordinary [`Ruleset`].

mod delta;
mod invalid;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

pub use delta::{DynamicSetChange, DynamicSetsDelta};
pub use invalid::{InvalidDynamicSets, MAX_DYNAMIC_SETS, MAX_DYNAMIC_SETS_BYTES};
pub(in crate::ruleset) use name::MAX_DYNAMIC_SET_NAME;
pub use name::{DnsName, DynamicSetName};

use super::{AddressSet, Expiring, Family, Ruleset, distinct, storable};
use crate::identifiers::SiteName;

/// What one dynamic set holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DynamicSet {
    /// Prefixes of both families that stay, ascending, distinct, none with length 0.
    pub elements: Vec<IpNet>,
    /// Prefixes with an end, ascending, distinct, none of `elements`.
    pub expiring: Vec<Expiring>,
}

impl DynamicSet {
    /// Holds these, sorted and distinct; a prefix of length 0 becomes its two halves. What stays
    /// wins, and then the later end.
    pub fn new(
        elements: impl IntoIterator<Item = IpNet>,
        expiring: impl IntoIterator<Item = Expiring>,
    ) -> Self {
        let mut elements: Vec<IpNet> = elements.into_iter().flat_map(storable).collect();
        elements.sort_unstable();
        elements.dedup();
        let parts = expiring.into_iter().flat_map(|one| {
            let part = move |net| Expiring { net, ..one };
            storable(one.net).into_iter().map(part)
        });
        let expiring = distinct(parts.collect(), &elements);
        Self { elements, expiring }
    }

    /// The number of prefixes, those with an end among them.
    pub fn len(&self) -> usize {
        self.elements.len() + self.expiring.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the dynamic sets of a site hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicSets {
    /// The site.
    pub site: SiteName,
    /// The sources; one that is not among them is unknown, which is not empty.
    pub sources: BTreeMap<DynamicSetName, Arc<DynamicSet>>,
}

/// A dynamic set of which nothing is known: it is never taken as empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing is known of the dynamic set {0}")]
pub struct Missing(pub DynamicSetName);

impl DynamicSets {
    /// No dynamic set.
    pub fn new(site: SiteName) -> Self {
        Self {
            site,
            sources: BTreeMap::new(),
        }
    }

    /// Sets what a source holds.
    pub fn insert(&mut self, name: DynamicSetName, value: DynamicSet) {
        self.sources.insert(name, Arc::new(value));
    }

    /// What a source holds.
    pub fn get(&self, name: &DynamicSetName) -> Option<&DynamicSet> {
        self.sources.get(name).map(AsRef::as_ref)
    }

    /// The same, with `names` only, each of which is there: empty where it was not known.
    #[must_use]
    pub fn only(&self, names: &BTreeSet<DynamicSetName>) -> Self {
        let value = |name| self.sources.get(name).cloned().unwrap_or_default();
        Self {
            site: self.site.clone(),
            sources: names.iter().map(|n| (n.clone(), value(n))).collect(),
        }
    }

    /// The number of prefixes in all sources.
    pub fn len(&self) -> usize {
        self.sources.values().map(|value| value.len()).sum()
    }

    /// Whether no source holds anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Ruleset {
    /// The dynamic sets that its sets name.
    pub fn dynamic_names(&self) -> BTreeSet<DynamicSetName> {
        let names = self.sets.iter().flat_map(|set| &set.dynamic);
        names.cloned().collect()
    }

    /// The effective ruleset: each set holds its own elements and those of its dynamic sets, and
    /// names no source. Its digest is another one.
    pub fn with_dynamic(&self, dynamic: &DynamicSets) -> Result<Ruleset, Missing> {
        let sets = self.sets.iter().map(|set| set.with_dynamic(dynamic));
        Ok(Ruleset {
            site: self.site.clone(),
            node: self.node.clone(),
            mode: self.mode,
            admins: self.admins.clone(),
            ssh_ports: self.ssh_ports.clone(),
            sets: sets.collect::<Result<_, _>>()?,
            chains: self.chains.clone(),
            probes: self.probes.clone(),
            without_ipv6: self.without_ipv6,
        })
    }
}

impl AddressSet {
    /// Whether it takes `net` from its dynamic sets.
    fn admits(&self, net: &IpNet) -> bool {
        self.within.is_empty() || self.within.iter().any(|bound| bound.contains(net))
    }

    /// Its own elements and those of its dynamic sets, which it names no more.
    fn with_dynamic(&self, dynamic: &DynamicSets) -> Result<AddressSet, Missing> {
        let mut elements = self.elements.clone();
        let mut expiring = self.expiring.clone();
        for name in &self.dynamic {
            let value = dynamic.get(name).ok_or_else(|| Missing(name.clone()))?;
            let family = self.name.family;
            let may = |net: &IpNet| Family::of(net) == family && self.admits(net);
            elements.extend(value.elements.iter().filter(|net| may(net)));
            expiring.extend(value.expiring.iter().filter(|one| may(&one.net)));
        }
        // Runs that ascend: a stable sort merges them.
        elements.sort();
        elements.dedup();
        let expiring = distinct(expiring, &elements);
        let mut set = AddressSet {
            name: self.name.clone(),
            owner: self.owner.clone(),
            max_elements: 0,
            elements,
            expiring,
            scheduled: self.scheduled.clone(),
            dynamic: Vec::new(),
            within: Vec::new(),
        };
        set.without_covered();
        set.make_room();
        set.max_elements = set.max_elements.max(self.max_elements);
        Ok(set)
    }
}
