//! Drift that stands: recorded when it is found, and again when it is repaired.

use std::time::{Duration, Instant};

use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::drift::Difference;
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{Author, Parts};
use crate::mailbox::Change;

/// Differences that one look may bring to record: a flush of a large ruleset has thousands,
/// which say no more than the first.
const MAX_STANDING: usize = 200;

/// One difference with its record.
#[derive(Debug)]
struct Stand {
    difference: Difference,
    record: pb::DriftRecord,
    noticed: Instant,
    told: bool,
}

/// What differs now and is on record.
#[derive(Debug)]
pub(super) struct Standing {
    stands: Vec<Stand>,
    /// Makes the ids unique over restarts.
    started: u64,
    next: u64,
}

impl Standing {
    /// `started` is Unix time in milliseconds.
    pub(super) fn new(started: u64) -> Self {
        Self {
            stands: Vec::new(),
            started,
            next: 1,
        }
    }

    /// Whether nothing is known to differ.
    pub(super) fn is_empty(&self) -> bool {
        self.stands.is_empty()
    }

    /// Whether all that is known to differ is of these.
    pub(super) fn is_only(&self, of: impl Fn(&Difference) -> bool) -> bool {
        self.stands.iter().all(|stand| of(&stand.difference))
    }

    /// Takes what a look at `parts` found: what is new gets a record, what is gone by itself is
    /// forgotten.
    pub(super) fn found(
        &mut self,
        differences: &[Difference],
        parts: Parts,
        change: Option<&Change>,
        noticed: Instant,
        at_ms: u64,
    ) {
        self.stands.retain(|stand| {
            !covers(parts, &stand.difference) || differences.contains(&stand.difference)
        });
        for difference in differences.iter().take(MAX_STANDING) {
            if self.stands.iter().any(|s| s.difference == *difference) {
                continue;
            }
            let id = format!("{:x}-{}", self.started, self.next);
            self.next += 1;
            self.stands.push(Stand {
                record: record(id, difference, change, at_ms),
                difference: difference.clone(),
                noticed,
                told: false,
            });
        }
    }

    /// Takes what is left in `parts` after a repair, and gives the records to send: of what is
    /// repaired, and of what is not and was not told before.
    pub(super) fn repaired(
        &mut self,
        left: &[Difference],
        parts: Parts,
        now: Instant,
    ) -> Vec<pb::DriftRecord> {
        let mut records = Vec::new();
        self.stands.retain_mut(|stand| {
            if !covers(parts, &stand.difference) || left.contains(&stand.difference) {
                return true;
            }
            let after = now.saturating_duration_since(stand.noticed);
            stand.record.repaired_after_ms = Some(milliseconds(after));
            records.push(stand.record.clone());
            false
        });
        records.extend(self.untold());
        records
    }

    /// The records that were not given yet.
    pub(super) fn untold(&mut self) -> Vec<pb::DriftRecord> {
        let untold = |stand: &mut Stand| {
            let told = std::mem::replace(&mut stand.told, true);
            (!told).then(|| stand.record.clone())
        };
        self.stands.iter_mut().filter_map(untold).collect()
    }
}

/// Whether a look at `parts` would show it.
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
    // ipset announces nothing: an event beside it is of somebody who changed rules.
    let author = change
        .filter(|_| difference.table != "ipset")
        .and_then(|change| change.author(difference.family));
    pb::DriftRecord {
        id,
        at_ms,
        class: pb::DriftClass::from(difference.class).into(),
        family: family.into(),
        table: difference.table.to_owned(),
        chain: difference.chain.clone(),
        rule: difference.rule.clone(),
        wanted: difference.wanted.clone(),
        observed: difference.observed.clone(),
        by: author.map(Author::to_wire),
        repaired_after_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::drift::Class;

    use super::*;

    fn difference(chain: &str) -> Difference {
        Difference {
            class: Class::Missing,
            family: Family::V4,
            table: "filter",
            chain: chain.to_owned(),
            rule: String::new(),
            wanted: String::new(),
            observed: String::new(),
        }
    }

    #[test]
    fn drift_is_told_once_and_again_when_it_is_repaired() {
        let mut standing = Standing::new(0xabc);
        let start = Instant::now();
        let both = [difference("VF-A"), difference("VF-B")];
        standing.found(&both, Parts::ALL, None, start, 5);
        let records = standing.repaired(&both[1..], Parts::ALL, start + Duration::from_millis(7));
        let told: Vec<_> = records
            .iter()
            .map(|r| (r.id.as_str(), r.chain.as_str(), r.repaired_after_ms))
            .collect();
        assert_eq!(told, [("abc-1", "VF-A", Some(7)), ("abc-2", "VF-B", None)]);
        standing.found(&both[1..], Parts::ALL, None, start, 6);
        assert!(standing.untold().is_empty());
        let records = standing.repaired(&[], Parts::ALL, start + Duration::from_secs(1));
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].id, "abc-2");
        assert_eq!(records[0].repaired_after_ms, Some(1000));
        assert!(standing.repaired(&[], Parts::ALL, start).is_empty());
    }
}
