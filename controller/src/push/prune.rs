//! Old generations and the rulesets that only they name.

use std::collections::BTreeSet;

use voipfleet_common::names::SiteName;

use super::Pushes;
use crate::errors::chain;
use crate::records::{self, GenerationRecord};
use crate::store::{Expect, Outcome, Revision, Store, StoreError, Txn, keys};

/// Generations of a site that are kept.
const KEPT: usize = 20;
/// Generations that one pruning looks at.
const LOOKED_AT: usize = KEPT + 100;

impl Pushes {
    /// Prunes in the background. `revision` is the one that made the site's current
    /// generation: if another push has come since, it prunes by itself.
    pub(super) fn prune(&self, site: SiteName, revision: Revision) {
        let store = std::sync::Arc::clone(&self.store);
        tokio::spawn(async move {
            match prune(store.as_ref(), &site, revision).await {
                Ok(0) => {}
                Ok(count) => tracing::debug!(%site, count, "old generations removed"),
                Err(error) => {
                    tracing::warn!(%site, error = %chain(&error), "old generations not removed");
                }
            }
        });
    }
}

/// Removes all but the last [`KEPT`] generations; answers how many went.
async fn prune(
    store: &dyn Store,
    site: &SiteName,
    revision: Revision,
) -> Result<usize, StoreError> {
    let page = store
        .range(&keys::generations(site), None, LOOKED_AT)
        .await?;
    let count = page.entries.len().saturating_sub(KEPT);
    if count == 0 {
        return Ok(0);
    }
    let mut dropped = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut txn = Txn::new().expect(keys::current(site), Expect::At(revision));
    for (place, entry) in page.entries.into_iter().enumerate() {
        let record: GenerationRecord = records::from_json(&entry.key, &entry.held)?;
        let digests = record.nodes.into_values().map(|content| content.digest);
        if place < count {
            dropped.extend(digests);
            txn = txn.delete(entry.key);
        } else {
            kept.extend(digests);
        }
    }
    // A ruleset names its site and node, so that no other site can need it.
    for digest in dropped.difference(&kept) {
        txn = txn.delete(keys::ruleset(digest));
    }
    match store.commit(txn).await? {
        Outcome::Committed { .. } => Ok(count),
        Outcome::Conflict => Ok(0),
    }
}
