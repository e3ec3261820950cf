//! The task's part about drift: when to look, when to repair, what to tell.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::warn;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::drift::{Class, Difference, Subject};
use voipfleet_ruleset::ruleset::Family;

use super::Reconciler;
use super::contention::Contention;
use super::trial::running;
use crate::enforcement::inspect::{self, Inspection, Moment};
use crate::enforcement::repair_plan::How;
use crate::failpoint::{Step, Work, during, reach};
use crate::host::clock;
use crate::host::errors::chain;
use crate::kernel::{Kernel, Parts};
use crate::ledger::Confirmed;
use crate::mailbox::{Change, Outbox};

/// While something is fought over, the events of that family come by the hundred: so often at
/// most they are a reason to look.
const PACE: Duration = Duration::from_millis(100);

impl Reconciler {
    /// Takes a change up that was announced.
    pub(super) fn note(&mut self, change: Change) {
        match &mut self.pending {
            Some(pending) => pending.merge(&change),
            None => self.pending = Some(change),
        }
    }

    /// When to look at what was announced; none: nothing was.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let pending = self.pending.as_ref()?;
        let touched = |family: &Family| pending.touches(*family) && self.is_fought_over(*family);
        let fought = Family::BOTH.iter().any(touched);
        match self.last_look {
            Some(last) if fought => Some(last + PACE),
            _ => Some(pending.noticed),
        }
    }

    /// Whether rules of that family are left as they are for now.
    fn is_fought_over(&self, family: Family) -> bool {
        self.contention.is_waiting(Instant::now(), |subject| {
            subject.table != "ipset" && subject.family == family
        })
    }

    /// The changes that are to be looked at now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Change> {
        self.next_look()
            .filter(|at| *at <= now)
            .and_then(|_| self.pending.take())
    }

    /// Looks at the kernel because of a change, or because it is time to.
    pub(super) fn look(&mut self, change: Option<&Change>) {
        self.look_and_repair(change);
        self.kernel.expect_restore(&[]);
    }

    fn look_and_repair(&mut self, change: Option<&Change>) {
        let noticed = change.map_or_else(Instant::now, |change| change.noticed);
        if self.live.deadline().is_some() {
            self.finish_live(); // what is not in force yet is nobody's drift
        }
        if self.course.undo_is_due() {
            self.contention = Contention::default();
            return; // there is nothing to compare with until it is undone
        }
        if self.trial.is_none() && self.fallback.is_some() {
            self.contention = Contention::default();
            self.hold();
            return;
        }
        // In a trial, what is tried counts: a repair must not end it by going back.
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            self.contention = Contention::default();
            return;
        };
        let parts = self.parts_to_read(change);
        if let Some(change) = change {
            // While the rules are read, the tool that will repair them starts beside it. In a
            // fight, nothing is likely.
            let reached =
                |family: &Family| change.reaches_ours(*family) && !self.is_fought_over(*family);
            let families: Vec<Family> = Family::BOTH.into_iter().filter(reached).collect();
            self.kernel.expect_restore(&families);
        }
        let mut moment = Moment::now();
        if parts.sets {
            moment.stepped = self.steps.stepped(clock::now(), Instant::now());
        }
        let found = renewed(&mut *self.kernel, running, parts, moment);
        self.counted(&found);
        let now = Instant::now();
        self.last_look = Some(now);
        self.contention.looked(now, &found.differences, |subject| {
            parts.covers(subject.table, subject.family)
        });
        let at_ms = clock::unix_ms(clock::now());
        // What others put right is no longer drift; it is on record as not repaired by us.
        self.standing
            .found(&found.differences, parts, change, noticed, at_ms);
        if found.is_clean() && parts == Parts::ALL {
            self.not_in_force = None;
        }
        let waiting = self.contention.drifted(now, &found.differences, |family| {
            change.and_then(|change| change.author(family).cloned())
        });
        let repairs = |difference: &Difference| {
            difference.class != Class::Unreadable && !waiting.contains(&difference.subject())
        };
        if found.differences.iter().any(repairs) {
            self.repair(found, parts, &waiting, at_ms);
        } else if !found.is_clean() {
            self.tell_records();
        }
        self.tell_drift();
    }

    /// What of the kernel can be another than at the last look. A change of rules is none of
    /// sets; and where anything stands out that should have been repaired, all of it is read, so
    /// that nothing is forgotten.
    fn parts_to_read(&self, change: Option<&Change>) -> Parts {
        let now = Instant::now();
        let left_alone = |difference: &Difference| {
            let subject = difference.subject();
            self.contention.is_waiting(now, |of| *of == subject)
        };
        match change {
            Some(change) if self.standing.is_only(left_alone) && self.not_in_force.is_none() => {
                Parts {
                    v4: change.touches(Family::V4),
                    v6: change.touches(Family::V6),
                    sets: false,
                }
            }
            _ => Parts::ALL,
        }
    }

    /// Puts right what was found in `parts`, but for what is `waiting`.
    fn repair(&mut self, found: Inspection, parts: Parts, waiting: &BTreeSet<Subject>, at_ms: u64) {
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        let _work = during(Work::Repair);
        reach(Step::Found);
        let kernel = &mut *self.kernel;
        let mut tried = found.differences.clone();
        tried.retain(|d| d.class != Class::Unreadable && !waiting.contains(&d.subject()));
        let spared = How {
            spared: Some(waiting),
            whole_chains: false,
            patience: How::REPAIR_PATIENCE,
        };
        let (mut left, mut why) = mend(kernel, running, found, parts, spared);
        let mut looked_at = parts;
        for whole_chains in [false, true] {
            if !tried.iter().any(|d| left.differences.contains(d)) {
                break;
            }
            // What was not looked at or spared, or changed since, may have been in the way: rules
            // do not load while a set that they name is gone, and no kernel event tells of sets.
            // What is new has an event of its own on the way, which names its author.
            let all = inspect::inspect(kernel, running);
            looked_at = Parts::ALL;
            let now = Instant::now();
            let records = self.standing.repaired(&all.differences, looked_at, now);
            record(&self.outbox, records);
            self.standing
                .found(&all.differences, looked_at, None, now, at_ms);
            for difference in &all.differences {
                if difference.class != Class::Unreadable && !tried.contains(difference) {
                    tried.push(difference.clone());
                }
            }
            let how = How {
                spared: None,
                whole_chains,
                patience: How::REPAIR_PATIENCE,
            };
            (left, why) = mend(kernel, running, all, looked_at, how);
        }
        self.unrepaired = why;
        let now = Instant::now();
        self.counted(&left);
        self.contention.repaired(now, &tried);
        let records = self.standing.repaired(&left.differences, looked_at, now);
        record(&self.outbox, records);
        if !tried.is_empty() {
            self.flows.had_gap();
        }
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
            inspect::inspect_parts(&mut *self.kernel, running, parts, Moment::now()).sets
        });
    }

    /// What runs was just proved.
    pub(super) fn is_clean_now(&mut self) {
        if self.live.is_in_force() {
            self.flows.had_gap();
        }
        self.not_in_force = None;
        let now = Instant::now();
        self.contention.looked(now, &[], |_| true);
        self.standing.found(&[], Parts::ALL, None, now, 0);
        self.drift = self.drift_state();
    }

    fn tell_records(&mut self) {
        record(&self.outbox, self.standing.untold());
    }

    fn drift_state(&self) -> pb::DriftState {
        if !self.standing.is_only(|d| d.class != Class::Unreadable) {
            pb::DriftState::Unreadable
        } else if self.contention.is_contended() {
            pb::DriftState::Contended
        } else if self.standing.is_empty() {
            pb::DriftState::Clean
        } else {
            pb::DriftState::Drifted
        }
    }

    fn tell_drift(&mut self) {
        self.drift = self.drift_state();
        let told = self.outbox.last_status();
        let detail = self.drift_detail();
        if told.drift == i32::from(self.drift)
            && told.drift_detail == detail
            && told.sets == self.told_sets()
        {
            return;
        }
        if !detail.is_empty() && told.drift_detail != detail {
            warn!(reason = detail.replace('\n', " "), "drift stands");
        }
        self.tell(0, None);
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
    let found = inspect::inspect_parts(kernel, running, parts, moment);
    if found.renewal.is_empty() {
        return found;
    }
    if let Err(error) = kernel.ipset_restore(&found.renewal) {
        warn!(
            reason = chain(&error),
            "timers of set elements were not renewed"
        );
    }
    inspect::inspect_parts(kernel, running, parts, Moment::now())
}

/// Repairs what was found in `parts`, and says what is left and why.
fn mend(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    mut found: Inspection,
    parts: Parts,
    how: How<'_>,
) -> (Inspection, String) {
    let mut why = String::new();
    if let Err(error) = inspect::repair(kernel, running, &mut found, how) {
        why = chain(&error);
        warn!(reason = why, "drift was not repaired");
    }
    let left = inspect::inspect_parts(kernel, running, parts, Moment::now());
    (left, why)
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
