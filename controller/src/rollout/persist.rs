//! One step of a rollout in one transaction: the rollout, what its nodes should run, and what
//! else the step makes.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_controller_core::rollout::{Transition, content_source};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use crate::failpoint::{self, At};
use crate::records::{
    self, GenerationRecord, QueueRecord, Read, RolloutRecord, TargetRecord, expected,
};
use crate::store::{Expect, Outcome, Revision, Store, StoreError, Txn, keys};

/// Writes a step; none: the rollout or the targets have been changed since by others.
pub(super) async fn persist(
    store: &dyn Store,
    site: &SiteName,
    before: &Read<RolloutRecord>,
    after: &RolloutRecord,
    at_ms: u64,
) -> Result<Option<Revision>, StoreError> {
    let current = keys::current(site);
    let target: Option<Read<TargetRecord>> = records::read(store, &current).await?;
    let key = keys::rollout(site);
    let mut txn = Txn::new()
        .expect(key.clone(), Expect::At(before.revision))
        .put(key.clone(), records::to_json(&key, after)?);
    let targets = after.targets();
    if target.as_ref().map(|read| &read.record) != Some(&targets) {
        txn = txn
            .expect(current.clone(), expected(target.as_ref()))
            .put(current.clone(), records::to_json(&current, &targets)?);
    }
    if before.record.back != after.back
        && let Some(number) = after.back
    {
        let back = way_back(store, site, &before.record, after, number, at_ms).await?;
        let key = keys::generation(site, number);
        let value = records::to_json(&key, &back)?;
        txn = txn.expect(key.clone(), Expect::Absent).put(key, value);
    }
    if let Some(reason) = after.blocks_queue() {
        let key = keys::queue(site);
        let queue: Option<Read<QueueRecord>> = records::read(store, &key).await?;
        // Even if nothing waits: nothing may be added meanwhile.
        txn = txn.expect(key.clone(), expected(queue.as_ref()));
        let mut queue = queue.map(|read| read.record).unwrap_or_default();
        if queue.drop_all(&reason) {
            txn = txn.put(key.clone(), records::to_json(&key, &queue)?);
        }
    }
    let outcome = after.outcome(at_ms);
    let ended = before.record.state.has_ended();
    // Nodes that were offline may apply it after the end, or refuse it.
    if after.state.has_ended() && (!ended || before.record.outcome(at_ms) != outcome) {
        let key = keys::outcome(site, after.generation);
        txn = txn.put(key.clone(), records::to_json(&key, &outcome)?);
        if let Some(back) = after.back {
            let key = keys::outcome(site, back);
            txn = txn.put(key.clone(), records::to_json(&key, &outcome)?);
        }
    }
    let transition = Transition::between(&before.record, after).as_str();
    failpoint::reach(transition, At::Decided);
    let outcome = store.commit(txn).await?;
    failpoint::reach(transition, At::Committed);
    Ok(match outcome {
        Outcome::Committed { revision } => Some(revision),
        Outcome::Conflict => None,
    })
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
    let sources: BTreeSet<Generation> = before
        .nodes
        .values()
        .filter_map(|step| content_source(before, step))
        .collect();
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
