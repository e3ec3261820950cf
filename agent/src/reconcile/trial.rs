//! Trials: a ruleset runs, and is rolled back unless the controller confirms it over a connection
//! that came through it, and its probes succeed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::session::Attempt;

use super::Reconciler;
use super::node::{Trial, Undone};
use super::outcome::{Outcome, Undo};
use super::probes::{describe_failed, describe_unfinished};
use super::warnings::Warning;
use crate::failpoint::{Step, Work, during, reach};
use crate::ledger::Confirmed;
use crate::mailbox::{Confirmation, DialResult, ProbeResults};
use crate::probe;

/// A rollback that failed is retried this soon: whoever is locked out does not wait for a poll.
const UNDO_RETRY: Duration = Duration::from_millis(500);
/// Without a list of admins, rules that were tried protect better than none.
const NOTHING_TO_RESTORE: &str =
    "what ran before is lost, so the new rules stay until the next push";

impl Reconciler {
    /// The link notices the trial in the status, and dials anew.
    pub(super) fn begin_trial(&mut self, trial: Trial) {
        info!(seconds = trial.within.as_secs_f64(), "trial begins");
        let (held, received) = (trial.candidate.held, trial.received);
        self.node.trial = Some(trial);
        self.running_was_read_back();
        self.report.outcome = Outcome::OnTrial(held);
        self.report_status(None, Some(received));
        reach(Step::TrialBegun);
        self.report_facts();
    }

    /// The controller confirms something. It is kept once its probes succeeded.
    pub(super) fn confirm(&mut self, confirmation: Confirmation) {
        let Confirmation { attempt, received } = confirmation;
        let generation = attempt.held.generation;
        if self.node.trial_state.probing() == Some(attempt) {
            return; // confirmed again, over another connection of this trial
        }
        if !self.node.trial_state.confirm(attempt, received) {
            warn!(
                generation,
                "confirmation ignored: late, or of another trial"
            );
            return;
        }
        let _work = during(Work::Apply);
        reach(Step::Accepted);
        self.start_probes(attempt);
    }

    /// Starts the probes of what is on trial, which run on a thread of their own. Without any, it
    /// is kept at once.
    fn start_probes(&mut self, attempt: Attempt) {
        let (Some(trial), Some(deadline)) = (&self.node.trial, self.node.trial_state.deadline())
        else {
            return;
        };
        let probes = trial.candidate.ruleset.probes.clone();
        if probes.is_empty() {
            reach(Step::Probed);
            return self.keep(attempt);
        }
        let generation = attempt.held.generation;
        info!(generation, probes = probes.len(), "probes start");
        let left = deadline.saturating_duration_since(Instant::now());
        // They must end before the trial does, so that its end can name the one that failed.
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let limit = probe::LIMIT.min(Duration::from_millis(milliseconds / 10 * 9));
        let inbox = Arc::clone(&self.inbox);
        let done = move |failed| inbox.probed(attempt, failed);
        if let Err(error) = probe::start(probes, limit, done) {
            self.roll_back(attempt, format!("the probes cannot be run: {error}"));
        }
    }

    pub(super) fn probes_ended(&mut self, results: ProbeResults) {
        let ProbeResults {
            attempt,
            failed,
            ended,
        } = results;
        if !self.node.trial_state.probed(attempt, ended) {
            let generation = attempt.held.generation;
            info!(generation, "probes ignored: late, or of another trial");
        } else if failed.is_empty() {
            let _work = during(Work::Apply);
            reach(Step::Probed);
            self.keep(attempt);
        } else {
            self.roll_back(attempt, describe_failed(&failed));
        }
    }

    /// Makes what is on trial the ruleset to boot with.
    fn keep(&mut self, attempt: Attempt) {
        let Some(trial) = self.node.trial.take() else {
            return;
        };
        let generation = attempt.held.generation;
        let received = trial.received;
        let skipped_preflight = trial.skipped_preflight.clone();
        match self.node.persist(trial) {
            Ok(before) => {
                self.dynamic_sets.knows_all();
                self.back_in_force();
                let before = before.map(Confirmed::into_effective);
                self.flows.cut_newly_denied(&mut self.node, before);
                self.report.warnings = skipped_preflight
                    .map(|reason| Warning::NoPreflight { reason })
                    .into_iter()
                    .collect();
                info!(generation, digest = %attempt.held.digest.short(), "applied");
                self.report.outcome = Outcome::Applied(attempt.held);
            }
            Err(failure) => {
                let undo = Undo::after(chain(&failure), self.undo());
                self.report.outcome = Outcome::Failed(attempt.held, undo);
                warn!(
                    generation,
                    reason = self.report.outcome.error(),
                    "not applied"
                );
            }
        }
        reach(Step::Reported);
        self.report_status(Some(attempt.nonce), Some(received));
        self.report_facts();
    }

    /// Ends a trial whose time is over.
    pub(super) fn end_trial_in_time(&mut self) {
        if !self.node.trial_state.expired(Instant::now()) {
            return;
        }
        let (Some(attempt), Some(trial)) = (self.node.trial_state.on_trial(), &self.node.trial)
        else {
            return;
        };
        let reason = if self.node.trial_state.probing().is_some() {
            describe_unfinished(&trial.candidate.ruleset.probes, trial.within)
        } else {
            let dialled = self.inbox.last_dialled(attempt.nonce);
            describe_unconfirmed(dialled, attempt.held.generation, trial.within)
        };
        self.roll_back(attempt, reason);
    }

    /// Ends a trial by going back, because of `reason`.
    fn roll_back(&mut self, attempt: Attempt, reason: String) {
        let Some(trial) = self.node.trial.take() else {
            return;
        };
        let _work = during(Work::Undo);
        let held = attempt.held;
        self.report.outcome = match self.undo() {
            Ok(()) if self.node.knows_what_to_run() => Outcome::RolledBack(held, reason),
            Ok(()) => Outcome::failed(held, format!("{reason}; {NOTHING_TO_RESTORE}")),
            Err(error) => Outcome::Failed(held, Undo::Pending { reason, error }),
        };
        let (generation, reason) = (held.generation, self.report.outcome.error());
        if self.node.trial_state.undo_is_due() {
            error!(generation, reason, "not rolled back yet");
        } else {
            warn!(generation, reason, "rolled back");
        }
        reach(Step::Reported);
        self.report_status(Some(attempt.nonce), Some(trial.received));
        self.report_facts();
    }

    /// The agent ends. A trial would go on without it until the next start, so it is rolled back
    /// now; a rollback that fails is left to that start, by the journal.
    pub(super) fn leave(&mut self) {
        if let Some(attempt) = self.node.trial_state.on_trial() {
            let generation = attempt.held.generation;
            warn!(generation, "rolling back: the agent ends during a trial");
            let _left_to_the_next_start = self.undo();
        }
    }

    /// Goes back to the confirmed ruleset, or to no rules of ours.
    pub(super) fn undo(&mut self) -> Result<(), String> {
        let (undone, fell_back) = self.node.undo();
        if fell_back {
            self.report_fallback();
        }
        let undone = undone.inspect_err(|_| self.poll.at_latest(Instant::now() + UNDO_RETRY))?;
        self.drift.count_sets(&mut self.node);
        if undone == Undone::Restored {
            self.back_in_force();
            self.flows.had_gap();
            self.node.refresh_failsafe();
        }
        Ok(())
    }

    /// Until a failed undo is done, the kernel does not run what is confirmed.
    pub(super) fn undo_if_due(&mut self) -> Result<(), String> {
        if self.node.trial_state.undo_is_due() {
            self.undo()
        } else {
            Ok(())
        }
    }

    /// Retries an undo that failed, and reports its end.
    pub(super) fn retry_undo(&mut self) {
        if self.undo().is_ok() {
            let outcome = std::mem::take(&mut self.report.outcome);
            self.report.outcome = outcome.undone(self.node.trial_state.confirmed());
            warn!(reason = self.report.outcome.error(), "rolled back at last");
            self.report_status(None, None);
            self.report_facts();
        }
    }

    /// Reports the fallback to the controller.
    pub(super) fn report_fallback(&mut self) {
        let Some(fallback) = &self.node.fallback else {
            return;
        };
        let description = fallback.describe();
        error!(reason = description, "running management rules only");
        self.drift.is_in_fallback();
        let confirmed = self.node.trial_state.confirmed();
        self.report.outcome = Outcome::Fallback(confirmed, description);
        self.report_status(None, None);
    }

    /// Tries to put the confirmed ruleset in force again, else holds the management rules.
    pub(super) fn retry_confirmed(&mut self) {
        match self.node.restore_confirmed() {
            Some(Ok(held)) => {
                self.back_in_force();
                self.report.outcome = Outcome::Applied(held);
                info!(
                    generation = held.generation,
                    "confirmed ruleset in force again"
                );
                self.drift.count_sets(&mut self.node);
                self.node.refresh_failsafe();
                self.report_status(None, None);
                return;
            }
            Some(Err(error)) => {
                tracing::debug!(reason = chain(&error), "confirmed ruleset not in force yet");
            }
            None => {}
        }
        if self.node.hold_fallback() {
            self.report_fallback();
        }
    }

    /// A confirmed ruleset is in force, and proved.
    fn back_in_force(&mut self) {
        self.node.leave_fallback();
        self.running_was_read_back();
    }

    /// The ruleset that runs was just proved.
    fn running_was_read_back(&mut self) {
        if self.dynamic_sets.is_in_force() {
            self.flows.had_gap();
        }
        self.drift.is_clean_now();
    }
}

/// Why a trial was not confirmed.
fn describe_unconfirmed(dialled: Option<DialResult>, generation: u64, within: Duration) -> String {
    let seconds = within.as_secs_f64();
    let none = format!(
        "no new connection to the controller came through the new rules within {seconds} s"
    );
    match dialled {
        None => none,
        Some(DialResult::Failed(why)) => format!("{none}: {why}"),
        Some(DialResult::Welcomed) => format!(
            "a new connection to the controller came through the new rules, but it did not \
             confirm generation {generation} within {seconds} s"
        ),
    }
}
