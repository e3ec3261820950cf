//! Taking out of the store what has ended. Nothing waits for it: the kernels end it themselves.

use std::time::Duration;

use serde::Deserialize;

use crate::records::{self, ExceptionKind, is_over};
use crate::store::{Expect, Outcome, Store, StoreError, Txn, keys};

/// Records looked at in one read.
const PAGE: usize = 1000;
/// The wall clock may be set meanwhile: so long at most it is trusted.
const LOOK: Duration = Duration::from_mins(10);

/// What all records with an end have in common.
#[derive(Deserialize)]
struct Ending {
    until: Option<u64>,
}

/// Removes what has expired at `now_ms`; the time until the next check.
pub(super) async fn sweep(store: &dyn Store, now_ms: u64) -> Result<Duration, StoreError> {
    let mut next: Option<u64> = None;
    let [blocks, allows] = ExceptionKind::ALL.map(keys::all_exceptions);
    for prefix in [blocks.as_str(), allows.as_str(), keys::ALL_OPEN] {
        let mut after = None;
        loop {
            let page = store.range(prefix, after.as_deref(), PAGE).await?;
            for entry in &page.entries {
                // Unreadable records are logged where they are used.
                let Ok(Ending { until: Some(until) }) = records::from_json(&entry.key, &entry.held)
                else {
                    continue;
                };
                if is_over(Some(until), now_ms) {
                    let txn = Txn::new()
                        .expect(&entry.key, Expect::At(entry.held.revision))
                        .delete(&entry.key);
                    // A conflict: it was prolonged or taken back in this moment.
                    if let Outcome::Committed { .. } = store.commit(txn).await? {
                        tracing::info!(key = entry.key, "expired");
                    }
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
    }
    let left = |until: u64| until.saturating_mul(1000).saturating_sub(now_ms);
    Ok(next.map_or(LOOK, |until| Duration::from_millis(left(until)).min(LOOK)))
}
