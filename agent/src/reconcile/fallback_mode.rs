//! The task's part about a node that runs only its management rules: they are held, and the
//! confirmed ruleset is tried again with every poll.

use tracing::{error, info};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;

use super::Reconciler;
use super::status::Outcome;
use crate::enforcement::apply;
use crate::enforcement::management_rules::{self, Found};
use crate::host::errors::chain;

impl Reconciler {
    /// What is confirmed and in force, but for a trial; none where management rules are.
    pub(super) fn running(&self) -> Option<Held> {
        self.course.confirmed().filter(|_| self.fallback.is_none())
    }

    /// Makes the fallback what the controller hears of this node.
    pub(super) fn say_fallback(&mut self) {
        let Some(fallback) = &self.fallback else {
            return;
        };
        let words = fallback.describe();
        error!(reason = words, "fallback");
        self.drift = pb::DriftState::Drifted;
        self.outcome = Outcome {
            held: self.course.confirmed(),
            state: pb::NodeState::Failed,
            error: words,
        };
    }

    /// What is wrong with an offer is not all that is wrong here.
    pub(super) fn with_fallback(&self, outcome: &Outcome) -> String {
        let error = &outcome.error;
        match &self.fallback {
            Some(fallback) if !error.is_empty() => {
                let words = fallback.describe();
                if error.contains(&words) {
                    error.clone()
                } else {
                    format!("{error}; {words}")
                }
            }
            _ => error.clone(),
        }
    }

    /// Falls back after something failed; says so where that is news.
    pub(super) fn fall_back(&mut self, reason: &str, found: Found) {
        let confirmed = self.confirmed.as_ref();
        let mut fallback =
            management_rules::fall_back(&mut *self.kernel, &self.ledger, confirmed, reason, found);
        if let (Some(new), Some(old)) = (&mut fallback, &self.fallback) {
            new.note = old.note.clone();
        }
        // Rules of ours may stand for now because another put them back: only what was
        // confirmed and read back ends a fallback.
        if fallback.is_some() && fallback != self.fallback {
            self.fallback = fallback;
            self.say_fallback();
            self.tell(0, None);
        }
    }

    /// Puts management rules back where somebody removed them.
    pub(super) fn hold(&mut self) {
        if let Some(fallback) = &self.fallback {
            let reason = fallback.note.reason.clone();
            self.fall_back(&reason, Found::Stay);
        }
    }

    /// Tries what is confirmed again.
    pub(super) fn heal(&mut self) {
        let Some(confirmed) = &mut self.confirmed else {
            self.hold();
            return;
        };
        match apply::enforce_confirmed(&mut *self.kernel, &self.ledger, confirmed) {
            Ok(()) => {
                let held = confirmed.held;
                self.healed();
                self.outcome = Outcome::applied(held);
                info!(generation = held.generation, "in force again");
                self.count_sets();
                self.refresh_failsafe();
                self.tell(0, None);
            }
            Err(error) => {
                tracing::debug!(reason = chain(&error), "not yet in force");
                self.hold();
            }
        }
    }

    /// The node runs a confirmed ruleset.
    pub(super) fn healed(&mut self) {
        management_rules::end(&self.ledger, &mut self.fallback);
        self.is_clean_now();
    }
}
