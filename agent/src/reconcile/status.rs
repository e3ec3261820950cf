//! The task's part about what the controller hears.

use std::time::{Duration, Instant};

use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;

use super::Reconciler;
use super::trial::running;

/// The node's own view of an offer's fate.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) held: Option<Held>,
    pub(super) state: pb::NodeState,
    pub(super) error: String,
}

impl Reconciler {
    /// Says how the node stands; `nonce` of the offer that this answers, 0: of none.
    pub(super) fn tell(&mut self, nonce: u64, since: Option<Instant>) {
        // Hello announces a trial by its nonce, whatever was said last.
        let on_trial = self.course.on_trial();
        let nonce = on_trial.map_or(nonce, |attempt| attempt.nonce);
        self.outbox.status(self.status(nonce, &self.outcome, since));
    }

    pub(super) fn status(
        &self,
        nonce: u64,
        outcome: &Outcome,
        since: Option<Instant>,
    ) -> pb::NodeStatus {
        let confirmed = self.running();
        let digest = |held: Option<Held>| {
            held.map(|held| held.digest.as_bytes().to_vec())
                .unwrap_or_default()
        };
        let elapsed = since.map_or(Duration::ZERO, |since| since.elapsed());
        pb::NodeStatus {
            nonce,
            generation: outcome.held.map_or(0, |held| held.generation),
            digest: digest(outcome.held),
            state: outcome.state.into(),
            error: self.with_fallback(outcome),
            drift: self.drift.into(),
            sets: self.told_sets(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            confirmed_generation: confirmed.map_or(0, |held| held.generation),
            confirmed_digest: digest(confirmed),
            drift_detail: self.drift_detail(),
            flows_cut: self.flows.cut(),
            live_digest: self.live_digest(),
            live_error: self.live.error(),
        }
    }

    /// What is fought over, and why a repair left something.
    pub(super) fn drift_detail(&self) -> String {
        let mut detail = self.contention.describe();
        if !self.standing.is_empty() && !self.unrepaired.is_empty() {
            let gap = if detail.is_empty() { "" } else { "\n" };
            detail = format!("{detail}{gap}not repaired: {}", self.unrepaired);
        }
        detail
    }

    /// The elements of what runs, as they were last counted; none where only management rules
    /// run, which have no sets.
    pub(super) fn told_sets(&self) -> Option<pb::SetCount> {
        let runs = self.trial.is_some() || self.fallback.is_none();
        self.sets.as_ref().filter(|_| runs).map(Into::into)
    }

    pub(super) fn tell_facts(&mut self) {
        let mut facts = self.settings.inventory.facts(&*self.kernel);
        let of_machine = std::mem::replace(&mut facts.warnings, self.own_warnings.clone());
        match &self.fallback {
            Some(fallback) => facts.warnings.push(fallback.describe()),
            None => facts.warnings.extend(self.not_in_force.clone()),
        }
        facts.warnings.extend(of_machine);
        facts.warnings.extend(self.flows.warning());
        if running(self.trial.as_ref(), self.confirmed.as_ref())
            .is_some_and(|running| running.canonical.read_back)
        {
            facts.warnings.push(
                "drift is compared with what the kernel printed after the apply: no scratch \
                 network namespace can be made here"
                    .to_owned(),
            );
        }
        if let Some(why) = self.inbox.why_deaf() {
            let seconds = self.settings.poll_interval.as_secs_f64();
            facts.warnings.push(format!(
                "changes by others are found only by a look every {seconds} s: {why}"
            ));
        }
        let dropped = self.outbox.dropped();
        if dropped > 0 {
            facts.warnings.push(format!(
                "{dropped} drift records were dropped while the controller was away"
            ));
        }
        self.outbox.facts(facts);
    }
}

impl Outcome {
    fn new(held: Held, state: pb::NodeState, error: String) -> Self {
        Self {
            held: Some(held),
            state,
            error,
        }
    }

    pub(super) fn applying(held: Held) -> Self {
        Self::new(held, pb::NodeState::Applying, String::new())
    }

    pub(super) fn on_trial(held: Held) -> Self {
        Self::new(held, pb::NodeState::Trial, String::new())
    }

    pub(super) fn applied(held: Held) -> Self {
        Self::new(held, pb::NodeState::Applied, String::new())
    }

    pub(super) fn rolled_back(held: Held, error: String) -> Self {
        Self::new(held, pb::NodeState::RolledBack, error)
    }

    pub(super) fn rejected(held: Held, error: String) -> Self {
        Self::new(held, pb::NodeState::Rejected, error)
    }

    pub(super) fn failed(held: Held, error: String) -> Self {
        Self::new(held, pb::NodeState::Failed, error)
    }
}
