//! One step of a rollout in one transaction: the rollout, what its nodes should run, and what
//! else the step makes.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_controller_core::rollout::{Transition, content_source};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use crate::failpoint::{self, At};
use crate::records::{self, GenerationRecord, QueueRecord, Read, RolloutRecord, TargetRecord};
use crate::store::{Expect, Revision, Store, StoreError, Transaction, keys};

/// Commits a step; none: the rollout or the targets have been changed since by others.
pub(crate) async fn persist(
    store: &dyn Store,
    site: &SiteName,
    before: &Read<RolloutRecord>,
    after: &RolloutRecord,
    at_ms: u64,
) -> Result<Option<Revision>, StoreError> {
    let mut tx = Transaction::new(store);
    write(&mut tx, site, before, after, at_ms).await?;
    let revision = tx.commit().await?;
    committed(&before.record, after);
    Ok(revision)
}

/// Writes a step into a transaction.
pub(super) async fn write(
    tx: &mut Transaction<'_>,
    site: &SiteName,
    before: &Read<RolloutRecord>,
    after: &RolloutRecord,
    at_ms: u64,
) -> Result<(), StoreError> {
    let key = keys::rollout(site);
    tx.expect(key.clone(), Expect::At(before.revision));
    tx.find_parts(&key).await?;
    tx.put_large_json(&key, &key, after)?;
    let current = keys::current(site);
    let targets = after.targets();
    if tx.read::<TargetRecord>(&current).await?.as_ref() != Some(&targets) {
        tx.find_parts(&current).await?;
        tx.put_large_json(&current, &current, &targets)?;
    }
    if before.record.back != after.back
        && let Some(number) = after.back
    {
        let back = way_back(tx.store(), site, &before.record, after, number, at_ms).await?;
        let key = keys::generation(site, number);
        tx.expect(key.clone(), Expect::Absent);
        tx.find_parts(&key).await?;
        tx.put_large_json(&key, &key, &back)?;
    }
    if let Some(reason) = after.blocks_queue() {
        let key = keys::queue(site);
        // Even if nothing waits: nothing may be added meanwhile.
        let queue: Option<QueueRecord> = tx.read(&key).await?;
        let mut queue = queue.unwrap_or_default();
        if queue.drop_all(&reason) {
            tx.find_parts(&key).await?;
            tx.put_large_json(&key, &key, &queue)?;
        }
    }
    let outcome = after.outcome(at_ms);
    let ended = before.record.state.has_ended();
    // Nodes that were offline may apply it after the end, or refuse it.
    if after.state.has_ended() && (!ended || before.record.outcome(at_ms) != outcome) {
        tx.put_json(&keys::outcome(site, after.generation), &outcome)?;
        if let Some(back) = after.back_outcome(at_ms) {
            tx.put_json(&keys::outcome(site, back.brought), &back)?;
        }
    }
    let transition = Transition::between(&before.record, after);
    failpoint::reach(transition.as_str(), At::Decided);
    Ok(())
}

/// The transaction of a step is committed.
pub(super) fn committed(before: &RolloutRecord, after: &RolloutRecord) {
    let transition = Transition::between(before, after);
    failpoint::reach(transition.as_str(), At::Committed);
}

/// The generation that holds what every node ran before the rollout.
async fn way_back(
    store: &dyn Store,
    site: &SiteName,
    before: &RolloutRecord,
    after: &RolloutRecord,
    number: Generation,
    at_ms: u64,
) -> Result<GenerationRecord, StoreError> {
    let mut sources: BTreeSet<Generation> = before
        .nodes
        .values()
        .filter_map(|step| content_source(before, step))
        .collect();
    sources.insert(before.generation);
    let mut earlier = BTreeMap::new();
    for source in sources {
        let read: Option<Read<GenerationRecord>> =
            records::read(store, &keys::generation(site, source)).await?;
        earlier.extend(read.map(|read| (source, read.record)));
    }
    let back = before.way_back(after, number, at_ms, &earlier);
    for node in &back.missing {
        tracing::error!(%site, %node, "the generation that the node ran before is missing");
    }
    Ok(back.generation)
}
