//! Panics as one line of the log, without a stack.

use std::io::Write as _;
use std::panic::PanicHookInfo;

use crate::store::OPENING_THREAD;

/// Reports every panic from now on.
pub fn report() {
    std::panic::set_hook(Box::new(|panic| {
        // The error of whoever opens the store says more.
        if std::thread::current().name() != Some(OPENING_THREAD) {
            line(panic);
        }
    }));
}

fn line(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let at = panic.location().map(ToString::to_string);
    let at = at.unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or_default();
    let reason = text.lines().next().unwrap_or_default();
    if tracing::dispatcher::has_been_set() {
        tracing::error!(thread, at, reason, "a part of the controller panicked");
    } else {
        // stderr may be closed: then nobody can be told.
        let _ = writeln!(
            std::io::stderr(),
            "voipfleet-controller: {thread} panicked at {at}: {reason}"
        );
    }
}
