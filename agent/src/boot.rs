//! What a start does with what an earlier run left: on disk and in the kernel.

use voipfleet_common::session::{Course, Noted, Start};

use crate::errors::chain;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError};
use crate::reconcile::apply::{Failure, enforce_confirmed, put_back};
use crate::reconcile::enforce::{self, EnforceError};

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
}

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
            recovered.lost = Some("its file was corrupt".to_owned());
        }
        Ok(confirmed) => recovered.confirmed = confirmed,
        Err(error) => recovered.lost = Some(chain(&error)),
    }
    if recovered.lost.is_some() {
        // Whatever rules there are protect better than none: they stay.
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
    let done = match (first, &mut recovered.confirmed) {
        (Start::Undo, confirmed) => put_back(kernel, ledger, confirmed.as_mut()),
        (Start::Keep, None) => Ok(()),
        (Start::Keep, Some(confirmed)) => enforce_confirmed(kernel, ledger, confirmed),
        (Start::Settle, confirmed) => {
            let settled = ledger.settle().map_err(Failure::Ledger);
            let enforced = confirmed.as_mut().map_or(Ok(()), |confirmed| {
                enforce_confirmed(kernel, ledger, confirmed)
            });
            enforced.and(settled)
        }
    };
    if first == Start::Undo {
        if done.is_ok() {
            recovered.course.undone();
        }
        recovered.interrupted = match journal {
            Ok(journal) => journal.map(Interrupted::Known),
            Err(error) => Some(Interrupted::Unknown(error)),
        };
    }
    recovered.failed = done.err();
    recovered
}

/// Removes every trace of us from the kernel; with `purge`, from the ledger too.
pub fn teardown(kernel: &mut dyn Kernel, ledger: &Ledger, purge: bool) -> Result<(), Failure> {
    // First the journal, and the memory if it goes: a start after a crash in between must
    // not put back what is being removed.
    ledger.settle()?;
    if purge {
        ledger.purge()?;
    }
    enforce::clear(kernel).map_err(|error: EnforceError| error.into())
}
