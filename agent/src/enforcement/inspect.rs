//! Compares the kernel with the ruleset that should run, and repairs differences.

use std::collections::BTreeMap;

use voipfleet_ruleset::drift::{Difference, DriftClass, DriftTable, compare_rules, compare_sets};
use voipfleet_ruleset::iptables::{SetCount, Slack, count_sets, set_renewal};
use voipfleet_ruleset::ruleset::Family;

use super::kernel_state::{KernelState, read_kernel};
use super::obstacles::Obstacles;
use super::openness::{Openness, openness};
use super::target::{EnforceError, RepairScope, Target};
use super::write::{self, Effort};
use crate::kernel::{Kernel, KernelError, Parts};
use crate::ledger::Confirmed;

/// The result of one inspection of the kernel.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Differences from the ruleset that should run; parts that could not be read have the class
    /// unreadable.
    pub differences: Vec<Difference>,
    /// The elements of the sets; none where they were not read.
    pub sets: Option<SetCount>,
    /// Input of `ipset restore` for timers that are off only because time passed.
    pub(crate) renewal: Option<String>,
    /// What could be read only by other means than iptables-save and ipset save.
    pub obstacles: Obstacles,
    /// Why packets come in that the ruleset does not let in, by family.
    pub open: BTreeMap<Family, Openness>,
    /// The state that was read.
    read: KernelState,
}

/// The time of an inspection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Unix time in seconds.
    pub(crate) now: u64,
    /// The clock was set since the last inspection.
    pub(crate) stepped: bool,
}

impl Moment {
    /// Now, with a clock that was not set.
    pub(crate) fn now(kernel: &dyn Kernel) -> Self {
        Self {
            now: kernel.now(),
            stepped: false,
        }
    }
}

impl Inspection {
    /// Whether all could be read and nothing differs.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }

    /// Whether a part could not be read.
    pub fn is_unreadable(&self) -> bool {
        let unreadable = |difference: &Difference| difference.class == DriftClass::Unreadable;
        self.differences.iter().any(unreadable)
    }

    /// Whether the rules of `family` could not be read.
    pub(crate) fn is_unreadable_in(&self, family: Family) -> bool {
        self.differences.iter().any(|difference| {
            difference.class == DriftClass::Unreadable
                && difference.table == DriftTable::Filter
                && difference.family == family
        })
    }

    /// Those of `parts` that could be read.
    pub(crate) fn readable(&self, parts: Parts) -> Parts {
        let mut differences = self.differences.iter();
        let sets_unreadable = differences.any(|difference| {
            difference.class == DriftClass::Unreadable && difference.table == DriftTable::Ipset
        });
        Parts {
            v4: parts.v4 && !self.is_unreadable_in(Family::V4),
            v6: parts.v6 && !self.is_unreadable_in(Family::V6),
            sets: parts.sets && !sets_unreadable,
        }
    }

    fn unreadable(&mut self, family: Family, table: DriftTable, why: &KernelError) {
        self.differences.push(Difference {
            observed: Some(why.to_string()),
            ..Difference::new(DriftClass::Unreadable, family, table, None)
        });
    }
}

/// Compares the kernel with the ruleset that should run.
pub fn inspect(kernel: &mut dyn Kernel, running: &Confirmed) -> Inspection {
    let moment = Moment::now(kernel);
    inspect_parts(kernel, running, Parts::ALL, moment)
}

/// Compares `parts` of the kernel with the ruleset that should run.
pub(crate) fn inspect_parts(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    parts: Parts,
    moment: Moment,
) -> Inspection {
    let mut inspection = Inspection::default();
    let needed = !running.effective().sets.is_empty();
    let mut read = read_kernel(kernel, parts.of(&running.ruleset), needed);
    inspection.obstacles = Obstacles::of(&mut read);
    read.tables.retain(|family, table| match table {
        Ok(observed) => {
            let wanted = running.canonical.of(*family);
            if let Some(why) = openness(running.ruleset.mode, wanted, observed) {
                inspection.open.insert(*family, why);
            }
            inspection
                .differences
                .extend(compare_rules(wanted, observed));
            true
        }
        Err(why) => {
            inspection.unreadable(*family, DriftTable::Filter, why);
            false
        }
    });
    match &read.sets {
        Some(Ok(observed)) => {
            let Moment { now, stepped } = moment;
            let ruleset = running.effective();
            let differences = compare_sets(ruleset, observed, now, Slack::DRIFT);
            inspection.differences.extend(differences);
            inspection.sets = Some(count_sets(ruleset, observed, now));
            inspection.renewal = set_renewal(ruleset, observed, now, stepped);
        }
        Some(Err(why)) => {
            inspection.unreadable(Family::V4, DriftTable::Ipset, why);
            read.sets = None;
        }
        None => {}
    }
    inspection.read = read;
    inspection
}

/// Puts back what differs, part by part. What cannot be read or what `scope` skips is left alone,
/// and does not keep the rest from being repaired.
pub(crate) fn repair(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    inspection: &mut Inspection,
    scope: RepairScope<'_>,
) -> Result<(), EnforceError> {
    let unreadable = |family: Family, table: DriftTable| {
        inspection.differences.iter().any(|difference| {
            difference.class == DriftClass::Unreadable
                && difference.table == table
                && (difference.family == family || table == DriftTable::Ipset)
        })
    };
    let target = Target {
        ruleset: running.effective(),
        failsafe: &running.failsafe,
        canonical: Some(&running.canonical),
        now: kernel.now(),
        scope,
    };
    let differs = |family: Family, table: DriftTable| {
        inspection.differences.iter().any(|difference| {
            difference.table == table && (difference.family == family || table == DriftTable::Ipset)
        })
    };
    let repairable =
        |family: Family, table: DriftTable| differs(family, table) && !unreadable(family, table);
    let sets = repairable(Family::V4, DriftTable::Ipset);
    let parts = Parts {
        v4: repairable(Family::V4, DriftTable::Filter),
        v6: repairable(Family::V6, DriftTable::Filter),
        sets,
    };
    let read = std::mem::take(&mut inspection.read);
    write::write_over(kernel, target, parts, Effort::AsFarAsPossible, read)
}
