//! The task's part about drift: when to look, when to repair, what to tell.

use std::time::Instant;

use tracing::warn;
use voipfleet_common::ruleset::Family;
use voipfleet_proto::v1 as pb;

use super::check::{self, Inspection, Moment};
use super::contention::Permission;
use super::trial::running;
use super::{Change, Outbox, Reconciler};
use crate::clock;
use crate::errors::chain;
use crate::failpoint::{Step, Work, during, reach};
use crate::kernel::{Kernel, Parts};
use crate::ledger::Confirmed;

impl Reconciler {
    /// Looks at the kernel because of a change, or because it is time to.
    pub(super) fn look(&mut self, change: Option<&Change>) {
        self.look_and_repair(change);
        self.kernel.expect_restore(&[]);
    }

    fn look_and_repair(&mut self, change: Option<&Change>) {
        let noticed = change.map_or_else(Instant::now, |change| change.noticed);
        if self.course.undo_is_due() {
            return; // there is nothing to compare with until it is undone
        }
        if self.trial.is_none() && self.fallback.is_some() {
            self.hold();
            return;
        }
        // In a trial, what is tried counts: a repair must not end it by going back.
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        // In a fight the events come by the hundred: the next look is when its time comes.
        if self
            .contention
            .deadline()
            .is_some_and(|at| Instant::now() < at)
        {
            return;
        }
        let parts = self.parts_to_read(change);
        if let Some(change) = change {
            // While the rules are read, the tool that will repair them starts beside it.
            let reached = |family: &Family| change.reaches_ours(*family);
            let families: Vec<Family> = Family::BOTH.into_iter().filter(reached).collect();
            self.kernel.expect_restore(&families);
        }
        let mut moment = Moment::now();
        if parts.sets {
            moment.stepped = self.steps.stepped(clock::now(), Instant::now());
        }
        let found = renewed(&mut *self.kernel, running, parts, moment);
        self.counted(&found);
        if found.is_clean() {
            self.is_clean_now();
            self.tell_drift(pb::DriftState::Clean);
            return;
        }
        let at_ms = clock::unix_ms(clock::now());
        self.standing
            .found(&found.differences, change, noticed, at_ms);
        let again = !self.last_repair.is_empty()
            && self
                .last_repair
                .iter()
                .all(|d| found.differences.contains(d));
        match self.contention.drifted(Instant::now(), again) {
            Permission::Repair => self.repair(found, parts, at_ms),
            Permission::Wait(until) => {
                let wait = until.saturating_duration_since(Instant::now());
                warn!(
                    seconds = wait.as_secs(),
                    "something keeps undoing the rules; waiting before the next repair"
                );
                self.tell_records();
                self.tell_drift(pb::DriftState::Contended);
            }
        }
    }

    /// What of the kernel can be another than at the last look. A change of rules is none of
    /// sets; and where anything stood out, all of it is read, so that nothing is forgotten.
    fn parts_to_read(&self, change: Option<&Change>) -> Parts {
        match change {
            Some(change) if self.standing.is_empty() && self.not_in_force.is_none() => Parts {
                v4: change.touches(Family::V4),
                v6: change.touches(Family::V6),
                sets: false,
            },
            _ => Parts::ALL,
        }
    }

    fn repair(&mut self, found: Inspection, parts: Parts, at_ms: u64) {
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        let _work = during(Work::Repair);
        reach(Step::Found);
        let kernel = &mut *self.kernel;
        self.last_repair.clone_from(&found.differences);
        let mut left = mend(kernel, running, found, parts);
        let refused = self
            .last_repair
            .iter()
            .any(|d| left.differences.contains(d));
        if refused && (parts != Parts::ALL || left.differences != self.last_repair) {
            // What was not looked at, or changed since, may have been in the way: rules do not
            // load while a set that they name is gone, and no kernel event tells of sets. What
            // is new has an event of its own on the way, which names its author.
            let all = check::inspect(kernel, running);
            let now = Instant::now();
            record(&self.outbox, self.standing.repaired(&all.differences, now));
            self.standing.found(&all.differences, None, now, at_ms);
            left = mend(kernel, running, all, Parts::ALL);
        }
        let now = Instant::now();
        self.counted(&left);
        self.contention.repaired(now);
        record(&self.outbox, self.standing.repaired(&left.differences, now));
        let state = if left.is_unreadable() {
            pb::DriftState::Unreadable
        } else if self.contention.is_contended() {
            pb::DriftState::Contended
        } else if left.is_clean() {
            pb::DriftState::Clean
        } else {
            pb::DriftState::Drifted
        };
        self.tell_drift(state);
    }

    /// Keeps what was counted; where sets could not be read, nothing is known of them.
    fn counted(&mut self, found: &Inspection) {
        if found.sets.is_some() || found.is_unreadable() {
            self.sets.clone_from(&found.sets);
        }
    }

    /// Counts the elements in the kernel where no look did.
    pub(super) fn count_sets(&mut self) {
        let parts = Parts {
            v4: false,
            v6: false,
            sets: true,
        };
        let running = running(self.trial.as_ref(), self.confirmed.as_ref());
        self.sets = running.and_then(|running| {
            check::inspect_parts(&mut *self.kernel, running, parts, Moment::now()).sets
        });
    }

    pub(super) fn is_clean_now(&mut self) {
        self.not_in_force = None;
        self.contention.clean(Instant::now());
        if !self.contention.is_contended() {
            self.last_repair.clear();
        }
        // What others put right is no longer drift; it is on record as not repaired by us.
        self.standing.found(&[], None, Instant::now(), 0);
        if !self.contention.is_contended() {
            self.drift = pb::DriftState::Clean;
        }
    }

    fn tell_records(&mut self) {
        record(&self.outbox, self.standing.untold());
    }

    fn tell_drift(&mut self, state: pb::DriftState) {
        let state = match state {
            pb::DriftState::Clean if self.contention.is_contended() => pb::DriftState::Contended,
            state => state,
        };
        let told = self.outbox.last_status();
        self.drift = state;
        if told.drift != i32::from(state) || told.sets != self.told_sets() {
            self.tell(0, None);
        }
    }
}

/// Looks at `parts`, and sets timers right that only the course of time put wrong: that is
/// nobody's drift.
fn renewed(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    parts: Parts,
    moment: Moment,
) -> Inspection {
    let found = check::inspect_parts(kernel, running, parts, moment);
    if found.renewal.is_empty() {
        return found;
    }
    if let Err(error) = kernel.ipset_restore(&found.renewal) {
        warn!(
            reason = chain(&error),
            "timers of set elements were not renewed"
        );
    }
    check::inspect_parts(kernel, running, parts, Moment::now())
}

/// Repairs what was found in `parts`, and says what is left.
fn mend(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    mut found: Inspection,
    parts: Parts,
) -> Inspection {
    if let Err(error) = check::repair(kernel, running, &mut found) {
        warn!(reason = chain(&error), "drift was not repaired");
    }
    check::inspect_parts(kernel, running, parts, Moment::now())
}

fn record(outbox: &Outbox, records: Vec<pb::DriftRecord>) {
    for record in records {
        log_drift(&record);
        outbox.record(record);
    }
}

fn log_drift(record: &pb::DriftRecord) {
    let class = record.class().as_str_name();
    let class = class
        .trim_start_matches("DRIFT_CLASS_")
        .to_ascii_lowercase();
    warn!(
        class,
        chain = record.chain,
        rule = record.rule,
        by = record.by.as_ref().map(|author| author.comm.as_str()),
        started_by = record
            .by
            .as_ref()
            .and_then(|author| author.started_by.as_ref())
            .map(|starter| starter.comm.as_str()),
        repaired_after_ms = record.repaired_after_ms,
        "drift"
    );
}
