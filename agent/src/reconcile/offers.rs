//! Offers: refused, answered at once, or loaded and put on trial.

use std::time::Instant;

use tracing::{info, info_span, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::session::{Attempt, Held, Reaction};

use super::Reconciler;
use super::node::Trial;
use super::outcome::{Outcome, Undo};
use crate::enforcement::apply::{self, Prepared, Rejection};
use crate::failpoint::{Work, during};
use crate::host::clock;
use crate::mailbox::{Content, Offered};

impl Reconciler {
    pub(super) fn take_offer(&mut self, offered: Offered) {
        let span = info_span!("apply", generation = offered.held.generation);
        let _inside = span.enter();
        let (held, nonce, received) = (offered.held, offered.nonce, offered.received);
        let outcome = match self.node.trial_state.offer(Attempt { nonce, held }) {
            Reaction::Try => return self.attempt(offered),
            // The link dials once more: this delivery needs a Hello of its own.
            Reaction::OnTrial => return self.report_status(Some(nonce), Some(received)),
            // It is confirmed, but not in force.
            Reaction::Same | Reaction::Renumber if self.node.is_in_fallback() => {
                return self.attempt(offered);
            }
            Reaction::Same => match self.undo_if_due() {
                Ok(()) => Outcome::Applied(held),
                Err(error) => Outcome::Failed(held, Undo::Earlier { error }),
            },
            Reaction::Renumber => self.renumber(held),
            Reaction::Refuse(refusal) => Outcome::Rejected(held, refusal.to_string()),
        };
        self.answer(nonce, outcome, received);
    }

    /// Reports what became of an offer. While a trial goes on, that remains the node's status.
    fn answer(&mut self, nonce: u64, outcome: Outcome, received: Instant) {
        match &outcome {
            Outcome::Applied(_) => info!("applied"),
            Outcome::Applying(_) => {}
            _ => warn!(reason = outcome.error(), "not applied"),
        }
        if self.node.trial_state.on_trial().is_some() {
            self.report.answer(self.view(), nonce, &outcome, received);
            return;
        }
        self.report.outcome = outcome;
        self.report_status(Some(nonce), Some(received));
        self.report_facts();
    }

    /// The same content under a newer number. It was proved, so it needs no trial.
    fn renumber(&mut self, held: Held) -> Outcome {
        let undone = match self.node.trial_state.on_trial() {
            Some(_) => self.undo(),
            None => self.undo_if_due(),
        };
        if let Err(error) = undone {
            return Outcome::Failed(held, Undo::Earlier { error });
        }
        if self.node.confirmed.is_none() {
            return Outcome::Rejected(held, "this node has nothing confirmed".to_owned());
        }
        match self.node.renumber(held) {
            Ok(()) => {
                self.flows.renumbered();
                Outcome::Applied(held)
            }
            Err(error) => Outcome::failed(held, chain(&error)),
        }
    }

    /// Loads what was offered, and begins its trial.
    fn attempt(&mut self, offered: Offered) {
        let _work = during(Work::Apply);
        let (held, nonce, received) = (offered.held, offered.nonce, offered.received);
        self.answer(nonce, Outcome::Applying(held), received);
        let mut prepared = match self.prepare(nonce, held, offered.content) {
            Ok(prepared) => prepared,
            Err(rejection) => {
                let outcome = Outcome::Rejected(held, chain(&rejection));
                return self.answer(nonce, outcome, received);
            }
        };
        // The journal names it now: an earlier trial is over.
        self.node.trial_state.begun(Attempt { nonce, held });
        self.node.trial = None;
        self.report.outcome = Outcome::Applying(held);
        let skipped_preflight = prepared.skipped_preflight().map(|why| chain(why));
        let kernel = &mut *self.node.kernel;
        let tried = prepared.write(kernel).and_then(|()| {
            let changed = Instant::now();
            Ok((changed, prepared.read_back(kernel)?))
        });
        match tried {
            Ok((changed, (candidate, sets))) => {
                self.drift.set_counted(sets);
                self.node
                    .trial_state
                    .changed(changed, offered.confirm_within);
                self.begin_trial(Trial {
                    candidate,
                    received,
                    within: offered.confirm_within,
                    skipped_preflight,
                });
            }
            Err(failure) => {
                let undo = Undo::after(chain(&failure), self.undo());
                self.answer(nonce, Outcome::Failed(held, undo), received);
            }
        }
    }

    fn prepare(&mut self, nonce: u64, held: Held, content: Content) -> Result<Prepared, Rejection> {
        let content = match content {
            Content::Bytes(bytes) => bytes,
            Content::Missing(why) => return Err(Rejection::Missing(why)),
            Content::NotNeeded => {
                return Err(Rejection::Missing("it was not fetched".to_owned()));
            }
        };
        if let Some(why) = self.dynamic_sets.refused() {
            return Err(Rejection::DynamicSetsRefused(why.to_owned()));
        }
        let ruleset = apply::check_content(&self.settings.node, held, &content)?;
        drop(content); // a large one need not stay beside what was read from it
        self.follow_ssh();
        let failsafe = self.node.failsafe.clone();
        let sets = self.dynamic_sets.held();
        let sets = sets.as_ref().map(|sets| &sets.received);
        let mut prepared = Prepared::preflight(&*self.node.kernel, held, ruleset, sets, failsafe)?;
        prepared.read_kernel(&mut *self.node.kernel)?;
        if let Err(rejection) = prepared.begin(&self.node.ledger, nonce, clock::now()) {
            // The journal may be there without being durable, and the kernel does not change. But
            // only the journal tells the next start of a trial that goes on, or an undo that is
            // due.
            if self.node.trial_state.is_settled() {
                let _gone = self.node.ledger.settle();
            }
            return Err(rejection);
        }
        Ok(prepared)
    }
}
