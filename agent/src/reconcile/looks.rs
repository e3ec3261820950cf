//! When each part of the kernel was last seen as it should be: a change that nothing announced
//! may have stood since then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use voipfleet_ruleset::drift::{Difference, DriftTable};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::Parts;
use crate::mailbox::Change;

/// From when on a difference may have been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) at: Instant,
    /// That is when it was made, and not when it was not there yet.
    pub(super) announced: bool,
}

#[derive(Debug)]
pub(super) struct Looks {
    v4: Instant,
    v6: Instant,
    sets: Instant,
    /// The last quick look at the sets.
    quick: Option<Instant>,
    /// Sets that were seen to change since the last look at all sets, each with the last quick
    /// look before that.
    changed: BTreeMap<String, Instant>,
}

impl Looks {
    /// Everything is as it should be at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            v4: now,
            v6: now,
            sets: now,
            quick: None,
            changed: BTreeMap::new(),
        }
    }

    /// `parts` were inspected; what differs has a record from now on.
    pub(super) fn inspected(&mut self, parts: Parts, began: Instant) {
        if parts.v4 {
            self.v4 = began;
        }
        if parts.v6 {
            self.v6 = began;
        }
        if parts.sets {
            self.sets = began;
            self.changed.clear();
        }
    }

    /// A quick look at the rules saw them as before.
    pub(super) fn saw_rules(&mut self, family: Family, began: Instant) {
        match family {
            Family::V4 => self.v4 = began,
            Family::V6 => self.v6 = began,
        }
    }

    /// A quick look at the sets saw that these have changed since the last one.
    pub(super) fn saw_sets(&mut self, changed: BTreeSet<String>, readable: bool, began: Instant) {
        let before = self.quick.unwrap_or(self.sets);
        for name in changed {
            self.changed.entry(name).or_insert(before);
        }
        self.quick = readable.then_some(began);
    }

    /// From when on a difference may have been there that a look at `change` found.
    pub(super) fn since(&self, difference: &Difference, change: Option<&Change>) -> Since {
        let announced = change.filter(|change| {
            difference.table == DriftTable::Filter && change.touches(difference.family)
        });
        if let Some(change) = announced {
            return Since {
                at: change.noticed,
                announced: true,
            };
        }
        let at = match (difference.table, difference.family) {
            (DriftTable::Filter, Family::V4) => self.v4,
            (DriftTable::Filter, Family::V6) => self.v6,
            (DriftTable::Ipset, _) => {
                let name = difference.chain.as_deref().unwrap_or_default();
                let changed = self.changed.get(name).copied();
                changed.map_or(self.sets, |at| at.max(self.sets))
            }
        };
        Since {
            at,
            announced: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use voipfleet_ruleset::drift::DriftClass;

    use super::*;

    fn of_set(name: &str) -> Difference {
        let name = name.to_owned();
        Difference::new(DriftClass::Set, Family::V4, DriftTable::Ipset, name)
    }

    #[test]
    fn change_of_a_set_counts_from_the_last_look_that_would_have_seen_it() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut looks = Looks::new(start);
        for n in 1..=5 {
            looks.saw_sets(BTreeSet::new(), true, second(n));
        }
        looks.saw_sets(["vf-a-4".to_owned()].into(), true, second(6));
        assert_eq!(looks.since(&of_set("vf-a-4"), None).at, second(5));
        // Of a set whose number of elements is as before, only a whole look says more.
        assert_eq!(looks.since(&of_set("vf-b-4"), None).at, start);
        looks.inspected(Parts::ALL, second(6));
        assert_eq!(looks.since(&of_set("vf-b-4"), None).at, second(6));
        assert_eq!(looks.since(&of_set("vf-a-4"), None).at, second(6));
    }
}
