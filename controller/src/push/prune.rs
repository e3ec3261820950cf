//! Old generations and the rulesets that only they name.

use std::collections::BTreeSet;
use std::sync::Arc;

use voipfleet_ruleset::identifiers::SiteName;

use crate::documents;
use crate::errors::chain;
use crate::records::{self, GenerationRecord, RolloutRecord, TargetRecord};
use crate::rulesets;
use crate::store::parts::{self, Owner};
use crate::store::{Store, StoreError, every, keys};

/// Generations of a site that are kept.
const KEPT: usize = 20;

/// Prunes a site in a task of its own.
pub(super) fn prune_in_background(store: Arc<dyn Store>, site: SiteName) {
    tokio::spawn(async move {
        match prune(store.as_ref(), &site).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(%site, count, "old generations removed"),
            Err(error) => {
                tracing::warn!(%site, error = %chain(&error), "old generations not removed");
            }
        }
        if let Err(error) = documents::prune(store.as_ref()).await {
            tracing::warn!(error = %chain(&error), "old versions of documents not removed");
        }
    });
}

/// Removes all but the last [`KEPT`] generations and those that a node should run; returns how
/// many.
async fn prune(store: &dyn Store, site: &SiteName) -> Result<usize, StoreError> {
    let current = keys::current(site);
    // Before the generations are read: a push that comes between makes the removal fail, and
    // prunes by itself.
    let Some(mut owner) = Owner::read(store, &current).await? else {
        return Ok(0);
    };
    let Some(target) = records::read::<TargetRecord>(store, &current).await? else {
        return Ok(0);
    };
    // All of them: what the kept ones name must be known before anything goes.
    let entries = every(store, &keys::generations(site)).await?;
    let count = entries.len().saturating_sub(KEPT);
    if count == 0 {
        return Ok(0);
    }
    let mut wanted = target.record.wanted();
    // What a rollout may go back to.
    let rollout = records::read::<RolloutRecord>(store, &keys::rollout(site)).await?;
    let steps = rollout.iter().flat_map(|read| read.record.nodes.values());
    wanted.extend(steps.filter_map(|step| step.before));
    let mut gone = 0;
    let mut dropped = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut generations = Vec::new();
    for (place, entry) in entries.into_iter().enumerate() {
        let key = entry.key.clone();
        let record: GenerationRecord = records::load(store, &entry).await?;
        let digests = record.nodes.values().map(|content| content.digest);
        if place < count && !wanted.contains(&record.number) {
            gone += 1;
            dropped.extend(digests);
            generations.push(keys::outcome(site, record.number));
            // Those of failed attempts to store it too.
            generations.extend(parts::keys_of(store, &key).await?);
            generations.push(key);
        } else {
            kept.extend(digests);
        }
    }
    // A ruleset names its site and node, so that no other site can need it. What refers to it
    // is removed last: if the controller ends in between, the next pruning goes on.
    let mut useless = rulesets::useless(store, &dropped, &kept).await?;
    useless.extend(generations);
    let removed = owner.delete(&useless).await?;
    Ok(if removed { gone } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use voipfleet_ruleset::ruleset::Digest;

    use super::*;
    use crate::records::{Cause, Content, GenerationChanges};
    use crate::store::Txn;
    use crate::store::memory::Memory;

    /// Rulesets that kept generations name stay, however many generations there were.
    #[tokio::test]
    async fn rulesets_of_kept_generations_stay() {
        let store = Memory::default();
        let site: SiteName = "site-a".parse().unwrap();
        let digest = |content: u64| Digest::of(&content.to_be_bytes());
        // A node that a rollout has not come to should run the 100th.
        let current = r#"{"generation":300,"nodes":{"b":100}}"#;
        let txn = Txn::new().put(keys::current(&site), current);
        store.commit(txn).await.unwrap();
        for number in 1..=300 {
            // Two generations share each ruleset, and the newest has the oldest's.
            let digest = digest(if number == 300 { 0 } else { number / 2 });
            let record = GenerationRecord {
                number,
                at_ms: 0,
                by: "ada".to_owned(),
                confirm_within_ms: 100,
                observe: false,
                documents: None,
                cause: Cause::Push,
                dynamic: BTreeSet::new(),
                changes: GenerationChanges::default(),
                nodes: BTreeMap::from([("a".parse().unwrap(), Content { digest, size: 1 })]),
                joined: BTreeMap::new(),
            };
            let key = keys::generation(&site, number);
            let value = records::to_json(&key, &record).unwrap();
            let txn = Txn::new().put(key, value).put(keys::ruleset(&digest), "");
            store.commit(txn).await.unwrap();
        }
        assert_eq!(prune(&store, &site).await.unwrap(), 279);
        let left = store.all(&keys::generations(&site), 100).await.unwrap();
        assert_eq!(left.len(), KEPT + 1);
        assert_eq!(left[0].key, keys::generation(&site, 100));
        for content in [0, 50, 140, 149] {
            let key = keys::ruleset(&digest(content));
            assert!(store.get(&key).await.unwrap().is_some(), "{content}");
        }
        let rulesets = store.all("ruleset/", 1000).await.unwrap().len();
        assert_eq!(rulesets, 12);
    }
}
