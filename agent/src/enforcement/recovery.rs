//! What a start does with what an earlier run left: on disk and in the kernel.

use std::time::Duration;

use voipfleet_protocol::session::{Course, Noted, Start};

use super::apply::{Failure, enforce_confirmed, put_back};
use super::dynamic_sets;
use super::management_rules::{self, Fallback, Found};
use super::write::{self, EnforceError};
use crate::failpoint::{Step, Work, during, reach};
use crate::host::errors::chain;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError};

/// What was found and done.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The ruleset that the node runs, or should.
    pub confirmed: Option<Confirmed>,
    /// What follows from it.
    pub course: Course,
    /// An apply or a trial that was cut short, and is undone.
    pub interrupted: Option<Interrupted>,
    /// The ledger is corrupt, or was: nobody knows what should run, and the kernel was left
    /// alone.
    pub lost: Option<String>,
    /// The kernel is not what the ledger says.
    pub failed: Option<Failure>,
    /// What runs in place of the confirmed ruleset, where nothing of ours was in force.
    pub fallback: Option<Fallback>,
    /// What its live sources hold.
    pub live: dynamic_sets::Found,
}

/// How long to wait before what failed is tried again. At boot others hold the xtables lock,
/// or load what we need.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// An apply or a trial that was cut short.
#[derive(Debug)]
pub enum Interrupted {
    /// This one.
    Known(Journal),
    /// The journal itself is damaged.
    Unknown(LedgerError),
}

/// Undoes what was cut short, and makes the kernel what the confirmed ruleset says.
pub fn recover(kernel: &mut dyn Kernel, ledger: &Ledger) -> Recovered {
    let mut recovered = Recovered::default();
    let journal = ledger.journal();
    match ledger.confirmed() {
        Ok(None) if ledger.is_lost() => {
            recovered.lost = Some("its file was corrupt, or gone".to_owned());
        }
        Ok(None) => match ledger.find_loss() {
            Ok(true) => recovered.lost = Some("its file is gone".to_owned()),
            Ok(false) => {}
            Err(error) => recovered.lost = Some(chain(&error)),
        },
        Ok(confirmed) => recovered.confirmed = confirmed,
        Err(error) => recovered.lost = Some(chain(&error)),
    }
    recovered.live = dynamic_sets::find(kernel, ledger, recovered.confirmed.as_mut());
    if recovered.lost.is_some() {
        let found = match &journal {
            // Rules of ours may be those of a change that was cut short.
            Ok(Some(_)) | Err(_) if ledger.knows_admins() => Found::Go,
            _ => Found::Stay,
        };
        if found == Found::Go {
            recovered.interrupted = interrupted(journal);
        }
        let mut recovered = recovered.protect(kernel, ledger, found);
        recovered.failed = ledger.settle().err().map(Failure::Ledger);
        return recovered;
    }
    let noted = match &journal {
        Ok(None) => Noted::Nothing,
        Ok(Some(journal)) => Noted::Change(journal.held),
        Err(_) => Noted::Unreadable,
    };
    let confirmed = recovered.confirmed.as_ref().map(|confirmed| confirmed.held);
    let (course, first) = Course::start(confirmed, noted);
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
    recovered.protect(kernel, ledger, Found::Stay)
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
            // Else the admins of a first push that was cut short would speak of a ruleset lost.
            ledger.take_back(None)?;
            put_back(kernel, ledger, None)
        }
        (Start::Undo, confirmed) => put_back(kernel, ledger, confirmed),
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
    /// Closes the node where what is confirmed is not in force.
    fn protect(mut self, kernel: &mut dyn Kernel, ledger: &Ledger, found: Found) -> Self {
        let reason = match (&self.lost, &self.failed, &self.confirmed) {
            (Some(lost), _, _) => format!("the confirmed ruleset is lost: {lost}"),
            (None, Some(failed), Some(_)) => chain(failed),
            // Nothing was ever confirmed: the node stays as open as it was.
            (None, _, None) => return self,
            (None, None, Some(confirmed)) => {
                // A ledger of an earlier agent has none yet; the next confirm says it aloud.
                let _kept = ledger.keep_management(confirmed);
                management_rules::end(ledger, &mut self.fallback);
                return self;
            }
        };
        let confirmed = self.confirmed.as_ref();
        self.fallback = management_rules::fall_back(kernel, ledger, confirmed, &reason, found);
        self
    }
}

/// Removes every trace of us from the kernel; with `purge`, from the ledger too.
pub fn teardown(kernel: &mut dyn Kernel, ledger: &Ledger, purge: bool) -> Result<(), Failure> {
    let _work = during(Work::Teardown);
    // First the journal, and the memory if it goes: a start after a crash in between must
    // not put back what is being removed.
    ledger.settle()?;
    if purge {
        ledger.purge()?;
    }
    write::clear(kernel).map_err(|error: EnforceError| error.into())
}
