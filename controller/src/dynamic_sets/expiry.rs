//! What has ended: it is out of the dynamic sets at once, since the kernels end it themselves, and
//! out of the store a day later. A clock that was set ahead for a while deletes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use crate::records::{self, ExceptionKind, is_over};
use crate::store::{Entry, Expect, Outcome, Store, StoreError, Txn, keys};

/// Records looked at in one read.
const PAGE: usize = 1000;
/// The wall clock may be set meanwhile: so long at most it is trusted.
const LOOK: Duration = Duration::from_mins(10);
/// How long a record is kept after its end.
const KEPT_MS: u64 = 24 * 3_600_000;
/// So many ended records are kept at most; those that ended first go first.
const KEPT: usize = 500;

/// What all records with an end have in common.
#[derive(Deserialize)]
struct Ending {
    until: Option<u64>,
}

/// The result of a look.
#[derive(Debug)]
pub(super) struct Swept {
    /// The time until the next one.
    pub(super) wait: Duration,
    /// The keys of what is over.
    pub(super) over: BTreeSet<String>,
}

/// Finds what is over at `now_ms`, and removes what has been so for long.
pub(super) async fn sweep(store: &dyn Store, now_ms: u64) -> Result<Swept, StoreError> {
    let mut next: Option<u64> = None;
    let mut over: Vec<(u64, Entry)> = Vec::new();
    let [blocks, allows] = ExceptionKind::ALL.map(keys::all_exceptions);
    for prefix in [blocks.as_str(), allows.as_str(), keys::ALL_OPEN] {
        let mut after = None;
        loop {
            let page = store.range(prefix, after.as_deref(), PAGE).await?;
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                // Unreadable records are logged where they are used.
                let Ok(Ending { until: Some(until) }) = records::from_json(&entry.key, &entry.held)
                else {
                    continue;
                };
                if is_over(Some(until), now_ms) {
                    over.push((until, entry));
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
            if !page.more || after.is_none() {
                break;
            }
        }
    }
    over.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut kept = BTreeSet::new();
    for (until, entry) in over {
        let ended_ms = until.saturating_mul(1000);
        if kept.len() < KEPT && now_ms.saturating_sub(ended_ms) < KEPT_MS {
            kept.insert(entry.key);
            continue;
        }
        let txn = Txn::new()
            .expect(&entry.key, Expect::At(entry.held.revision))
            .delete(&entry.key);
        // A conflict: it was prolonged or taken back in this moment.
        if let Outcome::Committed { .. } = store.commit(txn).await? {
            tracing::debug!(key = entry.key, "ended record removed");
        }
    }
    let left = |until: u64| until.saturating_mul(1000).saturating_sub(now_ms);
    let wait = next.map_or(LOOK, |until| Duration::from_millis(left(until)).min(LOOK));
    Ok(Swept { wait, over: kept })
}
