//! From some dynamic sets to newer ones: what was added and removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{DynamicSet, DynamicSetName, DynamicSets, InvalidDynamicSets};
use crate::ruleset::Expiring;

/// From some dynamic sets of a site to newer ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DynamicSetsDelta {
    /// The sources that change.
    pub changes: BTreeMap<DynamicSetName, DynamicSetChange>,
}

/// What becomes of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DynamicSetChange {
    /// It is no source of the site any more.
    Gone,
    /// It changes; one that was not there begins empty. Each list ascends, without repeats.
    Changed {
        /// Prefixes that stay from now on.
        add: Vec<IpNet>,
        /// Prefixes that end from now on, or with another end.
        add_expiring: Vec<Expiring>,
        /// Prefixes that it holds no more, whether they stayed or ended.
        remove: Vec<IpNet>,
    },
}

impl DynamicSetsDelta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The number of prefixes in it.
    pub fn len(&self) -> usize {
        self.changes
            .values()
            .map(|change| match change {
                DynamicSetChange::Gone => 0,
                DynamicSetChange::Changed {
                    add,
                    add_expiring,
                    remove,
                } => add.len() + add_expiring.len() + remove.len(),
            })
            .sum()
    }
}

impl DynamicSets {
    /// What leads from `old` to these.
    pub fn delta_from(&self, old: &DynamicSets) -> DynamicSetsDelta {
        let mut changes = BTreeMap::new();
        for name in old.sources.keys() {
            if !self.sources.contains_key(name) {
                changes.insert(name.clone(), DynamicSetChange::Gone);
            }
        }
        let nothing = DynamicSet::default();
        for (name, new) in &self.sources {
            let before = old.sources.get(name);
            if before.is_some_and(|old| Arc::ptr_eq(old, new) || old == new) {
                continue;
            }
            let change = change(before.map_or(&nothing, AsRef::as_ref), new);
            changes.insert(name.clone(), change);
        }
        DynamicSetsDelta { changes }
    }

    /// What `delta` makes of these; an error where it is not from these. The caller
    /// compares the digest of the result where it knows it.
    pub fn apply_delta(&self, delta: &DynamicSetsDelta) -> Result<DynamicSets, InvalidDynamicSets> {
        let mut new = self.clone();
        for (name, change) in &delta.changes {
            match change {
                DynamicSetChange::Gone => {
                    if new.sources.remove(name).is_none() {
                        return Err(not_from_these(name));
                    }
                }
                DynamicSetChange::Changed {
                    add,
                    add_expiring,
                    remove,
                } => {
                    let old = self.get(name).cloned().unwrap_or_default();
                    let value = changed(old, add, add_expiring, remove)
                        .ok_or_else(|| not_from_these(name))?;
                    new.insert(name.clone(), value);
                }
            }
        }
        new.check()?;
        Ok(new)
    }
}

fn not_from_these(name: &DynamicSetName) -> InvalidDynamicSets {
    InvalidDynamicSets::new(format!("a change of {name} is not one of what is held"))
}

fn change(old: &DynamicSet, new: &DynamicSet) -> DynamicSetChange {
    let stayed = |net: &IpNet| old.elements.binary_search(net).is_ok();
    let ended = |one: &Expiring| old.expiring.binary_search(one).is_ok();
    let gone = |net: &&IpNet| {
        new.elements.binary_search(net).is_err()
            && new
                .expiring
                .binary_search_by_key(*net, |one| one.net)
                .is_err()
    };
    let mut remove: Vec<IpNet> = old.elements.iter().filter(gone).copied().collect();
    let ending = old.expiring.iter().map(|one| &one.net);
    remove.extend(ending.filter(gone));
    remove.sort();
    DynamicSetChange::Changed {
        add: copied(new.elements.iter().filter(|net| !stayed(net))),
        add_expiring: copied(new.expiring.iter().filter(|one| !ended(one))),
        remove,
    }
}

fn copied<'a, T: Copy + 'a>(all: impl Iterator<Item = &'a T>) -> Vec<T> {
    all.copied().collect()
}

/// None: what is to be removed is not there, or what is to be added is.
fn changed(
    old: DynamicSet,
    add: &[IpNet],
    add_expiring: &[Expiring],
    remove: &[IpNet],
) -> Option<DynamicSet> {
    let held = |net: &IpNet| {
        old.elements.binary_search(net).is_ok()
            || old
                .expiring
                .binary_search_by_key(net, |one| one.net)
                .is_ok()
    };
    let is_new = |net: &IpNet| old.elements.binary_search(net).is_err();
    if !remove.iter().all(held) || !add.iter().all(is_new) {
        return None;
    }
    let removed = |net: &IpNet| remove.binary_search(net).is_ok();
    let added = |net: &IpNet| add.binary_search(net).is_ok();
    let ends = |net: &IpNet| {
        add_expiring
            .binary_search_by_key(net, |one| one.net)
            .is_ok()
    };
    if add.iter().any(|net| removed(net) || ends(net))
        || add_expiring.iter().any(|one| removed(&one.net))
    {
        return None;
    }
    let DynamicSet {
        mut elements,
        mut expiring,
    } = old;
    elements.retain(|net| !removed(net) && !ends(net));
    elements.extend(add);
    elements.sort();
    expiring.retain(|one| !removed(&one.net) && !added(&one.net) && !ends(&one.net));
    expiring.extend(add_expiring);
    expiring.sort();
    Some(DynamicSet { elements, expiring })
}
