//! A rollout's result in figures.

use super::record::{OutcomeRecord, Phase, RolloutRecord, RolloutState, Tally};

impl RolloutRecord {
    /// How it ended.
    pub fn outcome(&self, at_ms: u64) -> OutcomeRecord {
        let tally = self.tally();
        OutcomeRecord {
            state: self.state,
            brought: self.goal(),
            reason: self.reason.clone(),
            started_ms: self.started_ms,
            ended_ms: self.ended_ms.unwrap_or(at_ms),
            applied: tally.applied,
            failed: tally.failed,
            untouched: tally.untouched,
        }
    }

    /// How its way back ended, for the generation that it went back to; none: it did not go back.
    pub fn back_outcome(&self, at_ms: u64) -> Option<OutcomeRecord> {
        let failed = self.failures();
        let applied = self.count(|phase| phase == Phase::Applied);
        Some(OutcomeRecord {
            state: RolloutState::Done,
            brought: self.back?,
            reason: String::new(),
            applied,
            failed,
            untouched: self.nodes.len() - applied - failed,
            ..self.outcome(at_ms)
        })
    }

    /// Nodes that failed on the way forward, whatever the way back did.
    pub fn failed(&self) -> usize {
        self.tally().failed
    }

    /// Nodes that did not go back, each with the reason; empty: the rollout did not go back, or all
    /// nodes did.
    pub fn not_back(&self) -> Vec<String> {
        let failed = self
            .nodes
            .iter()
            .filter(|(_, step)| self.forward_tally.is_some() && step.phase.is_failure());
        let named = failed.map(|(name, step)| match step.error.as_str() {
            "" => name.to_string(),
            error => format!("{name} ({error})"),
        });
        named.collect()
    }

    /// Of the way forward.
    pub(super) fn tally(&self) -> Tally {
        self.forward_tally.unwrap_or_else(|| Tally {
            applied: self.count(|phase| phase == Phase::Applied),
            failed: self.failures(),
            untouched: self.count(|phase| matches!(phase, Phase::Waiting | Phase::Offline { .. })),
        })
    }
}
