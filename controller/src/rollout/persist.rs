//! One step of a rollout in one transaction: the rollout, what its nodes should run, and what
//! else the step makes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use voipfleet_controller_core::rollout::Transition;
use voipfleet_ruleset::identifiers::SiteName;

use crate::failpoint::{self, At};
use crate::records::{
    self, Cause, GenerationRecord, NodeId, Place, QueueRecord, Read, RolloutRecord, TargetRecord,
    expected,
};
use crate::store::{Expect, Outcome, Store, StoreError, Txn, keys};

/// Writes a step; false: somebody else has changed the rollout or the targets since.
pub(crate) async fn persist(
    store: &dyn Store,
    site: &SiteName,
    before: &Read<RolloutRecord>,
    after: &RolloutRecord,
    now_ms: u64,
) -> Result<bool, StoreError> {
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
        let back = back(store, site, &before.record, after, number, now_ms).await?;
        let key = keys::generation(site, number);
        let value = records::to_json(&key, &back)?;
        txn = txn.expect(key.clone(), Expect::Absent).put(key, value);
    }
    if let Some(why) = after.why_not_after() {
        let key = keys::queue(site);
        let queue: Option<Read<QueueRecord>> = records::read(store, &key).await?;
        // Also where nothing waits: nothing may be added meanwhile.
        txn = txn.expect(key.clone(), expected(queue.as_ref()));
        let mut queue = queue.map(|read| read.record).unwrap_or_default();
        if queue.drop_all(&why) {
            txn = txn.put(key.clone(), records::to_json(&key, &queue)?);
        }
    }
    let outcome = after.outcome(now_ms);
    let ended = before.record.state.has_ended();
    // Nodes that were offline may take it after the end, or refuse it.
    if after.state.has_ended() && (!ended || before.record.outcome(now_ms) != outcome) {
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
    Ok(matches!(outcome, Outcome::Committed { .. }))
}

/// The generation that holds what every node ran before the rollout. A node that ran nothing
/// keeps what it has taken.
async fn back(
    store: &dyn Store,
    site: &SiteName,
    before: &RolloutRecord,
    after: &RolloutRecord,
    number: u64,
    now_ms: u64,
) -> Result<GenerationRecord, StoreError> {
    let read = async |number| -> Result<Option<GenerationRecord>, StoreError> {
        let key = keys::generation(site, number);
        Ok(records::read(store, &key).await?.map(|read| read.record))
    };
    let mut nodes = BTreeMap::new();
    let mut earlier: BTreeMap<u64, Option<GenerationRecord>> = BTreeMap::new();
    let mut to = 0;
    for (name, step) in &before.nodes {
        let from = match step.before {
            0 if step.place == Place::Applied => before.generation,
            0 => continue,
            earlier => earlier,
        };
        to = to.max(step.before);
        let record = match earlier.entry(from) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(unread) => unread.insert(read(from).await?),
        };
        let Some(record) = record else {
            let id = NodeId {
                site: site.clone(),
                node: name.clone(),
            };
            tracing::error!(node = %id, generation = from, "what it ran before is missing");
            continue;
        };
        if let Some(content) = record.nodes.get(name) {
            nodes.insert(name.clone(), *content);
        }
    }
    let model = earlier.get(&to).and_then(Option::as_ref);
    Ok(GenerationRecord {
        number,
        at_ms: now_ms,
        by: after.by.clone(),
        confirm_within_ms: after.stages.confirm_within_ms,
        observe: model.is_some_and(|model| model.observe),
        documents: model.map_or(0, |model| model.documents),
        cause: Cause::Rollback { to },
        live: earlier
            .values()
            .flatten()
            .flat_map(|record| record.live.iter().cloned())
            .collect(),
        nodes,
    })
}
