//! The pushes that wait for a site's rollout to end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;

use crate::DocumentsVersion;
use crate::generation::{read_digest, write_digest};
use crate::limits::MAX_WAITING;
use crate::precondition::BasisStaging;

/// How many of those that wait no more are remembered: all that waited, twice over.
const REMEMBERED: usize = 2 * MAX_WAITING;

/// A site's queue of pushes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// The ticket that was given last; they grow by one.
    pub last_ticket: u64,
    /// Those that wait, the next one first.
    #[serde(default)]
    pub waiting: Vec<Queued>,
    /// What became of the last ones that waited, the latest last.
    #[serde(default)]
    pub ended: Vec<Ended>,
}

/// A push that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Its ticket, 1 or more.
    pub ticket: u64,
    /// Who asked for it.
    pub by: String,
    /// SHA-256 of the key with which it was asked for, hexadecimal: only the same operator's
    /// rights count at its turn.
    pub key_hash: String,
    /// When, Unix time.
    pub at_ms: u64,
    /// How long nodes have to prove that they are still reachable; none: the site's own.
    #[serde(default)]
    pub confirm_within_ms: Option<u64>,
    /// What the plan that was agreed to would give the nodes; none: whatever the documents say
    /// at its turn.
    #[serde(default)]
    pub planned: Option<PlannedContent>,
}

/// What a plan would give the nodes of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedContent {
    /// The version of the documents that it was made of.
    pub documents: DocumentsVersion,
    /// The ruleset of each node.
    pub nodes: BTreeMap<NodeName, PlannedDigest>,
    /// How it would go through the nodes; none: not known, and not compared.
    #[serde(default)]
    pub staging: Option<BasisStaging>,
}

/// The digest of a ruleset that a plan showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDigest(
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")] pub Digest,
);

/// A push that waits no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its ticket.
    pub ticket: u64,
    /// Who asked for it.
    pub by: String,
    /// What became of it.
    pub fate: Fate,
    /// Whether it stands in the audit log.
    #[serde(default)]
    pub noted: bool,
}

/// What became of a push that waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its turn came, and it was started.
    Started {
        /// The site's generation before; 0: none.
        before: Generation,
        /// The generation that goes to the nodes.
        generation: Generation,
    },
    /// Its turn came, and every node should run this content already.
    Nothing,
    /// It is not pushed.
    Dropped {
        /// Why.
        why: String,
    },
}

impl QueueRecord {
    /// Takes the first one that waits off the queue; false: it is not that ticket.
    pub fn take(&mut self, ticket: u64, fate: Fate) -> bool {
        if self.waiting.first().map(|first| first.ticket) != Some(ticket) {
            return false;
        }
        let first = self.waiting.remove(0);
        self.remember(first, fate);
        true
    }

    /// Drops everything that waits; false: nothing does.
    pub fn drop_all(&mut self, why: &str) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        let any = !waiting.is_empty();
        for queued in waiting {
            let why = why.to_owned();
            self.remember(queued, Fate::Dropped { why });
        }
        any
    }

    /// What became of a ticket; none: it waits, never was, or is forgotten.
    pub fn fate(&self, ticket: u64) -> Option<&Fate> {
        let found = self.ended.iter().find(|ended| ended.ticket == ticket);
        found.map(|ended| &ended.fate)
    }

    /// How many wait before a ticket; none: it does not wait.
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
    use super::*;

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
    fn only_the_first_one_is_taken() {
        let mut queue = queue(4..=6);
        assert!(!queue.take(5, Fate::Nothing));
        assert!(queue.take(4, Fate::Nothing));
        assert!(!queue.take(4, Fate::Nothing));
        assert_eq!((queue.ahead(4), queue.ahead(6)), (None, Some(1)));
        assert_eq!(queue.fate(4), Some(&Fate::Nothing));
        assert_eq!(queue.fate(5), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut queue = queue(1..=200);
        assert!(queue.drop_all("halted"));
        assert!(!queue.drop_all("halted"));
        assert_eq!(queue.ended.len(), REMEMBERED);
        assert!(queue.fate(200).is_some());
        assert!(queue.fate(1).is_none());
    }

    /// What a later version leaves out or adds must not keep this one from reading it.
    #[test]
    fn a_queue_reads_back() {
        let mut queue = queue(1..=2);
        queue.waiting[1].planned = Some(PlannedContent {
            documents: 3,
            nodes: BTreeMap::from([("sip1".parse().unwrap(), PlannedDigest(Digest::of(b"x")))]),
            staging: Some(BasisStaging {
                rollout: "{canary: 1}".to_owned(),
                observe: false,
            }),
        });
        let text = serde_json::to_string(&queue).unwrap();
        assert_eq!(serde_json::from_str::<QueueRecord>(&text).unwrap(), queue);
        let least = r#"{"last_ticket":3}"#;
        let read: QueueRecord = serde_json::from_str(least).unwrap();
        assert_eq!((read.last_ticket, read.waiting.len()), (3, 0));
    }
}
