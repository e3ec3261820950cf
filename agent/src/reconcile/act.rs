//! An act: differences that one author made in a moment, or that one look found of an unknown
//! author. It is one record, with what became of each difference.

use std::time::{Duration, Instant};

use prost::Message as _;
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::limits::{MAX_ACT_BYTES, MAX_ACT_DIFFERENCES};
use voipfleet_ruleset::drift::{Difference, DriftTable};
use voipfleet_ruleset::ruleset::Family;

use super::looks::Since;
use crate::kernel::{Author, Parts};

/// An author who goes on within this time goes on with the same act.
const PAUSE: Duration = Duration::from_secs(2);
/// One that goes on longer begins another act.
const LONGEST: Duration = Duration::from_secs(30);

/// A difference of an act.
#[derive(Debug)]
struct Entry {
    difference: Difference,
    since: Instant,
    /// Neither repaired nor gone.
    is_open: bool,
    repaired_after_ms: Option<u64>,
}

/// Whose act it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ActKey {
    table: DriftTable,
    /// What started the tool, where it could be read before the tool ended.
    starter: Option<u32>,
    /// The tool; none: unknown.
    tool: Option<String>,
}

#[derive(Debug)]
pub(super) struct Act {
    id: String,
    /// Unix time in milliseconds.
    at_ms: u64,
    key: ActKey,
    by: Option<pb::Author>,
    entries: Vec<Entry>,
    unannounced: bool,
    began: Instant,
    last: Instant,
    /// Not reported as it is now.
    is_news: bool,
}

impl ActKey {
    pub(super) fn of(table: DriftTable, author: Option<&Author>) -> Self {
        let starter = author.and_then(|author| author.started_by.as_ref());
        Self {
            table,
            starter: starter.map(|starter| starter.pid),
            tool: author.map(|author| author.process.comm.clone()),
        }
    }
}

impl Act {
    pub(super) fn new(
        id: String,
        at_ms: u64,
        key: ActKey,
        author: Option<&Author>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            at_ms,
            key,
            by: author.map(Author::to_wire),
            entries: Vec::new(),
            unannounced: false,
            began: now,
            last: now,
            is_news: true,
        }
    }

    /// Whether a difference belongs to it that a look at `now` finds, one of so many. What differs
    /// of an unknown author is one act only when one look finds it.
    pub(super) fn takes(&self, key: &ActKey, now: Instant, number: usize) -> bool {
        let has_room = self.entries.len() + number <= MAX_ACT_DIFFERENCES;
        self.key == *key && (self.began == now || (self.may_go_on(now) && has_room))
    }

    fn may_go_on(&self, now: Instant) -> bool {
        self.key.tool.is_some() && now < self.last + PAUSE && now < self.began + LONGEST
    }

    /// Whether nothing can be added to it any more, and all has been reported.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        !self.is_news && !self.is_open() && !self.may_go_on(now)
    }

    pub(super) fn is_open(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_open)
    }

    pub(super) fn add(&mut self, difference: &Difference, since: Since, now: Instant) {
        self.entries.push(Entry {
            difference: difference.clone(),
            since: since.at,
            is_open: true,
            repaired_after_ms: None,
        });
        self.unannounced |= !since.announced;
        self.last = now;
        self.is_news = true;
    }

    /// The differences that are neither repaired nor gone.
    pub(super) fn open(&self) -> impl Iterator<Item = &Difference> {
        let open = self.entries.iter().filter(|entry| entry.is_open);
        open.map(|entry| &entry.difference)
    }

    /// What was in `parts` and is not `left` has gone by itself.
    pub(super) fn gone(&mut self, left: &[Difference], parts: Parts) {
        for entry in &mut self.entries {
            entry.is_open &= !covers(parts, &entry.difference) || left.contains(&entry.difference);
        }
    }

    /// What was in `parts` and is not `left` was repaired.
    pub(super) fn repaired(&mut self, left: &[Difference], parts: Parts, now: Instant) {
        for entry in &mut self.entries {
            let stays = !covers(parts, &entry.difference) || left.contains(&entry.difference);
            if entry.is_open && !stays {
                let after = now.saturating_duration_since(entry.since);
                entry.is_open = false;
                entry.repaired_after_ms = Some(milliseconds(after));
                self.is_news = true;
            }
        }
    }

    /// Its record, if that was not reported as it is now.
    pub(super) fn news(&mut self) -> Option<pb::DriftRecord> {
        std::mem::take(&mut self.is_news).then(|| self.to_wire())
    }

    /// The first differences, and the number of those that have no room.
    fn to_wire(&self) -> pb::DriftRecord {
        let mut entries = self.entries.iter().map(Entry::to_wire);
        let first = entries.next().unwrap_or_default();
        let mut record = pb::DriftRecord {
            id: self.id.clone(),
            at_ms: self.at_ms,
            class: first.class,
            family: first.family,
            table: first.table,
            chain: first.chain,
            rule: first.rule,
            wanted: first.wanted,
            observed: first.observed,
            by: self.by.clone(),
            repaired_after_ms: first.repaired_after_ms,
            more: Vec::new(),
            left_out: 0,
            unannounced: self.unannounced,
            received_ms: 0,
        };
        let mut bytes = record.encoded_len();
        for difference in entries {
            // With its tag and length.
            let size = difference.encoded_len() + 8;
            let fits = record.more.len() + 1 < MAX_ACT_DIFFERENCES && bytes + size <= MAX_ACT_BYTES;
            if fits && record.left_out == 0 {
                bytes += size;
                record.more.push(difference);
            } else {
                record.left_out = record.left_out.saturating_add(1);
            }
        }
        record
    }
}

impl Entry {
    fn to_wire(&self) -> pb::DriftDifference {
        let difference = &self.difference;
        let family = match difference.family {
            Family::V4 => pb::Family::V4,
            Family::V6 => pb::Family::V6,
        };
        pb::DriftDifference {
            class: pb::DriftClass::from(difference.class).into(),
            family: family.into(),
            table: difference.table.to_string(),
            chain: difference.chain.clone().unwrap_or_default(),
            rule: difference.rule.clone().unwrap_or_default(),
            wanted: difference.wanted.clone().unwrap_or_default(),
            observed: difference.observed.clone().unwrap_or_default(),
            repaired_after_ms: self.repaired_after_ms,
        }
    }
}

/// Whether an inspection of `parts` would find it.
fn covers(parts: Parts, difference: &Difference) -> bool {
    parts.covers(difference.table, difference.family)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
