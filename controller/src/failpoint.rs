//! Places between two steps of a rollout, at which a test ends the controller as a power cut
//! would.
//!
//! If `VOIPFLEET_FAILPOINT` holds the name of a place, such as `release-committed`, the process
//! kills itself when it gets there. A release build has neither the variable nor the names:
//! `debug_assertions` decides, since a cargo feature can be switched on by any crate of a build,
//! and the `fail` crate cannot end a process without running its destructors.

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It is decided, and not in the store.
    Decided,
    /// It is in the store, and no session knows of it.
    Committed,
    /// The nodes' sessions know of it.
    Announced,
}

/// All places: a step of a rollout, and how far it is.
pub const ALL: &[(&str, At)] = &[
    ("start", At::Decided),
    ("start", At::Committed),
    ("release", At::Decided),
    ("release", At::Committed),
    ("release", At::Announced),
    ("judge", At::Decided),
    ("judge", At::Committed),
    ("halt", At::Decided),
    ("halt", At::Committed),
    ("back", At::Decided),
    ("back", At::Committed),
    ("finish", At::Decided),
    ("finish", At::Committed),
    ("command", At::Decided),
    ("command", At::Committed),
];

/// A place's name.
#[cfg(debug_assertions)]
pub fn name(step: &str, at: At) -> String {
    format!("{step}-{at:?}").to_lowercase()
}

/// A step has got so far.
#[cfg(debug_assertions)]
pub fn reach(step: &'static str, at: At) {
    static ARMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("VOIPFLEET_FAILPOINT").ok());
    let Some(armed) = armed else {
        return;
    };
    if !ALL.contains(&(step, at)) {
        tracing::error!(point = name(step, at), "failpoint is not listed");
        std::process::abort();
    }
    if *armed == name(step, at) {
        let _dead = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_step: &'static str, _at: At) {}
