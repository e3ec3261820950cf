//! Records of drift: one for each act, when it is found and again when it is repaired.

use std::time::Instant;

use tracing::warn;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::drift::{Difference, DriftTable};

use super::act::{Act, ActKey};
use super::looks::Since;
use crate::kernel::Parts;
use crate::mailbox::{Change, Outbox};

/// Differences of one inspection that are recorded: a flush of a large ruleset has thousands, and
/// the first are enough.
const MAX_OPEN: usize = 200;
/// Acts that are over and may go on: one for each author who edits at the same time.
const MAX_RECENT: usize = 32;

/// The acts of which something differs now, and those of just now.
#[derive(Debug)]
pub(super) struct DriftRecords {
    acts: Vec<Act>,
    /// Makes the ids unique over restarts.
    started: u64,
    next: u64,
}

impl DriftRecords {
    /// `started` is Unix time in milliseconds.
    pub(super) fn new(started: u64) -> Self {
        Self {
            acts: Vec::new(),
            started,
            next: 1,
        }
    }

    fn open(&self) -> impl Iterator<Item = &Difference> {
        self.acts.iter().flat_map(Act::open)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open().next().is_none()
    }

    /// Whether all that is known to differ is like this.
    pub(super) fn all(&self, of: impl Fn(&Difference) -> bool) -> bool {
        self.open().all(of)
    }

    /// Takes what an inspection of `parts` found: a new difference is recorded, one that went
    /// away by itself is forgotten.
    pub(super) fn found(
        &mut self,
        differences: &[Difference],
        parts: Parts,
        change: Option<&Change>,
        since: impl Fn(&Difference) -> Since,
        at_ms: u64,
    ) {
        let now = Instant::now();
        for act in &mut self.acts {
            act.gone(differences, parts);
        }
        self.forget(now);
        for difference in differences.iter().take(MAX_OPEN) {
            if self.open().any(|known| known == difference) {
                continue;
            }
            // ipset announces nothing: an event that came with it is about rules.
            let author = change
                .filter(|_| difference.table != DriftTable::Ipset)
                .and_then(|change| change.author(difference.family));
            let key = ActKey::of(difference.table, author);
            let number = differences.len();
            let takes = |act: &Act| act.takes(&key, now, number);
            let place = self.acts.iter().position(takes);
            let place = place.unwrap_or_else(|| {
                let id = format!("{:x}-{}", self.started, self.next);
                self.next += 1;
                self.acts.push(Act::new(id, at_ms, key, author, now));
                self.acts.len() - 1
            });
            if let Some(act) = self.acts.get_mut(place) {
                act.add(difference, since(difference), now);
            }
        }
    }

    /// Takes what is left in `parts` after a repair, and returns the records to send.
    pub(super) fn repaired(
        &mut self,
        left: &[Difference],
        parts: Parts,
        now: Instant,
    ) -> Vec<pb::DriftRecord> {
        for act in &mut self.acts {
            act.repaired(left, parts, now);
        }
        self.unsent()
    }

    /// The records that were not sent as they are now.
    pub(super) fn unsent(&mut self) -> Vec<pb::DriftRecord> {
        self.acts.iter_mut().filter_map(Act::news).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.acts.retain(|act| !act.is_over(now));
        let over = self.acts.iter().filter(|act| !act.is_open()).count();
        let mut surplus = over.saturating_sub(MAX_RECENT);
        self.acts.retain(|act| {
            let goes = surplus > 0 && !act.is_open();
            surplus -= usize::from(goes);
            !goes
        });
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
        differences = record.count(),
        by = author.map(|author| author.comm.as_str()),
        started_by = starter.map(|starter| starter.comm.as_str()),
        repaired_after_ms = record.all_repaired_after_ms(),
        "drift"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use voipfleet_ruleset::drift::DriftClass;
    use voipfleet_ruleset::ruleset::Family;

    use super::*;
    use crate::host::Process;
    use crate::kernel::{Author, KernelEvent, Reach, Transaction};
    use crate::mailbox::Inbox;

    fn difference(chain: &str) -> Difference {
        let chain = chain.to_owned();
        Difference::new(DriftClass::Missing, Family::V4, DriftTable::Filter, chain)
    }

    /// A change of our rules by a tool that the process with this id started.
    fn change(starter: u32) -> Change {
        let (inbox, now) = (Inbox::default(), Instant::now());
        let mut author = Author::named(4711, "iptables".to_owned());
        author.started_by = Some(Process {
            pid: starter,
            ..Process::default()
        });
        let author = Some(Box::new(author));
        let (v4, v6) = (Reach::Ours, Reach::Ours);
        inbox.changed(&KernelEvent::Changed(Transaction { author, v4, v6 }), now);
        inbox.wait(now).change.unwrap()
    }

    fn at(at: Instant) -> impl Fn(&Difference) -> Since {
        move |_| Since {
            at,
            announced: true,
        }
    }

    #[test]
    fn drift_is_recorded_when_found_and_again_when_repaired() {
        let mut drift = DriftRecords::new(0xabc);
        let start = Instant::now();
        let both = [difference("VF-A"), difference("VF-B")];
        drift.found(&both, Parts::ALL, None, at(start), 5);
        let records = drift.repaired(&both[1..], Parts::ALL, start + Duration::from_millis(7));
        let [record] = records.as_slice() else {
            panic!("one act: {records:?}");
        };
        assert_eq!((record.id.as_str(), record.count()), ("abc-1", 2));
        assert_eq!(record.all_repaired_after_ms(), None);
        let each: Vec<_> = record
            .differences()
            .map(|each| (each.chain, each.repaired_after_ms))
            .collect();
        assert_eq!(
            each,
            [("VF-A".to_owned(), Some(7)), ("VF-B".to_owned(), None)]
        );
        drift.found(&both[1..], Parts::ALL, None, at(start), 6);
        assert!(drift.unsent().is_empty());
        let records = drift.repaired(&[], Parts::ALL, start + Duration::from_secs(1));
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].id, "abc-1");
        assert_eq!(records[0].all_repaired_after_ms(), Some(1000));
        assert!(drift.repaired(&[], Parts::ALL, start).is_empty());
    }

    #[test]
    fn what_an_author_changes_in_a_row_is_one_act() {
        let mut drift = DriftRecords::new(1);
        let start = Instant::now();
        for (pid, chain, acts) in [(7, "VF-A", 1), (7, "VF-B", 1), (8, "VF-C", 2)] {
            let found = [difference(chain)];
            drift.found(&found, Parts::ALL, Some(&change(pid)), at(start), 5);
            let records = drift.repaired(&[], Parts::ALL, start);
            assert_eq!(records.len(), 1, "{chain}");
            assert_eq!(records[0].id, format!("1-{acts}"), "{chain}");
        }
        // Two looks that find something of unknown authors find two acts.
        for id in ["1-3", "1-4"] {
            drift.found(&[difference("VF-D")], Parts::ALL, None, at(start), 5);
            let records = drift.repaired(&[], Parts::ALL, start);
            assert_eq!(records[0].id, id);
        }
    }

    #[test]
    fn record_of_a_large_act_is_bounded() {
        let mut drift = DriftRecords::new(1);
        let long = |n: usize| Difference {
            wanted: Some("x".repeat(1000)),
            rule: Some(n.to_string()),
            ..difference("VF-A")
        };
        let found: Vec<_> = (0..180).map(long).collect();
        drift.found(&found, Parts::ALL, None, at(Instant::now()), 5);
        let records = drift.unsent();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].count(), 180);
        assert!(records[0].left_out > 0);
        let bytes = prost::Message::encoded_len(&records[0]);
        assert!(
            bytes <= voipfleet_protocol::limits::MAX_ACT_BYTES,
            "{bytes}"
        );
    }
}
