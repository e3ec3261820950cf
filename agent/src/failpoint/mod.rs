//! Places between two steps, at which a test ends the agent as a power cut would.
//!
//! Where `VOIPFLEET_FAILPOINT` holds the name of a [`Point`], `apply.journal-renamed`, the
//! process kills itself when it gets there. A release build knows neither the variable nor the
//! names: there, every call is nothing.
//!
//! A new step of the agent's work gets a [`Step`] where it ends, and a place in [`ALL`]: the
//! test kills at each of them, and one that is reached without being listed ends the agent
//! too, otherwise.

mod points;

#[cfg(not(debug_assertions))]
use std::path::Path;

use voipfleet_ruleset::ruleset::Family;

pub use points::ALL;

/// What the agent is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// An offer, up to its confirmation.
    Apply,
    /// The way back from a trial that failed.
    Undo,
    /// The way back that a start finds undone.
    Return,
    /// A start with nothing to undo.
    Restore,
    /// A start that finds the journal of what is confirmed.
    Settle,
    /// The confirmed content under a newer number.
    Renumber,
    /// Drift.
    Repair,
    /// Other controllers are dialled.
    Refresh,
    /// Management rules in place of a ruleset that is lost.
    Close,
    /// The end of that: a ruleset runs again.
    Reopen,
    /// Live sets that change.
    Live,
    /// The end of the agent on this machine.
    Teardown,
}

/// A file of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// What the node boots with.
    Confirmed,
    /// A change that has begun.
    Journal,
    /// Who may come in when nothing else may.
    Management,
    /// The note that management rules run.
    Fallback,
    /// What live sources hold.
    Live,
    /// What they held before.
    Earlier,
}

/// What has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The offer was heard.
    Offered,
    /// Live sets were noticed.
    Noticed,
    /// Its content came.
    Fetched,
    /// Its content is what was offered, for us.
    Checked,
    /// It was tried in a scratch namespace.
    Staged,
    /// A file is written beside the one that it replaces.
    Written(File),
    /// It has taken its place.
    Renamed(File),
    /// It will be there after a power cut.
    Synced(File),
    /// A file is removed.
    Removed(File),
    /// It will not come back after a power cut.
    Gone(File),
    /// A corrupt file has another name.
    PutAside,
    /// A start has read the ledger.
    Noted,
    /// A look at the kernel has found drift.
    Found,
    /// Sets and elements that the rules name are there.
    SetsFilled,
    /// The rules of a family are loaded, or ours are removed.
    Rules(Family),
    /// Sets that nothing names are gone.
    SetsReleased,
    /// Elements of sets are what live sources hold now.
    SetsChanged,
    /// Flows that they deny are cut.
    FlowsCut,
    /// The rules of a family were read back.
    ReadRules(Family),
    /// The sets were read back.
    ReadSets,
    /// The trial is on, and the link knows.
    Begun,
    /// A new connection came through the new rules.
    Dialled,
    /// The controller answered on it.
    Welcomed,
    /// It confirmed.
    Confirmed,
    /// The task that owns the kernel took the confirmation for good.
    Accepted,
    /// The probes succeeded.
    Probed,
    /// The controller is about to hear how it ended.
    Told,
}

/// One place.
pub type Point = (Work, Step);

#[cfg(debug_assertions)]
mod armed {
    use std::path::Path;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use nix::sys::signal::{Signal, raise};
    use voipfleet_ruleset::ruleset::Family;

    use super::{ALL, File, Point, Step, Work};

    /// Only one task works at a time; what the link does names its work itself.
    static NOW: Mutex<Option<Work>> = Mutex::new(None);

    /// The work goes on until this is dropped.
    #[must_use]
    #[derive(Debug)]
    pub struct During(Option<Work>);

    impl Drop for During {
        fn drop(&mut self) {
            *NOW.lock().unwrap_or_else(PoisonError::into_inner) = self.0;
        }
    }

    fn file(file: File) -> &'static str {
        match file {
            File::Confirmed => "confirmed",
            File::Journal => "journal",
            File::Management => "management",
            File::Fallback => "fallback",
            File::Live => "live",
            File::Earlier => "live-earlier",
        }
    }

    /// A point's name: `apply.journal-renamed`, `undo.rules-v4`.
    pub fn name((work, step): Point) -> String {
        let family = |family| match family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        let step = match step {
            Step::Written(of) => format!("{}-written", file(of)),
            Step::Renamed(of) => format!("{}-renamed", file(of)),
            Step::Synced(of) => format!("{}-synced", file(of)),
            Step::Removed(of) => format!("{}-removed", file(of)),
            Step::Gone(of) => format!("{}-gone", file(of)),
            Step::Rules(of) => format!("rules-{}", family(of)),
            Step::ReadRules(of) => format!("read-rules-{}", family(of)),
            Step::SetsFilled => "sets-filled".to_owned(),
            Step::SetsReleased => "sets-released".to_owned(),
            Step::SetsChanged => "sets-changed".to_owned(),
            Step::FlowsCut => "flows-cut".to_owned(),
            Step::ReadSets => "read-sets".to_owned(),
            Step::PutAside => "put-aside".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{}.{step}", format!("{work:?}").to_lowercase())
    }

    /// Until what it gives is dropped, the steps that are reached are steps of `work`.
    pub fn during(work: Work) -> During {
        let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
        During(now.replace(work))
    }

    /// The end of a step of what is under way.
    pub fn reach(step: Step) {
        let now = *NOW.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = now {
            reach_in(work, step);
        }
    }

    /// The end of a step of `work`.
    pub fn reach_in(work: Work, step: Step) {
        static ARMED: OnceLock<Option<String>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| std::env::var("VOIPFLEET_FAILPOINT").ok());
        let Some(armed) = armed else {
            return;
        };
        let listed = |(of, steps): &(Work, &[Step])| *of == work && steps.contains(&step);
        if !ALL.iter().any(listed) {
            tracing::error!(point = name((work, step)), "a failpoint that is not listed");
            std::process::abort();
        }
        if *armed == name((work, step)) {
            let _dead = raise(Signal::SIGKILL);
        }
    }

    /// The end of a step with the file of that path; nothing where it is none of the ledger's.
    pub fn reach_file(path: &Path, step: fn(File) -> Step) {
        let of = [
            File::Confirmed,
            File::Journal,
            File::Management,
            File::Fallback,
            File::Live,
            File::Earlier,
        ]
        .into_iter()
        .find(|of| path.file_name().is_some_and(|name| name == file(*of)));
        if let Some(of) = of {
            reach(step(of));
        }
    }
}

#[cfg(not(debug_assertions))]
mod off {
    use super::{File, Path, Step, Work};

    /// Nothing, in a release build.
    #[must_use]
    #[derive(Debug)]
    pub struct During;

    /// Nothing, in a release build.
    #[inline]
    pub fn during(_work: Work) -> During {
        During
    }

    /// Nothing, in a release build.
    #[inline]
    pub fn reach(_step: Step) {}

    /// Nothing, in a release build.
    #[inline]
    pub fn reach_in(_work: Work, _step: Step) {}

    /// Nothing, in a release build.
    #[inline]
    pub fn reach_file(_path: &Path, _step: fn(File) -> Step) {}
}

#[cfg(debug_assertions)]
pub use armed::{During, during, name, reach, reach_file, reach_in};
#[cfg(not(debug_assertions))]
pub use off::{During, during, reach, reach_file, reach_in};
