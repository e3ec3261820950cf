//! What a rollout came to, in figures.

use super::record::{OutcomeRecord, Place, RolloutRecord, Tally};

impl RolloutRecord {
    /// How it ended.
    pub fn outcome(&self, now_ms: u64) -> OutcomeRecord {
        let tally = self.tally();
        OutcomeRecord {
            state: self.state,
            brought: self.goal(),
            why: self.why.clone(),
            started_ms: self.started_ms,
            ended_ms: self.ended_ms.unwrap_or(now_ms),
            applied: tally.applied,
            failed: tally.failed,
            untouched: tally.untouched,
        }
    }

    /// Nodes that failed on the way there, whatever came of the way back.
    pub fn failed(&self) -> usize {
        self.tally().failed
    }

    /// Nodes that did not go back, each with the reason; empty: it did not go back, or all did.
    pub fn not_back(&self) -> Vec<String> {
        let failed = self
            .nodes
            .iter()
            .filter(|(_, step)| self.turned.is_some() && step.place.is_failure());
        let named = failed.map(|(name, step)| match step.error.as_str() {
            "" => name.to_string(),
            error => format!("{name} ({error})"),
        });
        named.collect()
    }

    /// Of the way there.
    pub(super) fn tally(&self) -> Tally {
        self.turned.unwrap_or_else(|| Tally {
            applied: self.count(|place| place == Place::Applied),
            failed: self.failures(),
            untouched: self.count(|place| matches!(place, Place::Waiting | Place::Away { .. })),
        })
    }
}
