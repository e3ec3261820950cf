//! Records of drift: one when a difference is found, and again when it is repaired.

use std::time::{Duration, Instant};

use tracing::warn;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::drift::{Difference, DriftTable};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{Author, Parts};
use crate::mailbox::{Change, Outbox};

/// Differences of one inspection that are recorded: a flush of a large ruleset has thousands, and
/// the first are enough.
const MAX_OPEN: usize = 200;

/// A difference that is neither repaired nor gone.
#[derive(Debug)]
struct OpenRecord {
    difference: Difference,
    record: pb::DriftRecord,
    noticed: Instant,
    sent: bool,
}

/// The differences that are there now, with their records.
#[derive(Debug)]
pub(super) struct DriftRecords {
    open: Vec<OpenRecord>,
    /// Makes the ids unique over restarts.
    started: u64,
    next: u64,
}

impl DriftRecords {
    /// `started` is Unix time in milliseconds.
    pub(super) fn new(started: u64) -> Self {
        Self {
            open: Vec::new(),
            started,
            next: 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether all that is known to differ is like this.
    pub(super) fn all(&self, of: impl Fn(&Difference) -> bool) -> bool {
        self.open.iter().all(|open| of(&open.difference))
    }

    /// Takes what an inspection of `parts` found: a new difference gets a record, one that went
    /// away by itself is forgotten.
    pub(super) fn found(
        &mut self,
        differences: &[Difference],
        parts: Parts,
        change: Option<&Change>,
        noticed: Instant,
        at_ms: u64,
    ) {
        self.open.retain(|open| {
            !covers(parts, &open.difference) || differences.contains(&open.difference)
        });
        for difference in differences.iter().take(MAX_OPEN) {
            if self.open.iter().any(|s| s.difference == *difference) {
                continue;
            }
            let id = format!("{:x}-{}", self.started, self.next);
            self.next += 1;
            self.open.push(OpenRecord {
                record: record(id, difference, change, at_ms),
                difference: difference.clone(),
                noticed,
                sent: false,
            });
        }
    }

    /// Takes what is left in `parts` after a repair, and returns the records to send: those of
    /// repaired differences, and those of others that were not sent before.
    pub(super) fn repaired(
        &mut self,
        left: &[Difference],
        parts: Parts,
        now: Instant,
    ) -> Vec<pb::DriftRecord> {
        let mut records = Vec::new();
        self.open.retain_mut(|open| {
            if !covers(parts, &open.difference) || left.contains(&open.difference) {
                return true;
            }
            let after = now.saturating_duration_since(open.noticed);
            open.record.repaired_after_ms = Some(milliseconds(after));
            records.push(open.record.clone());
            false
        });
        records.extend(self.unsent());
        records
    }

    /// The records that were not sent yet.
    pub(super) fn unsent(&mut self) -> Vec<pb::DriftRecord> {
        let unsent = |open: &mut OpenRecord| {
            let sent = std::mem::replace(&mut open.sent, true);
            (!sent).then(|| open.record.clone())
        };
        self.open.iter_mut().filter_map(unsent).collect()
    }
}

/// Whether an inspection of `parts` would find it.
fn covers(parts: Parts, difference: &Difference) -> bool {
    parts.covers(difference.table, difference.family)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn record(
    id: String,
    difference: &Difference,
    change: Option<&Change>,
    at_ms: u64,
) -> pb::DriftRecord {
    let family = match difference.family {
        Family::V4 => pb::Family::V4,
        Family::V6 => pb::Family::V6,
    };
    // ipset announces nothing: an event that came with it is about rules.
    let author = change
        .filter(|_| difference.table != DriftTable::Ipset)
        .and_then(|change| change.author(difference.family));
    pb::DriftRecord {
        id,
        at_ms,
        class: pb::DriftClass::from(difference.class).into(),
        family: family.into(),
        table: difference.table.to_string(),
        chain: difference.chain.clone().unwrap_or_default(),
        rule: difference.rule.clone().unwrap_or_default(),
        wanted: difference.wanted.clone().unwrap_or_default(),
        observed: difference.observed.clone().unwrap_or_default(),
        by: author.map(Author::to_wire),
        repaired_after_ms: None,
    }
}

/// Logs records, and sends them to the controller.
pub(super) fn send_records(outbox: &Outbox, records: Vec<pb::DriftRecord>) {
    for record in records {
        log_drift(&record);
        outbox.record(record);
    }
}

fn log_drift(record: &pb::DriftRecord) {
    let author = record.by.as_ref();
    let starter = author.and_then(|author| author.started_by.as_ref());
    warn!(
        class = record.class().word(),
        chain = record.chain,
        rule = record.rule,
        by = author.map(|author| author.comm.as_str()),
        started_by = starter.map(|starter| starter.comm.as_str()),
        repaired_after_ms = record.repaired_after_ms,
        "drift"
    );
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::drift::DriftClass;

    use super::*;

    fn difference(chain: &str) -> Difference {
        let chain = chain.to_owned();
        Difference::new(DriftClass::Missing, Family::V4, DriftTable::Filter, chain)
    }

    #[test]
    fn drift_is_recorded_when_found_and_again_when_repaired() {
        let mut drift = DriftRecords::new(0xabc);
        let start = Instant::now();
        let both = [difference("VF-A"), difference("VF-B")];
        drift.found(&both, Parts::ALL, None, start, 5);
        let records = drift.repaired(&both[1..], Parts::ALL, start + Duration::from_millis(7));
        let sent: Vec<_> = records
            .iter()
            .map(|r| (r.id.as_str(), r.chain.as_str(), r.repaired_after_ms))
            .collect();
        assert_eq!(sent, [("abc-1", "VF-A", Some(7)), ("abc-2", "VF-B", None)]);
        drift.found(&both[1..], Parts::ALL, None, start, 6);
        assert!(drift.unsent().is_empty());
        let records = drift.repaired(&[], Parts::ALL, start + Duration::from_secs(1));
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].id, "abc-2");
        assert_eq!(records[0].repaired_after_ms, Some(1000));
        assert!(drift.repaired(&[], Parts::ALL, start).is_empty());
    }
}
