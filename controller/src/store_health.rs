//! Probes the store: a disk that fills up or hangs shows before somebody needs it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::errors::chain;
use crate::store::{Health, Store as _, StoreError, Supervised};
use crate::systemd;

/// How often the store is written, whether or not anybody writes.
const PROBE: Duration = Duration::from_secs(5);

/// Writes a probe now and then, tells systemd's watchdog of those that came to disk, and logs
/// when writes begin to be refused and when they no longer are. Until `stop`.
pub(crate) async fn watch(store: Supervised, stop: CancellationToken) {
    let watchdog = systemd::watchdog();
    let interval = watchdog.map_or(PROBE, |limit| PROBE.min(limit / 3));
    let mut health = store.health();
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = health.changed() => match changed {
                Ok(()) => log(&health.borrow_and_update()),
                Err(_) => return,
            },
            _ = due.tick() => match store.probe().await {
                // A full disk is no reason to start anew: reads go on.
                Ok(()) | Err(StoreError::Full { .. }) if watchdog.is_some() => systemd::alive(),
                // What an error means is in the store's health.
                Ok(()) | Err(_) => {}
            },
        }
    }
}

fn log(health: &Health) {
    match health {
        Health::Writable => tracing::info!("the store can be written again"),
        Health::Refusing(error) => {
            tracing::error!(reason = %chain(error.as_ref()), "the store refuses writes; make room on its disk");
        }
        // The process ends, with the reason.
        Health::Failed(_) => {}
    }
}
