//! Notifications to systemd, where it started the agent.

use std::sync::OnceLock;
use std::time::Duration;

use sd_notify::NotifyState;

fn notify(state: &[NotifyState<'_>]) {
    // A failure changes nothing: without systemd there is no receiver.
    let _heard = sd_notify::notify(state);
}

/// The rules are in force.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The agent is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How often to notify the watchdog: half its limit; none where there is none.
pub fn watchdog_interval() -> Option<Duration> {
    static INTERVAL: OnceLock<Option<Duration>> = OnceLock::new();
    *INTERVAL.get_or_init(|| sd_notify::watchdog_enabled().map(|limit| limit / 2))
}

/// The task that owns the kernel is alive.
pub fn alive() {
    if watchdog_interval().is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}
