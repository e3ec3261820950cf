//! How much of a ruleset's sets the kernel enforces, counted in the kernel.

use std::collections::HashMap;

use voipfleet_proto::v1 as pb;

use super::elements::{Stay, pairs};
use super::{KernelSet, Slack};
use crate::ruleset::{AddressSet, Ruleset, SetName};

/// Sets that are named: what is wrong with the first of them is wrong with the others.
const MAX_NAMED: usize = 16;

/// Elements that the kernel holds, of those that it should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetCount {
    /// Wanted and there. What others added is not counted.
    pub enforced: u64,
    /// Wanted, and not over.
    pub wanted: u64,
    /// The first sets that lack some.
    pub short: Vec<ShortSet>,
    /// Every set.
    each: Vec<ShortSet>,
}

impl SetCount {
    fn of(each: Vec<ShortSet>) -> Self {
        let short = each.iter().filter(|set| set.enforced < set.wanted);
        Self {
            enforced: each.iter().map(|set| set.enforced).sum(),
            wanted: each.iter().map(|set| set.wanted).sum(),
            short: short.take(MAX_NAMED).cloned().collect(),
            each,
        }
    }

    /// The same, after those sets were counted again that are in `newer`.
    #[must_use]
    pub fn recounted(&self, newer: &SetCount) -> Self {
        let again = |set: &ShortSet| newer.each.iter().find(|new| new.name == set.name).cloned();
        let each = self.each.iter();
        Self::of(
            each.map(|set| again(set).unwrap_or_else(|| set.clone()))
                .collect(),
        )
    }
}

/// A set that lacks elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortSet {
    /// Which.
    pub name: SetName,
    /// Its elements that are there.
    pub enforced: u64,
    /// Its elements that should be.
    pub wanted: u64,
}

/// Counts the elements of `wanted` in the sets `observed` at `now`, Unix time in seconds. An
/// element whose end has come to within seconds counts as long as it is there.
pub fn count_sets(wanted: &Ruleset, observed: &[KernelSet], now: u64) -> SetCount {
    let held: HashMap<&SetName, &KernelSet> = observed.iter().map(|set| (&set.name, set)).collect();
    let each = wanted.sets.iter();
    SetCount::of(
        each.map(|set| count_one(set, held.get(&set.name).copied(), now))
            .collect(),
    )
}

fn count_one(set: &AddressSet, held: Option<&KernelSet>, now: u64) -> ShortSet {
    let nothing = KernelSet {
        name: set.name.clone(),
        header: String::new(),
        elements: Vec::new(),
        expiring: Vec::new(),
    };
    let (mut enforced, mut wanted) = (0, 0);
    for pair in pairs(&set.at(now), held.unwrap_or(&nothing)) {
        let Some(end) = pair.wanted else {
            continue;
        };
        let is_there = pair.held.is_some();
        let counts = match end {
            _ if !is_there && Slack::DRIFT.may_begin(set, &pair.net, now) => false,
            Stay::ForEver => true,
            Stay::Until(until) => match until.left(now) {
                0 => false,
                left => is_there || !Slack::DRIFT.covers(left),
            },
        };
        enforced += u64::from(counts && is_there);
        wanted += u64::from(counts);
    }
    ShortSet {
        name: set.name.clone(),
        enforced,
        wanted,
    }
}

impl From<&SetCount> for pb::SetCount {
    fn from(count: &SetCount) -> Self {
        pb::SetCount {
            enforced: count.enforced,
            wanted: count.wanted,
            short: count
                .short
                .iter()
                .map(|set| pb::ShortSet {
                    set: set.name.kernel_name(),
                    enforced: set.enforced,
                    wanted: set.wanted,
                })
                .collect(),
        }
    }
}
