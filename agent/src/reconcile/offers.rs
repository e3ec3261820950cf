//! The task's part about offers: what is tried, and what is answered at once.

use std::time::Instant;

use tracing::{info, info_span, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::{Attempt, Held, Reaction};

use super::Reconciler;
use super::status::Outcome;
use super::trial::Trial;
use crate::enforcement::apply::{self, Prepared, Rejection};
use crate::failpoint::{Work, during};
use crate::host::clock;
use crate::host::errors::chain;
use crate::mailbox::{Content, Offered};

impl Reconciler {
    pub(super) fn take(&mut self, offered: Offered) {
        let span = info_span!("apply", generation = offered.held.generation);
        let _inside = span.enter();
        let (held, nonce, received) = (offered.held, offered.nonce, offered.received);
        let outcome = match self.course.offer(Attempt { nonce, held }) {
            Reaction::Try => return self.attempt(offered),
            // The link dials once more: this delivery needs a Hello of its own.
            Reaction::OnTrial => return self.tell(nonce, Some(received)),
            // It is confirmed, but not in force: it is made so.
            Reaction::Same | Reaction::Renumber
                if self.fallback.is_some() && self.course.on_trial().is_none() =>
            {
                return self.attempt(offered);
            }
            Reaction::Same => match self.undo_if_due() {
                None => Outcome::applied(held),
                Some(error) => Outcome::failed(held, error),
            },
            Reaction::Renumber => self.renumber(held),
            Reaction::Refuse(refusal) => Outcome::rejected(held, refusal.to_string()),
        };
        self.answer(nonce, outcome, received);
    }

    /// Says what came of an offer. A trial that goes on is what the node goes on to say of
    /// itself.
    fn answer(&mut self, nonce: u64, outcome: Outcome, received: Instant) {
        match outcome.state {
            pb::NodeState::Applied => info!("applied"),
            pb::NodeState::Applying => {}
            _ => warn!(reason = outcome.error, "not applied"),
        }
        if self.course.on_trial().is_some() {
            let status = self.status(nonce, &outcome, Some(received));
            self.outbox.answer(status);
            return;
        }
        self.outcome = outcome;
        self.tell(nonce, Some(received));
        self.tell_facts();
    }

    /// The same content under a newer number. There is nothing to try: it was proved.
    fn renumber(&mut self, held: Held) -> Outcome {
        let undone = match self.course.on_trial() {
            Some(_) => self.undo(),
            None => self.undo_if_due(),
        };
        if let Some(error) = undone {
            return Outcome::failed(held, error);
        }
        let Some(confirmed) = &mut self.confirmed else {
            return Outcome::rejected(held, "nothing is confirmed here".to_owned());
        };
        let _work = during(Work::Renumber);
        let before = std::mem::replace(&mut confirmed.held, held);
        match self.ledger.confirm(confirmed) {
            Ok(()) => {
                self.course.renumbered(held);
                self.flows.renumbered();
                Outcome::applied(held)
            }
            Err(error) => {
                confirmed.held = before;
                if let Err(error) = self.ledger.take_back(Some(confirmed)) {
                    warn!(
                        reason = chain(&error),
                        "the old number was not written back"
                    );
                }
                Outcome::failed(held, chain(&error))
            }
        }
    }

    /// Brings the kernel to what was offered, and begins the trial.
    fn attempt(&mut self, offered: Offered) {
        let _work = during(Work::Apply);
        let (held, nonce, received) = (offered.held, offered.nonce, offered.received);
        self.answer(nonce, Outcome::applying(held), received);
        let prepared = match self.prepare(nonce, held, offered.content) {
            Ok(prepared) => prepared,
            Err(rejection) => {
                let outcome = Outcome::rejected(held, chain(&rejection));
                return self.answer(nonce, outcome, received);
            }
        };
        // The journal names it now: an earlier trial is over.
        self.course.begun(Attempt { nonce, held });
        self.trial = None;
        self.outcome = Outcome::applying(held);
        let untried = prepared.untried().map(|why| {
            let why = chain(why);
            format!("rulesets are not tried before they are loaded: {why}")
        });
        let kernel = &mut *self.kernel;
        let tried = prepared.write(kernel).and_then(|()| {
            let changed = Instant::now();
            Ok((changed, prepared.prove(kernel)?))
        });
        match tried {
            Ok((changed, (candidate, sets))) => {
                self.sets = Some(sets);
                self.course.changed(changed, offered.confirm_within);
                self.begin_trial(Trial {
                    candidate,
                    received,
                    within: offered.confirm_within,
                    untried,
                });
            }
            Err(failure) => {
                let error = self.undo_after(chain(&failure));
                self.answer(nonce, Outcome::failed(held, error), received);
            }
        }
    }

    fn prepare(&mut self, nonce: u64, held: Held, content: Content) -> Result<Prepared, Rejection> {
        let content = match content {
            Content::Bytes(bytes) => bytes,
            Content::Missing(why) => return Err(Rejection::Missing(why)),
            Content::NotNeeded => {
                return Err(Rejection::Missing("it was not asked for".to_owned()));
            }
        };
        if let Some(why) = self.live.refused() {
            return Err(Rejection::NoLive(why.to_owned()));
        }
        let ruleset = apply::check_content(&self.settings.own, held, &content)?;
        drop(content); // a large one need not stay beside what was read from it
        let failsafe = self.failsafe.clone();
        let live = self.live.held();
        let told = live.as_ref().map(|live| &live.told);
        let prepared = Prepared::with_live(&*self.kernel, held, ruleset, told, failsafe)?;
        if let Err(rejection) = prepared.begin(&self.ledger, nonce, clock::now()) {
            // It may be there, without being durable; the kernel does not change. But a trial
            // that goes on, or an undo that is due, is known to the next start by it alone.
            if self.course.is_settled() {
                let _gone = self.ledger.settle();
            }
            return Err(rejection);
        }
        Ok(prepared)
    }
}
