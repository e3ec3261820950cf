//! A start: finishes what an earlier run left on disk and in the kernel.

use std::time::Duration;

use voipfleet_protocol::errors::chain;
use voipfleet_protocol::session::{JournalState, Start, TrialState};

use super::apply::{Failure, enforce_confirmed, roll_back};
use super::dynamic_sets::{self, StoredSets};
use super::management_rules::{self, ExistingRules, Fallback};
use super::target::EnforceError;
use super::write;
use crate::failpoint::{Step, Work, during, reach};
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError};

/// The result of a start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The ruleset that the node runs, or should.
    pub confirmed: Option<Confirmed>,
    /// The state between it and an offer.
    pub trial_state: TrialState,
    /// A push that was cut short before it was confirmed, and is rolled back.
    pub interrupted: Option<Interrupted>,
    /// Why the confirmed ruleset is lost; the kernel was left alone.
    pub lost: Option<String>,
    /// Why the confirmed ruleset is not in force.
    pub failed: Option<Failure>,
    /// What runs in place of the confirmed ruleset, where no rules of ours were in force.
    pub fallback: Option<Fallback>,
    /// The dynamic sets on disk.
    pub dynamic_sets: StoredSets,
}

/// Pauses before retries: at boot, other programs hold the xtables lock, or load modules that we
/// need.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// A push that was cut short.
#[derive(Debug)]
pub enum Interrupted {
    /// This one.
    Known(Journal),
    /// Its journal is damaged.
    Unknown(LedgerError),
}

/// Rolls back what was cut short, and puts the confirmed ruleset in force.
pub fn recover(kernel: &mut dyn Kernel, ledger: &Ledger) -> Recovered {
    let journal = ledger.journal();
    let mut recovered = match read_confirmed(ledger) {
        Ok(confirmed) => Recovered {
            confirmed,
            ..Recovered::default()
        },
        Err(lost) => Recovered {
            lost: Some(lost),
            ..Recovered::default()
        },
    };
    recovered.dynamic_sets = dynamic_sets::load(kernel, ledger, recovered.confirmed.as_mut());
    if recovered.lost.is_some() {
        recovered.without_confirmed(kernel, ledger, journal)
    } else {
        recovered.with_confirmed(kernel, ledger, journal)
    }
}

/// The confirmed ruleset; none where nothing was ever confirmed, or why it is lost.
fn read_confirmed(ledger: &Ledger) -> Result<Option<Confirmed>, String> {
    match ledger.confirmed() {
        Ok(Some(confirmed)) => Ok(Some(confirmed)),
        Ok(None) if ledger.is_lost() => Err("its file was corrupt or missing".to_owned()),
        Ok(None) => match ledger.find_loss() {
            Ok(true) => Err("its file is missing".to_owned()),
            Ok(false) => Ok(None),
            Err(error) => Err(chain(&error)),
        },
        Err(error) => Err(chain(&error)),
    }
}

fn interrupted(journal: Result<Option<Journal>, LedgerError>) -> Option<Interrupted> {
    match journal {
        Ok(journal) => journal.map(Interrupted::Known),
        Err(error) => Some(Interrupted::Unknown(error)),
    }
}

fn begin(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    first: Start,
    confirmed: Option<&mut Confirmed>,
) -> Result<(), Failure> {
    let _work = during(match first {
        Start::Undo => Work::UndoAtStart,
        Start::Keep => Work::Restore,
        Start::Settle => Work::Settle,
    });
    reach(Step::LedgerRead);
    match (first, confirmed) {
        (Start::Undo, None) => {
            // Else the list of admins of an interrupted first push would look like a lost ruleset.
            ledger.take_back(None)?;
            roll_back(kernel, ledger, None)
        }
        (Start::Undo, confirmed) => roll_back(kernel, ledger, confirmed),
        (Start::Keep, None) => Ok(()),
        (Start::Keep, Some(confirmed)) => enforce_confirmed(kernel, ledger, confirmed),
        (Start::Settle, confirmed) => {
            let settled = ledger.settle().map_err(Failure::Ledger);
            let enforced = confirmed.map_or(Ok(()), |confirmed| {
                enforce_confirmed(kernel, ledger, confirmed)
            });
            enforced.and(settled)
        }
    }
}

impl Recovered {
    /// Runs the management rules: the confirmed ruleset is lost.
    fn without_confirmed(
        mut self,
        kernel: &mut dyn Kernel,
        ledger: &Ledger,
        journal: Result<Option<Journal>, LedgerError>,
    ) -> Self {
        let existing = match &journal {
            // Rules of ours may be those of a push that was cut short.
            Ok(Some(_)) | Err(_) if ledger.knows_admins() => ExistingRules::Replace,
            _ => ExistingRules::Keep,
        };
        if existing == ExistingRules::Replace {
            self.interrupted = interrupted(journal);
        }
        let mut recovered = self.protect(kernel, ledger, existing);
        recovered.failed = ledger.settle().err().map(Failure::Ledger);
        recovered
    }

    /// Puts the confirmed ruleset in force, or no rules of ours where nothing was ever confirmed.
    fn with_confirmed(
        mut self,
        kernel: &mut dyn Kernel,
        ledger: &Ledger,
        journal: Result<Option<Journal>, LedgerError>,
    ) -> Self {
        let noted = match &journal {
            Ok(None) => JournalState::Nothing,
            Ok(Some(journal)) => JournalState::Change(journal.held),
            Err(_) => JournalState::Unreadable,
        };
        let held = self.confirmed.as_ref().map(|confirmed| confirmed.held);
        let (trial_state, first) = TrialState::start(held, noted);
        self.trial_state = trial_state;
        let mut pauses = PAUSES.into_iter();
        let done = loop {
            let done = begin(kernel, ledger, first, self.confirmed.as_mut());
            match (&done, pauses.next()) {
                (Err(error), Some(pause)) if error.may_pass() => std::thread::sleep(pause),
                _ => break done,
            }
        };
        if first == Start::Undo {
            if done.is_ok() {
                self.trial_state.undone();
            }
            self.interrupted = interrupted(journal);
        }
        self.failed = done.err();
        self.protect(kernel, ledger, ExistingRules::Keep)
    }

    /// Runs the management rules where the confirmed ruleset is not in force.
    fn protect(
        mut self,
        kernel: &mut dyn Kernel,
        ledger: &Ledger,
        existing: ExistingRules,
    ) -> Self {
        let reason = match (&self.lost, &self.failed, &self.confirmed) {
            (Some(lost), _, _) => format!("the confirmed ruleset is lost: {lost}"),
            (None, Some(failed), Some(_)) => chain(failed),
            // Nothing was ever confirmed: the node stays open.
            (None, _, None) => return self,
            (None, None, Some(confirmed)) => {
                // Its file may have been lost; the next push reports it if this fails.
                let _kept = ledger.keep_management(confirmed);
                management_rules::leave_fallback(ledger, &mut self.fallback);
                return self;
            }
        };
        let confirmed = self.confirmed.as_ref();
        self.fallback =
            management_rules::enter_fallback(kernel, ledger, confirmed, &reason, existing);
        self
    }
}

/// Removes all rules and sets of ours from the kernel; with `purge`, the ledger too.
pub fn teardown(kernel: &mut dyn Kernel, ledger: &Ledger, purge: bool) -> Result<(), Failure> {
    let _work = during(Work::Teardown);
    // First the journal, and the ledger if it goes: a start after a crash in between must not put
    // back what is being removed.
    ledger.settle()?;
    if purge {
        ledger.purge()?;
    }
    write::clear(kernel).map_err(|error: EnforceError| error.into())
}
