//! Every key under a prefix: those that are there, and those that come.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::Store;

/// After a read that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Calls `found` with every key under `prefix`, and again whenever one changes, until it is
/// stopped. `most` is what [`Store::all`] may find.
pub async fn each_key(
    store: &dyn Store,
    prefix: &str,
    most: usize,
    stop: &CancellationToken,
    mut found: impl FnMut(&str),
) {
    // Before the first read: no key falls between.
    let mut changes = store.watch(prefix);
    let mut stale = true;
    loop {
        if stale {
            match store.all(prefix, most).await {
                Ok(entries) => {
                    stale = false;
                    for entry in &entries {
                        found(&entry.key);
                    }
                }
                Err(error) => {
                    tracing::error!(
                        prefix,
                        error = &error as &dyn std::error::Error,
                        "cannot read; retrying"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
        let change = tokio::select! {
            change = changes.next() => change,
            () = stop.cancelled() => return,
        };
        match change {
            None => return,
            Some(Ok(change)) => found(&change.key),
            Some(Err(_)) => stale = true,
        }
    }
}
