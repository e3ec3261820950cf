//! What systemd hears of us, where it started us.

use std::sync::OnceLock;
use std::time::Duration;

use sd_notify::NotifyState;

fn tell(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; with it, there is nothing else to do.
    let _heard = sd_notify::notify(state);
}

/// The rules are in force.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// We are about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often systemd wants to hear that we work: half its limit; none if it does not.
pub fn watchdog_interval() -> Option<Duration> {
    static INTERVAL: OnceLock<Option<Duration>> = OnceLock::new();
    *INTERVAL.get_or_init(|| sd_notify::watchdog_enabled().map(|limit| limit / 2))
}

/// The task that owns the kernel is alive.
pub fn alive() {
    if watchdog_interval().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}
