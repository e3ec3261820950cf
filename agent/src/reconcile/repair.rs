//! Repairs of drift, and how they back off from whatever keeps reverting them.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::warn;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::drift::{Difference, DriftClass, DriftSubject};
use voipfleet_ruleset::ruleset::Family;

use super::contention::Contention;
use super::drift_records::{DriftRecords, send_records};
use super::looks::Looks;
use crate::enforcement::inspect::{self, Inspection, Moment};
use crate::enforcement::target::RepairScope;
use crate::failpoint::{Step, Work, during, reach};
use crate::kernel::{Author, Kernel, Parts};
use crate::ledger::Confirmed;
use crate::mailbox::Outbox;

/// Repairs, and their contention.
#[derive(Debug, Default)]
pub(super) struct Repair {
    contention: Contention,
    /// Why the last repair left something.
    unrepaired: Option<String>,
}

/// The result of an inspection.
pub(super) struct Findings<'a> {
    pub(super) inspection: Inspection,
    /// The parts that were inspected.
    pub(super) parts: Parts,
    /// Chains and sets whose repair waits.
    pub(super) waiting: &'a BTreeSet<DriftSubject>,
    /// When the parts were looked at before.
    pub(super) looks: &'a Looks,
    /// Unix time in milliseconds.
    pub(super) at_ms: u64,
}

impl Repair {
    /// When a wait between two repairs ends, or contention is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.contention.deadline()
    }

    /// Whether a repair of something of this kind waits.
    pub(super) fn is_waiting(&self, now: Instant, of: impl Fn(&DriftSubject) -> bool) -> bool {
        self.contention.is_waiting(now, of)
    }

    pub(super) fn is_contended(&self) -> bool {
        self.contention.is_contended()
    }

    /// Something else runs: earlier contention does not count any more.
    pub(super) fn forget(&mut self) {
        self.contention = Contention::default();
    }

    /// Everything that was inspected, except what was `found`, is as it should be.
    pub(super) fn checked(
        &mut self,
        now: Instant,
        found: &[Difference],
        inspected: impl Fn(&DriftSubject) -> bool,
    ) {
        self.contention.checked(now, found, inspected);
    }

    /// Chains and sets whose repair waits.
    pub(super) fn waiting(
        &mut self,
        now: Instant,
        found: &[Difference],
        by: impl Fn(Family) -> Option<Author>,
    ) -> BTreeSet<DriftSubject> {
        self.contention.drifted(now, found, by)
    }

    /// Describes contention and, where there `is_drift`, why the last repair left it.
    pub(super) fn describe(&self, is_drift: bool) -> Option<String> {
        let contended = self.contention.describe();
        let unrepaired = self.unrepaired.as_ref().filter(|_| is_drift);
        let unrepaired = unrepaired.map(|why| format!("not repaired: {why}"));
        let lines: Vec<String> = contended.into_iter().chain(unrepaired).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Puts right what was found, except what waits. Returns what is left.
    pub(super) fn run(
        &mut self,
        kernel: &mut dyn Kernel,
        running: &Confirmed,
        found: Findings<'_>,
        records: &mut DriftRecords,
        outbox: &Outbox,
    ) -> Inspection {
        let Findings {
            inspection,
            mut parts,
            waiting,
            looks,
            at_ms,
        } = found;
        let _work = during(Work::Repair);
        reach(Step::DriftFound);
        let mut tried = inspection.differences.clone();
        tried.retain(|d| d.class != DriftClass::Unreadable && !waiting.contains(&d.subject()));
        let scope = RepairScope {
            skip: Some(waiting),
            rewrite_chains: false,
            release_timeout: RepairScope::REPAIR_RELEASE_TIMEOUT,
        };
        let (mut left, mut why) = repair_once(kernel, running, inspection, parts, scope);
        for rewrite_chains in [false, true] {
            if !tried.iter().any(|d| left.differences.contains(d)) {
                break;
            }
            // Something that was not inspected, was skipped, or changed since may have been in
            // the way: rules do not load while a set that they name is missing, and no kernel
            // event announces sets. A new difference has an event of its own on the way, which
            // names its author.
            let all = inspect::inspect(kernel, running);
            parts = Parts::ALL;
            let now = Instant::now();
            send_records(outbox, records.repaired(&all.differences, parts, now));
            let since = |difference: &Difference| looks.since(difference, None);
            records.found(&all.differences, parts, None, since, at_ms);
            for difference in &all.differences {
                if difference.class != DriftClass::Unreadable && !tried.contains(difference) {
                    tried.push(difference.clone());
                }
            }
            let scope = RepairScope {
                skip: None,
                rewrite_chains,
                release_timeout: RepairScope::REPAIR_RELEASE_TIMEOUT,
            };
            (left, why) = repair_once(kernel, running, all, parts, scope);
        }
        self.unrepaired = why;
        let now = Instant::now();
        self.contention.repaired(now, &tried);
        send_records(outbox, records.repaired(&left.differences, parts, now));
        left
    }
}

/// Repairs what was found in `parts`. Returns what is left, and why.
fn repair_once(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    mut found: Inspection,
    parts: Parts,
    scope: RepairScope<'_>,
) -> (Inspection, Option<String>) {
    let why = inspect::repair(kernel, running, &mut found, scope).err();
    let why = why.map(|error| chain(&error));
    if let Some(why) = &why {
        warn!(reason = why, "drift not repaired");
    }
    let moment = Moment::now(kernel);
    let left = inspect::inspect_parts(kernel, running, parts, moment);
    (left, why)
}
