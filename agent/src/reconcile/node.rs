//! The rules of the node: a ruleset on trial, the confirmed one, or management rules in its place.

use std::time::{Duration, Instant};

use tracing::{error, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::session::{Held, TrialState};
use voipfleet_ruleset::iptables::Failsafe;

use crate::enforcement::apply::{self, Failure};
use crate::enforcement::management_rules::{self, ExistingRules, Fallback};
use crate::enforcement::recovery::Recovered;
use crate::failpoint::{Work, during};
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Ledger};

/// A ruleset on trial. The journal names it, and the ledger what to go back to.
#[derive(Debug)]
pub(super) struct Trial {
    /// The ruleset that runs.
    pub(super) candidate: Confirmed,
    /// When its offer arrived.
    pub(super) received: Instant,
    /// The longest that the trial may last.
    pub(super) within: Duration,
    /// Why there was no preflight.
    pub(super) skipped_preflight: Option<String>,
}

/// The kernel, the ledger, and what the one should hold by the other.
pub(super) struct Node {
    pub(super) kernel: Box<dyn Kernel>,
    pub(super) ledger: Ledger,
    /// Decides what follows; the fields below hold what it decides about.
    pub(super) trial_state: TrialState,
    pub(super) confirmed: Option<Confirmed>,
    pub(super) trial: Option<Trial>,
    /// The management rules that run in place of the confirmed ruleset, except during a trial.
    pub(super) fallback: Option<Fallback>,
    /// The controllers that the agent dials.
    pub(super) failsafe: Failsafe,
}

/// The state that an undo restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undone {
    /// The confirmed ruleset, or no rules of ours where nothing was ever confirmed.
    Restored,
    /// The management rules: the confirmed ruleset is lost.
    Closed,
}

impl Node {
    pub(super) fn new(kernel: Box<dyn Kernel>, ledger: Ledger, recovered: &mut Recovered) -> Self {
        let confirmed = recovered.confirmed.take();
        let failsafe = confirmed.as_ref().map(|confirmed| &confirmed.failsafe);
        Self {
            kernel,
            ledger,
            trial_state: std::mem::take(&mut recovered.trial_state),
            failsafe: failsafe.cloned().unwrap_or_default(),
            confirmed,
            trial: None,
            fallback: recovered.fallback.take(),
        }
    }

    /// The ruleset that the kernel should hold: the one on trial, else the confirmed one.
    pub(super) fn running(&self) -> Option<&Confirmed> {
        let trial = self.trial.as_ref().map(|trial| &trial.candidate);
        trial.or(self.confirmed.as_ref())
    }

    /// The same, with the kernel that should hold it.
    pub(super) fn kernel_and_running(&mut self) -> (&mut dyn Kernel, Option<&Confirmed>) {
        let trial = self.trial.as_ref().map(|trial| &trial.candidate);
        (&mut *self.kernel, trial.or(self.confirmed.as_ref()))
    }

    /// Both the ruleset on trial and the one to go back to.
    pub(super) fn all_rulesets(&mut self) -> impl Iterator<Item = &mut Confirmed> {
        let trial = self.trial.as_mut().map(|trial| &mut trial.candidate);
        trial.into_iter().chain(&mut self.confirmed)
    }

    /// Whether management rules run in place of the confirmed ruleset.
    pub(super) fn is_in_fallback(&self) -> bool {
        self.trial.is_none() && self.fallback.is_some()
    }

    /// Whether the kernel is known to hold something else than it should.
    pub(super) fn is_out_of_force(&self) -> bool {
        self.trial_state.undo_is_due() || self.is_in_fallback()
    }

    /// The confirmed generation, if it is in force except for a trial.
    pub(super) fn confirmed_in_force(&self) -> Option<Held> {
        self.trial_state
            .confirmed()
            .filter(|_| self.fallback.is_none())
    }

    /// Runs the management rules because of `reason`. Returns whether that is news.
    pub(super) fn fall_back(&mut self, reason: &str, existing: ExistingRules) -> bool {
        let confirmed = self.confirmed.as_ref();
        let mut fallback = management_rules::enter_fallback(
            &mut *self.kernel,
            &self.ledger,
            confirmed,
            reason,
            existing,
        );
        if let (Some(new), Some(old)) = (&mut fallback, &self.fallback) {
            new.note = old.note.clone();
        }
        // Rules of ours may be there because another program put them back: only a ruleset that
        // was confirmed and read back ends a fallback.
        let news = fallback.is_some() && fallback != self.fallback;
        if news {
            self.fallback = fallback;
        }
        news
    }

    /// Puts the management rules back where something removed them. Returns whether there is news.
    pub(super) fn hold_fallback(&mut self) -> bool {
        let Some(fallback) = &self.fallback else {
            return false;
        };
        let reason = fallback.note.reason.clone();
        self.fall_back(&reason, ExistingRules::Keep)
    }

    /// A confirmed ruleset is in force again.
    pub(super) fn leave_fallback(&mut self) {
        management_rules::leave_fallback(&self.ledger, &mut self.fallback);
    }

    /// Puts the confirmed ruleset in force, and proves it. None where nothing is confirmed.
    pub(super) fn restore_confirmed(&mut self) -> Option<Result<Held, Failure>> {
        let confirmed = self.confirmed.as_mut()?;
        let restored = apply::enforce_confirmed(&mut *self.kernel, &self.ledger, confirmed);
        Some(restored.map(|()| confirmed.held))
    }

    /// Goes back to the confirmed ruleset, or to no rules of ours. Also returns whether the node
    /// fell back to its management rules on the way.
    pub(super) fn undo(&mut self) -> (Result<Undone, String>, bool) {
        let _work = during(Work::Undo);
        self.trial = None;
        self.trial_state.give_up();
        // Without a confirmed ruleset, what failed must not stay in its place: the management
        // rules that ran before it come back.
        let closes = self.confirmed.is_none()
            && (self.fallback.is_some() || (self.ledger.is_lost() && self.ledger.knows_admins()));
        let mut fell_back = false;
        if closes {
            fell_back = self.fall_back("the confirmed ruleset is lost", ExistingRules::Replace);
        }
        let confirmed = self.confirmed.as_mut();
        if let Err(failure) = apply::roll_back(&mut *self.kernel, &self.ledger, confirmed) {
            let why = chain(&failure);
            error!(reason = why, "rollback failed");
            if self.confirmed.is_some() {
                fell_back |= self.fall_back(&why, ExistingRules::Keep);
            }
            return (Err(why), fell_back);
        }
        self.trial_state.undone();
        let undone = if closes {
            Undone::Closed
        } else {
            Undone::Restored
        };
        (Ok(undone), fell_back)
    }

    /// Whether an undo had something to go back to.
    pub(super) fn knows_what_to_run(&self) -> bool {
        self.confirmed.is_some() || self.fallback.is_some() || !self.ledger.is_lost()
    }

    /// The same content gets a newer number; nothing needs a trial.
    pub(super) fn renumber(&mut self, held: Held) -> Result<(), Failure> {
        let Some(confirmed) = &mut self.confirmed else {
            return Ok(());
        };
        let _work = during(Work::Renumber);
        let before = std::mem::replace(&mut confirmed.held, held);
        if let Err(error) = self.ledger.confirm(confirmed) {
            confirmed.held = before;
            if let Err(error) = self.ledger.take_back(Some(confirmed)) {
                warn!(
                    reason = chain(&error),
                    "previous generation number not restored on disk"
                );
            }
            return Err(error.into());
        }
        self.trial_state.renumbered(held);
        Ok(())
    }

    /// Makes the ruleset of `trial` the one to boot with. Returns the one before it.
    pub(super) fn persist(&mut self, trial: Trial) -> Result<Option<Confirmed>, Failure> {
        if let Err(error) = self.ledger.confirm(&trial.candidate) {
            if let Err(error) = self.ledger.take_back(self.confirmed.as_ref()) {
                error!(
                    reason = chain(&error),
                    "cannot tell which ruleset the next boot restores"
                );
            }
            return Err(error.into());
        }
        if let Err(error) = self.ledger.settle() {
            // The next start finds that the journal names what is confirmed.
            warn!(reason = chain(&error), "journal not removed");
        }
        self.trial_state.persisted();
        Ok(self.confirmed.replace(trial.candidate))
    }

    /// Makes the failsafe chain of what runs follow the addresses that the agent dials.
    pub(super) fn refresh_failsafe(&mut self) {
        if self.is_in_fallback() {
            return; // the controllers' replies pass as established
        }
        let failsafe = self.failsafe.clone();
        let (kernel, running) = self.kernel_and_running();
        let Some(running) = running.filter(|running| running.failsafe != failsafe) else {
            return;
        };
        let _work = during(Work::Refresh);
        let refreshed = apply::refresh_failsafe(kernel, running, failsafe)
            .map_err(Failure::from)
            .and_then(|refreshed| {
                if let Some(trial) = &mut self.trial {
                    trial.candidate = refreshed;
                } else {
                    self.ledger.confirm(&refreshed)?;
                    self.confirmed = Some(refreshed);
                }
                Ok(())
            });
        if let Err(error) = refreshed {
            // The next check puts the old chain back, and the next dial tries again.
            warn!(reason = chain(&error), "failsafe chain not updated");
        }
    }
}
