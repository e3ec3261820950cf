//! Notifications to systemd, where it started the controller.

use std::time::Duration;

use sd_notify::NotifyState;

fn notify(state: &[NotifyState<'_>]) {
    // A failure changes nothing: without systemd there is no receiver.
    let _heard = sd_notify::notify(state);
}

/// Both listeners accept.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The controller is about to end.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How long systemd waits for [`alive`]; `None`: it does not watch.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The store was written.
pub(crate) fn alive() {
    notify(&[NotifyState::Watchdog]);
}
