//! The task's part about drift: when to look, when to repair, what to tell.

use std::time::Instant;

use tracing::warn;
use voipfleet_proto::v1 as pb;

use super::Reconciler;
use super::check::{self, Inspection};
use super::contention::Permission;
use crate::clock;
use crate::errors::chain;
use crate::kernel::Author;

impl Reconciler {
    /// Looks at the kernel because of a change, or because it is time to.
    pub(super) fn look(&mut self, author: Option<&Author>, noticed: Instant) {
        if self.undo_is_due {
            return; // there is nothing to compare with until it is undone
        }
        let Some(confirmed) = &self.confirmed else {
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
        let found = check::inspect(&mut *self.kernel, confirmed);
        if found.is_clean() {
            self.is_clean_now();
            self.tell_drift(pb::DriftState::Clean);
            return;
        }
        let at_ms = clock::unix_ms(clock::now());
        self.standing
            .found(&found.differences, author, noticed, at_ms);
        let again = !self.last_repair.is_empty()
            && self
                .last_repair
                .iter()
                .all(|d| found.differences.contains(d));
        match self.contention.drifted(Instant::now(), again) {
            Permission::Repair => self.repair(&found),
            Permission::Wait(until) => {
                let wait = until.saturating_duration_since(Instant::now());
                warn!(
                    by = author.map(|author| author.comm.as_str()),
                    seconds = wait.as_secs(),
                    "something keeps undoing the rules; waiting before the next repair"
                );
                self.tell_records();
                self.tell_drift(pb::DriftState::Contended);
            }
        }
    }

    fn repair(&mut self, found: &Inspection) {
        let Some(confirmed) = &self.confirmed else {
            return;
        };
        if let Err(error) = check::repair(&mut *self.kernel, confirmed, found) {
            warn!(reason = chain(&error), "drift was not repaired");
        }
        let left = check::inspect(&mut *self.kernel, confirmed);
        let now = Instant::now();
        self.contention.repaired(now);
        self.last_repair.clone_from(&found.differences);
        for record in self.standing.repaired(&left.differences, now) {
            log_drift(&record);
            self.outbox.record(record);
        }
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
        for record in self.standing.untold() {
            log_drift(&record);
            self.outbox.record(record);
        }
    }

    fn tell_drift(&mut self, state: pb::DriftState) {
        let state = match state {
            pb::DriftState::Clean if self.contention.is_contended() => pb::DriftState::Contended,
            state => state,
        };
        let told = self.outbox.last_status().drift;
        self.drift = state;
        if told != i32::from(state) {
            self.tell(0, None);
        }
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
        repaired_after_ms = record.repaired_after_ms,
        "drift"
    );
}
