//! Every key under a prefix: those that are there, and those that come.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::{Pages, Revision, Store, StoreError};

/// After a read that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Entries in one read.
const PAGE: usize = 1000;

/// Calls `found` with every key under `prefix`, and again whenever one changes, until it is
/// stopped.
pub async fn each_key(
    store: &dyn Store,
    prefix: &str,
    stop: &CancellationToken,
    mut found: impl FnMut(&str),
) {
    while let Some(revision) = each_present(store, prefix, stop, &mut found).await {
        let mut changes = store.watch(prefix, revision);
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = stop.cancelled() => return,
            };
            match change {
                None => return,
                Some(Ok(change)) => found(&change.key),
                Some(Err(_)) => break,
            }
        }
    }
}

/// The revision from which a watch misses no key; `None`: it was stopped.
async fn each_present(
    store: &dyn Store,
    prefix: &str,
    stop: &CancellationToken,
    found: &mut impl FnMut(&str),
) -> Option<Revision> {
    loop {
        match read(store, prefix, found).await {
            Ok(revision) => return Some(revision),
            Err(error) => log(&error, prefix),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

fn log(error: &StoreError, prefix: &str) {
    let error = error as &dyn std::error::Error;
    tracing::error!(prefix, error, "cannot read; retrying");
}

async fn read(
    store: &dyn Store,
    prefix: &str,
    found: &mut impl FnMut(&str),
) -> Result<Revision, StoreError> {
    // What is written while pages are read comes once more with the changes.
    let revision = store.revision().await?;
    let mut pages = Pages::new(store, prefix, PAGE);
    while let Some(entries) = pages.next().await? {
        for entry in &entries {
            found(&entry.key);
        }
    }
    Ok(revision)
}
