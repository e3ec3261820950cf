//! Points between two steps, at which a test kills the agent as a power cut would.
//!
//! Where `VOIPFLEET_FAILPOINT` holds the [`name`] of a point, the process kills itself there. Where
//! `VOIPFLEET_FAILPOINT_LOG` names a file, every point that is reached is appended to it, so that a
//! test can tell that it kills at each of them. Release builds know neither variable: there, every
//! call does nothing.
//!
//! The crate `fail` was considered: it has no action that kills the process, and no notion of the
//! work under way, by which one step of the code is several points here.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, raise};
use voipfleet_ruleset::ruleset::Family;

/// The work under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// An offer, up to its confirmation.
    Apply,
    /// The rollback of a failed trial.
    Undo,
    /// The rollback that a start has to finish.
    UndoAtStart,
    /// A start with nothing to undo.
    Restore,
    /// A start that finds the journal of what is confirmed.
    Settle,
    /// The confirmed content under a newer number.
    Renumber,
    /// Drift.
    Repair,
    /// The failsafe chain follows the addresses that are dialled.
    Refresh,
    /// Management rules take the place of a lost ruleset.
    EnterFallback,
    /// A ruleset runs again after that.
    LeaveFallback,
    /// Dynamic sets change.
    DynamicSets,
    /// All rules of ours are removed.
    Teardown,
}

/// A file of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// The ruleset to boot with.
    Confirmed,
    /// A change that has begun.
    Journal,
    /// The admins, for the management rules.
    Management,
    /// The note that management rules run.
    Fallback,
    /// The dynamic sets.
    DynamicSets,
    /// The dynamic sets before the last ones.
    PreviousSets,
}

/// The step that has just ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The offer arrived.
    Offered,
    /// Dynamic sets were announced.
    Announced,
    /// Its content came.
    Fetched,
    /// Its content is what was offered, for this node.
    Checked,
    /// The preflight passed.
    PreflightPassed,
    /// A file is written beside the one that it replaces.
    Written(File),
    /// It has taken its place.
    Renamed(File),
    /// It will be there after a power cut.
    Synced(File),
    Removed(File),
    /// It will not come back after a power cut.
    Gone(File),
    /// A corrupt file has another name.
    CorruptRenamed,
    /// A start has read the ledger.
    LedgerRead,
    /// An inspection has found drift.
    DriftFound,
    /// Sets and elements that the rules name are there.
    SetsFilled,
    /// The rules of a family are loaded, or ours are removed.
    Rules(Family),
    /// Sets that nothing names are gone.
    SetsReleased,
    /// Elements of dynamic sets are written.
    SetsChanged,
    /// Flows that they deny are cut.
    FlowsCut,
    /// The rules of a family were read back.
    ReadRules(Family),
    /// The sets were read back.
    ReadSets,
    /// The trial began, and the link knows.
    TrialBegun,
    /// A new connection came through the new rules.
    Dialled,
    /// The controller answered on it.
    Welcomed,
    Confirmed,
    /// The task that owns the kernel took the confirmation for good.
    Accepted,
    /// The probes succeeded.
    Probed,
    /// The result is about to be reported.
    Reported,
}

/// Only the task that owns the kernel works at any time; the link names its work itself.
static CURRENT: Mutex<Option<Work>> = Mutex::new(None);

/// The work goes on until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct During(Option<Work>);

impl Drop for During {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = self.0;
        }
    }
}

/// Until what it gives is dropped, the steps that are reached are steps of `work`.
pub fn during(work: Work) -> During {
    if !cfg!(debug_assertions) {
        return During(None);
    }
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    During(current.replace(work))
}

/// A step of the work under way ends.
pub fn reach(step: Step) {
    if cfg!(debug_assertions) {
        let current = *CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = current {
            reach_in(work, step);
        }
    }
}

/// A step of `work` ends.
pub fn reach_in(work: Work, step: Step) {
    static ARMED: OnceLock<Option<String>> = OnceLock::new();
    static LOG: OnceLock<Option<String>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return;
    }
    let variable = |name| std::env::var(name).ok();
    let armed = ARMED.get_or_init(|| variable("VOIPFLEET_FAILPOINT"));
    let log = LOG.get_or_init(|| variable("VOIPFLEET_FAILPOINT_LOG"));
    if armed.is_none() && log.is_none() {
        return;
    }
    let name = name(work, step);
    if let Some(path) = log {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path);
        let _logged = file.and_then(|mut file| writeln!(file, "{name}"));
    }
    if armed.as_ref() == Some(&name) {
        let _dead = raise(Signal::SIGKILL);
    }
}

/// A step with the file of that path ends; nothing where it is none of the ledger's.
pub fn reach_file(path: &Path, step: fn(File) -> Step) {
    if cfg!(debug_assertions)
        && let Some(file) = path
            .file_name()
            .and_then(|name| File::named(name.to_str()?))
    {
        reach(step(file));
    }
}

impl File {
    fn named(name: &str) -> Option<Self> {
        match name {
            "confirmed" => Some(File::Confirmed),
            "journal" => Some(File::Journal),
            "management" => Some(File::Management),
            "fallback" => Some(File::Fallback),
            "dynamic-sets" => Some(File::DynamicSets),
            "dynamic-sets-previous" => Some(File::PreviousSets),
            _ => None,
        }
    }
}

/// A point's name: `Apply.Renamed(Journal)`.
pub fn name(work: Work, step: Step) -> String {
    format!("{work:?}.{step:?}")
}
