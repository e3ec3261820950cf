//! Members of sets, before and after.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{
    AddressSet, DynamicSetName, Family, Ruleset, SetName, SetStem, Until,
};

use super::lines::{Lines, set_word};
use super::owners::Owners;
use super::{Member, NodeChange, SetChange};

/// A member with when it comes and when it leaves.
type Dated = (IpNet, Option<Until>, Option<Until>);

/// A distinct set.
pub(super) type Id = usize;

/// Sets by content: equal sets of several nodes are held once.
#[derive(Debug, Default)]
pub(super) struct Pool<'r> {
    sets: Vec<&'r AddressSet>,
    by_name: BTreeMap<&'r SetName, Vec<Id>>,
}

impl<'r> Pool<'r> {
    pub(super) fn id(&mut self, set: &'r AddressSet) -> Id {
        let ids = self.by_name.entry(&set.name).or_default();
        let alike = |id: &&Id| {
            let known = self.sets.get(**id);
            known.is_some_and(|known| {
                known.elements == set.elements
                    && known.expiring == set.expiring
                    && known.scheduled == set.scheduled
                    && known.dynamic == set.dynamic
                    && known.within == set.within
            })
        };
        // Neighbours are most often alike.
        if let Some(id) = ids.iter().rev().find(alike) {
            return *id;
        }
        let id = self.sets.len();
        self.sets.push(set);
        ids.push(id);
        id
    }

    pub(super) fn get(&self, id: Id) -> Option<&'r AddressSet> {
        self.sets.get(id).copied()
    }

    fn ids(&mut self, ruleset: Option<&'r Ruleset>) -> BTreeMap<&'r SetStem, [Option<Id>; 2]> {
        let mut ids: BTreeMap<&SetStem, [Option<Id>; 2]> = BTreeMap::new();
        for set in ruleset.into_iter().flat_map(|ruleset| &ruleset.sets) {
            let id = self.id(set);
            let [v4, v6] = ids.entry(&set.name.stem).or_default();
            match set.name.family {
                Family::V4 => *v4 = Some(id),
                Family::V6 => *v6 = Some(id),
            }
        }
        ids
    }
}

type Both = [Option<Id>; 2];

/// The sets that changed, alike on several nodes once.
#[derive(Debug, Default)]
pub(super) struct Changed<'r> {
    changed: BTreeMap<(&'r SetStem, Both, Both), On>,
}

#[derive(Debug, Default)]
struct On {
    users: BTreeSet<String>,
    nodes: Vec<NodeName>,
}

impl<'r> Changed<'r> {
    /// Compares the sets of a node; whether any changed.
    pub(super) fn compare(
        &mut self,
        change: &NodeChange<'r>,
        was: &Lines,
        now: &Lines,
        pool: &mut Pool<'r>,
    ) -> bool {
        let before = pool.ids(change.before);
        let after = pool.ids(Some(change.after));
        let stems: BTreeSet<&SetStem> = before.keys().chain(after.keys()).copied().collect();
        let mut any = false;
        for stem in stems {
            let [old, new] =
                [&before, &after].map(|ids| ids.get(stem).copied().unwrap_or_default());
            if old == new {
                continue;
            }
            any = true;
            let on = self.changed.entry((stem, old, new)).or_default();
            on.users.extend(now.users(stem).cloned());
            if on.users.is_empty() {
                on.users.extend(was.users(stem).cloned());
            }
            on.nodes.push(change.node.clone());
        }
        any
    }

    /// What changed, with who asked for it.
    pub(super) fn changes(
        self,
        pool: &Pool<'_>,
        before: &Owners,
        after: &Owners,
    ) -> Vec<SetChange> {
        let mut changes = Vec::new();
        for ((stem, old, new), on) in self.changed {
            let members = |ids: Both| -> Vec<Dated> {
                let sets = ids.into_iter().flatten().filter_map(|id| pool.get(id));
                sets.flat_map(members).collect()
            };
            let dynamic = |ids: Both| -> Vec<DynamicSetName> {
                let sets = ids.into_iter().flatten().filter_map(|id| pool.get(id));
                let names: BTreeSet<&DynamicSetName> = sets.flat_map(|set| &set.dynamic).collect();
                names.into_iter().cloned().collect()
            };
            let mut both = new.into_iter().chain(old).flatten();
            let of = both.find_map(|id| pool.get(id)?.owner.as_ref());
            let (dynamic_old, dynamic_new) = (dynamic(old), dynamic(new));
            let only =
                |these: &[DynamicSetName], others: &[DynamicSetName]| -> Vec<DynamicSetName> {
                    let these = these.iter().filter(|name| !others.contains(name));
                    these.cloned().collect()
                };
            let (old, new) = (members(old), members(new));
            let (gone, come) = difference(&old, &new);
            let owned = |owners: &Owners, members: Vec<Dated>| {
                let member = |(net, from, until)| Member {
                    net,
                    from,
                    until,
                    owners: of.map_or_else(Vec::new, |set| owners.of_member(set, &net)),
                };
                members.into_iter().map(member).collect()
            };
            changes.push(SetChange {
                set: set_word(stem, of),
                used_by: on.users.into_iter().collect(),
                added: owned(after, come),
                removed: owned(before, gone),
                dynamic_added: only(&dynamic_new, &dynamic_old),
                dynamic_removed: only(&dynamic_old, &dynamic_new),
                before: old.len(),
                after: new.len(),
                nodes: on.nodes,
            });
        }
        changes
    }
}

/// The members of a set, ascending.
fn members(set: &AddressSet) -> Vec<Dated> {
    let mut members: Vec<Dated> = Vec::with_capacity(set.len());
    members.extend(set.elements.iter().map(|net| (*net, None, None)));
    if !set.expiring.is_empty() || !set.scheduled.is_empty() {
        let ending = set.expiring.iter();
        members.extend(ending.map(|one| (one.net, None, Some(one.until))));
        let beginning = set.scheduled.iter();
        members.extend(beginning.map(|one| (one.net, Some(one.from), one.until)));
        members.sort_unstable();
    }
    members
}

/// What is only in the first, and only in the second; both ascending and distinct.
pub(super) fn difference<T: Ord + Copy>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return (gone, come),
            (Some(_), None) => gone.extend(left.by_ref()),
            (None, Some(_)) => come.extend(right.by_ref()),
            (Some(a), Some(b)) => match a.cmp(b) {
                Ordering::Less => gone.extend(left.next()),
                Ordering::Greater => come.extend(right.next()),
                Ordering::Equal => {
                    left.next();
                    right.next();
                }
            },
        }
    }
}
