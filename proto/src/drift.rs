//! The differences of a drift record.

use crate::v1::{DriftDifference, DriftRecord};

impl DriftRecord {
    /// All differences that it has, the first one included.
    pub fn differences(&self) -> impl Iterator<Item = DriftDifference> + '_ {
        let first = DriftDifference {
            class: self.class,
            family: self.family,
            table: self.table.clone(),
            chain: self.chain.clone(),
            rule: self.rule.clone(),
            wanted: self.wanted.clone(),
            observed: self.observed.clone(),
            repaired_after_ms: self.repaired_after_ms,
        };
        std::iter::once(first).chain(self.more.iter().cloned())
    }

    /// How many differences the act made, those that were left out included.
    pub fn count(&self) -> u64 {
        let more = u64::try_from(self.more.len()).unwrap_or(u64::MAX);
        more.saturating_add(u64::from(self.left_out))
            .saturating_add(1)
    }

    /// How long it took until the last of its differences was repaired; none: some are not.
    pub fn all_repaired_after_ms(&self) -> Option<u64> {
        let mut longest = self.repaired_after_ms?;
        for difference in &self.more {
            longest = longest.max(difference.repaired_after_ms?);
        }
        Some(longest)
    }

    /// A record for each difference, as if each were an act of its own. The first keeps the id.
    pub fn split(&self) -> Vec<DriftRecord> {
        let one = |(place, difference): (usize, DriftDifference)| DriftRecord {
            id: match place {
                0 => self.id.clone(),
                place => format!("{}.{place}", self.id),
            },
            class: difference.class,
            family: difference.family,
            table: difference.table,
            chain: difference.chain,
            rule: difference.rule,
            wanted: difference.wanted,
            observed: difference.observed,
            repaired_after_ms: difference.repaired_after_ms,
            at_ms: self.at_ms,
            by: self.by.clone(),
            more: Vec::new(),
            left_out: 0,
            unannounced: self.unannounced,
            received_ms: self.received_ms,
        };
        self.differences().enumerate().map(one).collect()
    }
}
