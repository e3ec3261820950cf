//! A start: finishes what an earlier run left on disk and in the kernel.

use std::time::Duration;

use voipfleet_protocol::session::{JournalState, Start, TrialState};

use super::apply::{Failure, enforce_confirmed, roll_back};
use super::dynamic_sets::{self, StoredSets};
use super::management_rules::{self, ExistingRules, Fallback};
use super::target::EnforceError;
use super::write::{self};
use crate::failpoint::{Step, Work, during, reach};
use crate::host::errors::chain;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError};

/// What was found and done.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The ruleset that the node runs, or should.
    pub confirmed: Option<Confirmed>,
    /// The state between it and an offer.
    pub course: TrialState,
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
    let mut recovered = Recovered::default();
    let journal = ledger.journal();
    match ledger.confirmed() {
        Ok(None) if ledger.is_lost() => {
            recovered.lost = Some("its file was corrupt or missing".to_owned());
        }
        Ok(None) => match ledger.find_loss() {
            Ok(true) => recovered.lost = Some("its file is missing".to_owned()),
            Ok(false) => {}
            Err(error) => recovered.lost = Some(chain(&error)),
        },
        Ok(confirmed) => recovered.confirmed = confirmed,
        Err(error) => recovered.lost = Some(chain(&error)),
    }
    recovered.dynamic_sets = dynamic_sets::load(kernel, ledger, recovered.confirmed.as_mut());
    if recovered.lost.is_some() {
        let existing = match &journal {
            // Rules of ours may be those of a push that was cut short.
            Ok(Some(_)) | Err(_) if ledger.knows_admins() => ExistingRules::Replace,
            _ => ExistingRules::Keep,
        };
        if existing == ExistingRules::Replace {
            recovered.interrupted = interrupted(journal);
        }
        let mut recovered = recovered.protect(kernel, ledger, existing);
        recovered.failed = ledger.settle().err().map(Failure::Ledger);
        return recovered;
    }
    let noted = match &journal {
        Ok(None) => JournalState::Nothing,
        Ok(Some(journal)) => JournalState::Change(journal.held),
        Err(_) => JournalState::Unreadable,
    };
    let confirmed = recovered.confirmed.as_ref().map(|confirmed| confirmed.held);
    let (course, first) = TrialState::start(confirmed, noted);
    recovered.course = course;
    let mut pauses = PAUSES.into_iter();
    let done = loop {
        let done = begin(kernel, ledger, first, recovered.confirmed.as_mut());
        match (&done, pauses.next()) {
            (Err(error), Some(pause)) if error.may_pass() => std::thread::sleep(pause),
            _ => break done,
        }
    };
    if first == Start::Undo {
        if done.is_ok() {
            recovered.course.undone();
        }
        recovered.interrupted = interrupted(journal);
    }
    recovered.failed = done.err();
    recovered.protect(kernel, ledger, ExistingRules::Keep)
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
        Start::Undo => Work::Return,
        Start::Keep => Work::Restore,
        Start::Settle => Work::Settle,
    });
    reach(Step::Noted);
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
