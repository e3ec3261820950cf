//! Places between two steps of a rollout, at which a test ends the controller as a power cut
//! would.
//!
//! Where `VOIPFLEET_FAILPOINT` holds the name of a place, `release-committed`, the process kills
//! itself when it gets there. A release build knows neither the variable nor the names.

use crate::rollout::Step;

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It is decided, and not in the store.
    Decided,
    /// It is in the store, and nobody was told.
    Committed,
    /// The nodes' sessions were told.
    Told,
}

/// All places.
pub const ALL: &[(Step, At)] = &[
    (Step::Start, At::Decided),
    (Step::Start, At::Committed),
    (Step::Release, At::Decided),
    (Step::Release, At::Committed),
    (Step::Release, At::Told),
    (Step::Judge, At::Decided),
    (Step::Judge, At::Committed),
    (Step::Halt, At::Decided),
    (Step::Halt, At::Committed),
    (Step::Back, At::Decided),
    (Step::Back, At::Committed),
    (Step::Finish, At::Decided),
    (Step::Finish, At::Committed),
    (Step::Command, At::Decided),
    (Step::Command, At::Committed),
];

/// A place's name.
#[cfg(debug_assertions)]
pub fn name((step, at): (Step, At)) -> String {
    format!("{step:?}-{at:?}").to_lowercase()
}

/// A step has got so far.
#[cfg(debug_assertions)]
pub fn reach(step: Step, at: At) {
    static ARMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("VOIPFLEET_FAILPOINT").ok());
    let Some(armed) = armed else {
        return;
    };
    if !ALL.contains(&(step, at)) {
        tracing::error!(point = name((step, at)), "a failpoint that is not listed");
        std::process::abort();
    }
    if *armed == name((step, at)) {
        let _dead = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_step: Step, _at: At) {}
