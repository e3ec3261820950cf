//! The task's part about trials: a ruleset that runs, and is undone unless the controller
//! confirms it over a connection that came through it, and its probes succeed.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use voipfleet_protocol::session::Attempt;

use super::status::Outcome;
use super::{Reconciler, probes};
use crate::enforcement::apply;
use crate::enforcement::management_rules::Found;
use crate::failpoint::{Step, Work, during, reach};
use crate::host::errors::chain;
use crate::ledger::Confirmed;
use crate::mailbox::{Confirmation, Dialled};

/// What is on trial. The journal names it, and the ledger what to go back to.
#[derive(Debug)]
pub(super) struct Trial {
    /// What runs.
    pub(super) candidate: Confirmed,
    /// When its offer arrived.
    pub(super) received: Instant,
    /// How long the trial may last.
    pub(super) within: Duration,
    /// Why it was loaded without a try in a scratch namespace.
    pub(super) untried: Option<String>,
}

/// What the kernel should be now: what is on trial, else what is confirmed.
pub(super) fn running<'a>(
    trial: Option<&'a Trial>,
    confirmed: Option<&'a Confirmed>,
) -> Option<&'a Confirmed> {
    trial.map(|trial| &trial.candidate).or(confirmed)
}

impl Reconciler {
    /// Says so; the link hears it, and dials anew.
    pub(super) fn begin_trial(&mut self, trial: Trial) {
        info!(seconds = trial.within.as_secs_f64(), "on trial");
        let (held, received) = (trial.candidate.held, trial.received);
        self.trial = Some(trial);
        self.is_clean_now();
        self.outcome = Outcome::on_trial(held);
        self.tell(0, Some(received));
        reach(Step::Begun);
        self.tell_facts();
    }

    /// The controller confirms something. What it confirms is kept once its probes succeeded.
    pub(super) fn confirm(&mut self, confirmation: Confirmation) {
        let Confirmation { attempt, received } = confirmation;
        let generation = attempt.held.generation;
        if self.course.probing() == Some(attempt) {
            return; // said again, on another connection of this trial
        }
        if !self.course.confirm(attempt, received) {
            warn!(
                generation,
                "a confirmation that is late or of something else"
            );
            return;
        }
        let _work = during(Work::Apply);
        reach(Step::Accepted);
        self.probe(attempt);
    }

    /// Makes what is on trial the ruleset to boot with.
    pub(super) fn keep(&mut self, attempt: Attempt) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        let generation = attempt.held.generation;
        if let Err(failure) = self.ledger.confirm(&trial.candidate) {
            let failure = apply::Failure::Ledger(failure);
            if let Err(error) = self.ledger.take_back(self.confirmed.as_ref()) {
                error!(
                    reason = chain(&error),
                    "what the next boot restores is not known"
                );
            }
            let error = self.undo_after(chain(&failure));
            warn!(generation, reason = error, "not applied");
            self.outcome = Outcome::failed(attempt.held, error);
        } else {
            if let Err(error) = self.ledger.settle() {
                // The next start sees that the journal speaks of what is confirmed.
                warn!(reason = chain(&error), "the journal stays behind");
            }
            self.course.persisted();
            let before = self.confirmed.replace(trial.candidate);
            self.knows_all_live();
            self.healed();
            self.cut_newly_denied(before.map(Confirmed::into_effective));
            self.own_warnings = trial.untried.into_iter().collect();
            info!(generation, digest = %attempt.held.digest.short(), "applied");
            self.outcome = Outcome::applied(attempt.held);
        }
        reach(Step::Told);
        self.tell(attempt.nonce, Some(trial.received));
        self.tell_facts();
    }

    /// Ends a trial whose time is over.
    pub(super) fn end_trial_in_time(&mut self) {
        if !self.course.expired(Instant::now()) {
            return;
        }
        let (Some(attempt), Some(trial)) = (self.course.on_trial(), &self.trial) else {
            return;
        };
        let missing = if self.course.probing().is_some() {
            probes::unfinished(&trial.candidate.ruleset.probes, trial.within)
        } else {
            let dialled = self.inbox.last_dialled(attempt.nonce);
            missing(dialled, attempt.held.generation, trial.within)
        };
        self.roll_back(attempt, missing);
    }

    /// Ends a trial by going back because of `missing`.
    pub(super) fn roll_back(&mut self, attempt: Attempt, missing: String) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        let _work = during(Work::Undo);
        self.outcome = match self.undo() {
            None if self.knows_what_runs() => Outcome::rolled_back(attempt.held, missing),
            None => Outcome::failed(attempt.held, format!("{missing}; {LOST}")),
            Some(error) => Outcome::failed(attempt.held, format!("{missing}{STUCK}{error}")),
        };
        warn!(
            generation = attempt.held.generation,
            reason = self.outcome.error,
            "rolled back"
        );
        reach(Step::Told);
        self.tell(attempt.nonce, Some(trial.received));
        self.tell_facts();
    }

    /// The agent ends. Nobody would undo a trial after it until the next start, so it is
    /// undone now; an undo that fails is left to that start, by the journal.
    pub(super) fn leave(&mut self) {
        let Some(attempt) = self.course.on_trial() else {
            return;
        };
        let generation = attempt.held.generation;
        warn!(generation, "the agent ends in a trial, and goes back");
        self.undo();
    }

    /// Goes back to the confirmed ruleset, or to nothing of ours. Gives what went wrong.
    pub(super) fn undo(&mut self) -> Option<String> {
        let _work = during(Work::Undo);
        self.trial = None;
        self.course.give_up();
        // What it ran before were its management rules; or it is lost, and what failed must not
        // stay in its place.
        let closed = self.confirmed.is_none()
            && (self.fallback.is_some() || (self.ledger.is_lost() && self.ledger.knows_admins()));
        if closed {
            self.fall_back("the confirmed ruleset is lost", Found::Go);
        }
        let done = apply::put_back(&mut *self.kernel, &self.ledger, self.confirmed.as_mut());
        if let Err(failure) = done {
            let error = chain(&failure);
            error!(reason = error, "the kernel could not be put back");
            self.next_poll = self.next_poll.min(Instant::now() + UNDO_AGAIN);
            if self.confirmed.is_some() {
                self.fall_back(&error, Found::Stay);
            }
            return Some(error);
        }
        self.course.undone();
        self.count_sets();
        if !closed {
            self.healed();
            self.flows.had_gap();
            self.refresh_failsafe();
        }
        None
    }

    /// Until an undo that failed is made up for, the kernel does not run what is confirmed. Gives
    /// what went wrong again.
    pub(super) fn undo_if_due(&mut self) -> Option<String> {
        if self.course.undo_is_due() {
            self.undo().map(|error| format!("{NOT_BACK}{error}"))
        } else {
            None
        }
    }

    /// Tries an undo again that failed, and says once that it is done.
    pub(super) fn undo_again(&mut self) {
        if self.undo().is_some() {
            return;
        }
        if let Some((missing, _)) = self.outcome.error.split_once(STUCK) {
            self.outcome.error = format!("{missing}; going back failed at first, and is done now");
        } else if self.outcome.error.starts_with(NOT_BACK) {
            let confirmed = self.course.confirmed();
            self.outcome = confirmed.map_or_else(Outcome::default, Outcome::applied);
        }
        self.tell(0, None);
    }

    /// Whether an undo had something to go back to.
    fn knows_what_runs(&self) -> bool {
        self.confirmed.is_some() || self.fallback.is_some() || !self.ledger.is_lost()
    }

    /// Goes back because of `error`, and adds what goes wrong in that.
    pub(super) fn undo_after(&mut self, mut error: String) -> String {
        if let Some(undo) = self.undo() {
            error.push_str(STUCK);
            error.push_str(&undo);
        }
        error
    }
}

/// Where it is lost too who the admins are, rules that were tried protect better than none.
const LOST: &str = "what it ran before is lost, so the new rules stay until the next push";
const NOT_BACK: &str = "going back from an earlier push fails, and is tried again: ";
/// Whoever is locked out does not wait for the next poll.
const UNDO_AGAIN: Duration = Duration::from_secs(2);
const STUCK: &str = "; going back failed too, and is tried again: ";

/// What a trial that was not confirmed lacked.
fn missing(dialled: Option<Dialled>, generation: u64, within: Duration) -> String {
    let seconds = within.as_secs_f64();
    let none = format!(
        "no new connection to the controller came through the new rules within {seconds} s"
    );
    match dialled {
        None => none,
        Some(Dialled::Not(why)) => format!("{none}: {why}"),
        Some(Dialled::Welcomed) => format!(
            "a new connection to the controller came through the new rules, but it did not \
             confirm generation {generation} within {seconds} s"
        ),
    }
}
