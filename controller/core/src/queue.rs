//! The pushes that wait for a site's rollout to end.

use serde::{Deserialize, Serialize};
use voipfleet_protocol::session::Generation;

use crate::limits::MAX_WAITING;
use crate::precondition::PlannedContent;

/// Remembered pushes that no longer wait: as many as may wait, twice.
const REMEMBERED: usize = 2 * MAX_WAITING;

/// A site's queue of pushes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// The ticket that was given last, 0 before the first; they grow by one.
    pub last_ticket: u64,
    /// The next one first.
    pub waiting: Vec<Queued>,
    /// The last ones that no longer wait, the latest last.
    pub ended: Vec<Ended>,
}

/// A push that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    pub ticket: u64,
    pub by: String,
    /// SHA-256 of the operator's key, hexadecimal: at its turn only the rights of the same operator
    /// count.
    pub key_hash: String,
    /// When it was queued, Unix time.
    pub at_ms: u64,
    /// How long nodes have to prove that they are still reachable; none: the site's own.
    pub confirm_within_ms: Option<u64>,
    /// The content of the plan that was confirmed; none: whatever the documents say at its turn.
    pub planned: Option<PlannedContent>,
}

/// A push that no longer waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub ticket: u64,
    pub by: String,
    pub fate: Fate,
    /// Whether it is in the audit log.
    pub noted: bool,
}

/// What became of a push that waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its turn came, and it was started.
    Started {
        /// The site's generation before; none: there was none.
        before: Option<Generation>,
        generation: Generation,
    },
    /// Its turn came, and every node runs this content already.
    Unchanged,
    /// It was not pushed.
    Dropped { reason: String },
}

impl QueueRecord {
    /// Takes the first push off the queue; false: its ticket is another.
    pub fn take(&mut self, ticket: u64, fate: Fate) -> bool {
        if self.waiting.first().map(|first| first.ticket) != Some(ticket) {
            return false;
        }
        let first = self.waiting.remove(0);
        self.remember(first, fate);
        true
    }

    /// Drops every waiting push; false: none waits.
    pub fn drop_all(&mut self, reason: &str) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        let any = !waiting.is_empty();
        for queued in waiting {
            let reason = reason.to_owned();
            self.remember(queued, Fate::Dropped { reason });
        }
        any
    }

    /// What became of a ticket; none: it waits, never existed, or is forgotten.
    pub fn fate(&self, ticket: u64) -> Option<&Fate> {
        let found = self.ended.iter().find(|ended| ended.ticket == ticket);
        found.map(|ended| &ended.fate)
    }

    /// How many wait ahead of a ticket; none: it does not wait.
    pub fn ahead(&self, ticket: u64) -> Option<usize> {
        self.waiting
            .iter()
            .position(|queued| queued.ticket == ticket)
    }

    fn remember(&mut self, queued: Queued, fate: Fate) {
        self.ended.push(Ended {
            ticket: queued.ticket,
            by: queued.by,
            fate,
            noted: false,
        });
        let over = self.ended.len().saturating_sub(REMEMBERED);
        self.ended.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_policy::Rollout;
    use voipfleet_ruleset::ruleset::Digest;

    use super::*;
    use crate::precondition::Staging;

    fn queue(tickets: std::ops::RangeInclusive<u64>) -> QueueRecord {
        QueueRecord {
            last_ticket: *tickets.end(),
            waiting: tickets
                .map(|ticket| Queued {
                    ticket,
                    by: "ada".to_owned(),
                    key_hash: String::new(),
                    at_ms: 0,
                    confirm_within_ms: None,
                    planned: None,
                })
                .collect(),
            ended: Vec::new(),
        }
    }

    #[test]
    fn only_the_head_of_the_queue_is_taken() {
        let mut queue = queue(4..=6);
        assert!(!queue.take(5, Fate::Unchanged));
        assert!(queue.take(4, Fate::Unchanged));
        assert!(!queue.take(4, Fate::Unchanged));
        assert_eq!((queue.ahead(4), queue.ahead(6)), (None, Some(1)));
        assert_eq!(queue.fate(4), Some(&Fate::Unchanged));
        assert_eq!(queue.fate(5), None);
    }

    #[test]
    fn remembered_pushes_are_bounded() {
        let mut queue = queue(1..=200);
        assert!(queue.drop_all("halted"));
        assert!(!queue.drop_all("halted"));
        assert_eq!(queue.ended.len(), REMEMBERED);
        assert!(queue.fate(200).is_some());
        assert!(queue.fate(1).is_none());
    }

    #[test]
    fn a_queue_survives_json() {
        let mut queue = queue(1..=2);
        queue.waiting[1].planned = Some(PlannedContent {
            documents: 3,
            nodes: [("sip1".parse().unwrap(), Digest::of(b"x"))].into(),
            staging: Staging {
                rollout: Rollout::at_once(),
                observe: false,
            },
        });
        let text = serde_json::to_string(&queue).unwrap();
        assert_eq!(serde_json::from_str::<QueueRecord>(&text).unwrap(), queue);
    }
}
