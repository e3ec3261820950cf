//! Quick looks: cheap reads, many times between two polls, that notice what nothing announces.
//!
//! ipset announces no change at all. Legacy iptables is watched at its lock, which a tool in
//! another mount namespace does not take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use voipfleet_ruleset::ruleset::Family;

use super::looks::Looks;
use crate::kernel::{Kernel, Parts, SetFingerprints};

/// The shortest interval: an outside change of what nothing announces is noticed within it.
const INTERVAL: Duration = Duration::from_secs(1);
/// An interval is so many times what a look costs: sets are read by the agent itself, rules by a
/// tool for each family, which takes 1 to 2 ms.
const SETS: u32 = 1000;
const RULES: u32 = 300;
/// Looks of which the quickest tells the cost: a busy machine makes others seem slower.
const REMEMBERED: usize = 8;

/// What was seen last, and when to look again.
#[derive(Debug)]
pub(super) struct QuickLook {
    /// With the agent's own writes until then: after another one, what was seen before it would
    /// hide a change back to it.
    sets: Option<(u64, SetFingerprints)>,
    rules: BTreeMap<Family, (u64, u64)>,
    of_sets: Turns,
    of_rules: Turns,
}

/// When one kind of look is due.
#[derive(Debug)]
struct Turns {
    shortest: Duration,
    /// How many times its cost the interval is at least.
    times: u32,
    next: Instant,
    costs: VecDeque<Duration>,
}

impl Turns {
    fn new(shortest: Duration, times: u32) -> Self {
        Self {
            shortest,
            times,
            next: Instant::now() + shortest,
            costs: VecDeque::new(),
        }
    }

    fn took(&mut self, began: Instant) {
        let now = Instant::now();
        if self.costs.len() == REMEMBERED {
            self.costs.pop_front();
        }
        self.costs.push_back(now.saturating_duration_since(began));
        let cost = self.costs.iter().min().copied().unwrap_or_default();
        let interval = cost.saturating_mul(self.times).max(self.shortest);
        // From its begin: a change right after it stands for one interval.
        self.next = (began + interval).max(now);
    }
}

impl QuickLook {
    /// Looks at least as often as the kernel is polled.
    pub(super) fn new(poll_interval: Duration) -> Self {
        let shortest = INTERVAL.min(poll_interval);
        Self {
            sets: None,
            rules: BTreeMap::new(),
            of_sets: Turns::new(shortest, SETS),
            of_rules: Turns::new(shortest, RULES),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.of_sets.next.min(self.of_rules.next)
    }

    /// Forgets what was seen: something else runs, or nothing.
    pub(super) fn forget(&mut self) {
        self.sets = None;
        self.rules.clear();
        self.put_off();
    }

    /// Looks an interval from now.
    pub(super) fn put_off(&mut self) {
        let now = Instant::now();
        for turns in [&mut self.of_sets, &mut self.of_rules] {
            turns.next = now + turns.shortest;
        }
    }

    /// Looks at what is due by `now`, and notes in `looks` what was as before. Returns the parts
    /// that were not.
    pub(super) fn run_due(
        &mut self,
        kernel: &mut dyn Kernel,
        looks: &mut Looks,
        now: Instant,
    ) -> Parts {
        let mut changed = Parts::NONE;
        if self.of_sets.next <= now {
            changed.sets = self.sets_changed(kernel, looks);
        }
        if self.of_rules.next <= now {
            let began = Instant::now();
            changed.v4 = self.rules_changed(kernel, looks, Family::V4);
            changed.v6 = self.rules_changed(kernel, looks, Family::V6);
            self.of_rules.took(began);
        }
        changed
    }

    /// Looks at the sets now.
    pub(super) fn sets_changed(&mut self, kernel: &mut dyn Kernel, looks: &mut Looks) -> bool {
        let began = Instant::now();
        let writes = kernel.writes();
        let seen = kernel.set_fingerprints().map(|seen| (writes, seen));
        let before = std::mem::replace(&mut self.sets, seen);
        let changed = match (&self.sets, before) {
            (Some((_, seen)), Some((before, sets))) if before == writes => {
                seen.changed_since(&sets)
            }
            // The first ones, of which nothing is known.
            (Some((_, seen)), _) => seen.changed_since(&SetFingerprints::default()),
            (None, _) => BTreeSet::new(),
        };
        let any = !changed.is_empty();
        looks.saw_sets(changed, self.sets.is_some(), began);
        self.of_sets.took(began);
        any
    }

    fn rules_changed(
        &mut self,
        kernel: &mut dyn Kernel,
        looks: &mut Looks,
        family: Family,
    ) -> bool {
        let began = Instant::now();
        let Some(seen) = kernel.rules_fingerprint(family) else {
            self.rules.remove(&family);
            return false;
        };
        let seen = (kernel.writes(), seen);
        let same = self.rules.insert(family, seen) == Some(seen);
        if same {
            looks.saw_rules(family, began);
        }
        !same
    }
}
