//! Reports to the controller, until it has received them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::{Notify, watch};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::limits::MAX_AGENT_MESSAGE_BYTES;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::ruleset::Digest;

use crate::foreign_firewalls::cut_off_from_controller;
use crate::ledger::SiteSets;

/// Drift records kept for a controller that cannot be reached, and their bytes. Beyond it the
/// oldest go.
const MAX_RECORDS: usize = 1000;
const MAX_BYTES: usize = 4 << 20;
/// Statuses that wait for the stream; they come one or two for each offer or change of drift.
const MAX_STATUSES: usize = 32;
/// Drift records of one message, and about how many bytes it has at most.
const MAX_REPORT: usize = 100;
const MAX_REPORT_BYTES: usize = MAX_AGENT_MESSAGE_BYTES / 2;

#[derive(Debug, Default)]
struct Content {
    facts: pb::NodeFacts,
    facts_changed: bool,
    last: pb::NodeStatus,
    statuses: VecDeque<pb::NodeStatus>,
    records: VecDeque<(pb::DriftRecord, Sent)>,
    dropped: u64,
}

impl Content {
    fn push(&mut self, status: pb::NodeStatus) {
        if self.statuses.len() == MAX_STATUSES {
            self.statuses.pop_front();
        }
        self.statuses.push_back(status);
    }

    fn trial(&self) -> Option<u64> {
        (self.last.state() == pb::NodeState::Trial).then_some(self.last.nonce)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    No,
    Yes,
}

/// Between the task that owns the kernel and the link.
#[derive(Debug, Default)]
pub struct Outbox {
    content: Mutex<Content>,
    filled: Notify,
    dynamic_sets: Mutex<Option<Arc<SiteSets>>>,
    trial: watch::Sender<Option<u64>>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // A panic under the lock could at worst lose one message.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's status from now on.
    pub fn status(&self, status: pb::NodeStatus) {
        let mut content = self.lock();
        content.last = status.clone();
        content.push(status);
        let trial = content.trial();
        self.trial.send_if_modified(|before| {
            let changed = *before != trial;
            *before = trial;
            changed
        });
        self.filled.notify_one();
    }

    /// The answer to an offer that does not change the node's status.
    pub fn answer(&self, status: pb::NodeStatus) {
        self.lock().push(status);
        self.filled.notify_one();
    }

    /// The nonce of the trial that the node is in: each needs a session of its own.
    pub fn trial(&self) -> watch::Receiver<Option<u64>> {
        self.trial.subscribe()
    }

    pub fn last_status(&self) -> pb::NodeStatus {
        self.lock().last.clone()
    }

    /// The confirmed generation in the last status.
    pub fn confirmed(&self) -> Option<Held> {
        let content = self.lock();
        let digest = Digest::try_from(content.last.confirmed_digest.as_slice()).ok()?;
        let generation = content.last.confirmed_generation;
        (generation != 0).then_some(Held { generation, digest })
    }

    /// The dynamic sets that the node holds from now on.
    pub fn set_dynamic_sets(&self, sets: Option<Arc<SiteSets>>) {
        let mut held = self
            .dynamic_sets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held = sets;
    }

    /// The dynamic sets that the node holds.
    pub fn dynamic_sets(&self) -> Option<Arc<SiteSets>> {
        let held = self
            .dynamic_sets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// A drift record; one with the id of an earlier takes its place.
    pub fn record(&self, record: pb::DriftRecord) {
        let mut content = self.lock();
        content
            .records
            .retain(|(earlier, _)| earlier.id != record.id);
        content.records.push_back((record, Sent::No));
        let sizes = content.records.iter();
        let mut bytes: usize = sizes.map(|(record, _)| record.encoded_len()).sum();
        while content.records.len() > MAX_RECORDS || bytes > MAX_BYTES {
            let Some((oldest, _)) = content.records.pop_front() else {
                break;
            };
            bytes = bytes.saturating_sub(oldest.encoded_len());
            content.dropped += 1;
        }
        self.filled.notify_one();
    }

    /// How many records were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// What was last found to cut the node off from its controller.
    pub fn cut_off(&self) -> Option<String> {
        cut_off_from_controller(&self.lock().facts.neighbours)
    }

    /// Facts about the node; sent only when they differ.
    pub fn facts(&self, facts: pb::NodeFacts) {
        let mut content = self.lock();
        if content.facts != facts {
            content.facts = facts;
            content.facts_changed = true;
            self.filled.notify_one();
        }
    }

    /// The start of a session: facts and the last status go with Hello, and what an earlier
    /// session may not have delivered goes again.
    pub fn hello(&self) -> (pb::NodeFacts, pb::NodeStatus) {
        let mut content = self.lock();
        content.facts_changed = false;
        content.statuses.clear();
        for (_, sent) in &mut content.records {
            *sent = Sent::No;
        }
        if !content.records.is_empty() {
            self.filled.notify_one();
        }
        (content.facts.clone(), content.last.clone())
    }

    /// Waits until [`Self::take`] may have something.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Messages that were not sent in this session yet.
    pub fn take(&self) -> Vec<pb::agent_message::Kind> {
        let mut content = self.lock();
        let mut messages = Vec::new();
        if std::mem::take(&mut content.facts_changed) {
            messages.push(pb::agent_message::Kind::Facts(content.facts.clone()));
        }
        messages.extend(
            content
                .statuses
                .drain(..)
                .map(pb::agent_message::Kind::Status),
        );
        let mut unsent = Vec::new();
        for (record, sent) in &mut content.records {
            if *sent == Sent::No {
                *sent = Sent::Yes;
                unsent.push(record.clone());
            }
        }
        for records in reports(unsent) {
            messages.push(pb::agent_message::Kind::Drift(pb::DriftReport { records }));
        }
        messages
    }

    /// The controller has stored these records.
    pub fn acknowledged(&self, ids: &[String]) {
        let ids: std::collections::HashSet<&String> = ids.iter().collect();
        // One that changed since it was sent stays, to be sent again.
        self.lock()
            .records
            .retain(|(record, sent)| *sent == Sent::No || !ids.contains(&record.id));
    }
}

/// Records in messages that the controller takes.
fn reports(records: Vec<pb::DriftRecord>) -> Vec<Vec<pb::DriftRecord>> {
    let mut reports: Vec<Vec<pb::DriftRecord>> = Vec::new();
    let mut room = 0;
    for record in records {
        let size = record.encoded_len();
        match reports.last_mut() {
            Some(last) if last.len() < MAX_REPORT && size <= room => {
                room -= size;
                last.push(record);
            }
            _ => {
                room = MAX_REPORT_BYTES.saturating_sub(size);
                reports.push(vec![record]);
            }
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::agent_message::Kind;

    fn record(id: usize) -> pb::DriftRecord {
        pb::DriftRecord {
            id: id.to_string(),
            ..Default::default()
        }
    }

    fn records(messages: &[Kind]) -> Vec<&str> {
        messages
            .iter()
            .filter_map(|message| match message {
                Kind::Drift(report) => Some(&report.records),
                _ => None,
            })
            .flatten()
            .map(|record| record.id.as_str())
            .collect()
    }

    #[test]
    fn drift_record_is_resent_until_it_is_acknowledged() {
        let outbox = Outbox::default();
        outbox.record(record(1));
        outbox.record(record(2));
        assert_eq!(records(&outbox.take()), ["1", "2"]);
        assert!(outbox.take().is_empty());
        outbox.acknowledged(&["1".to_owned()]);
        outbox.hello(); // another session
        assert_eq!(records(&outbox.take()), ["2"]);
        outbox.record(record(2)); // repaired by now
        outbox.acknowledged(&["2".to_owned()]); // of its first form
        assert_eq!(records(&outbox.take()), ["2"]);
        outbox.acknowledged(&["2".to_owned()]);
        outbox.hello();
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn oldest_drift_records_are_dropped_first() {
        let outbox = Outbox::default();
        for id in 0..MAX_RECORDS + 5 {
            outbox.record(record(id));
        }
        assert_eq!(outbox.dropped(), 5);
        let messages = outbox.take();
        assert_eq!(records(&messages).len(), MAX_RECORDS);
        assert_eq!(records(&messages).first(), Some(&"5"));
    }

    #[test]
    fn messages_are_bounded_in_bytes() {
        let outbox = Outbox::default();
        for id in 0..20 {
            outbox.record(pb::DriftRecord {
                wanted: "x".repeat(30 << 10),
                ..record(id)
            });
        }
        let messages = outbox.take();
        assert_eq!(records(&messages).len(), 20);
        for message in messages {
            if let Kind::Drift(report) = message {
                assert!(report.encoded_len() <= MAX_AGENT_MESSAGE_BYTES);
            }
        }
    }

    #[test]
    fn hello_carries_the_last_status_once() {
        let outbox = Outbox::default();
        outbox.status(pb::NodeStatus {
            generation: 7,
            ..Default::default()
        });
        let (_, last) = outbox.hello();
        assert_eq!(last.generation, 7);
        assert!(outbox.take().is_empty());
    }
}
