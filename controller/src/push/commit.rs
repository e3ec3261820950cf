//! A prepared push becomes the site's rollout.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use voipfleet_controller_core::rollout::batches::{Candidate, order};
use voipfleet_controller_core::rollout::state_machine::{Presence, Sight, Word};
use voipfleet_policy::{Batch, OnFailure};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::Digest;

use super::{Order, Prepared, PushError, Pushes, Want};
use crate::clock;
use crate::failpoint;
use crate::records::{
    self, Cause, GenerationRecord, NodeId, NodeStep, Place, Read, RolloutRecord, RolloutState,
    Stages, expected,
};
use crate::rollout::is_refusal;
use crate::store::{Expect, Outcome, Txn, keys};

/// Tries to win against other pushes of the same site.
const TRIES: usize = 5;

/// What came of starting a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// A rollout of this number goes on, or was over at once.
    Rollout(u64),
    /// Every node runs this very generation already.
    Nothing,
}

/// One rollout of a site at a time.
fn busy(site: &SiteName, record: &RolloutRecord) -> Option<PushError> {
    (!record.state.has_ended()).then(|| PushError::Busy {
        site: site.clone(),
        generation: record.generation,
        by: record.by.clone(),
        state: record.state.as_str(),
        since: clock::show(record.started_ms),
    })
}

impl Pushes {
    /// Prepares a push and starts it. Of two pushes at once the later compile wins: the other
    /// one is compiled again.
    pub async fn push(&self, order: Order) -> Result<(Prepared, Begun), PushError> {
        for _ in 0..TRIES {
            let prepared = match order.want {
                Want::Earlier(to) => self.prepare_rollback(order.clone(), to).await?,
                Want::Documents => self.prepare(order.clone()).await?,
            };
            if order.dry_run {
                if order.rehearse
                    && let Some(held) = self.held(&order.site).await?
                {
                    return Err(held);
                }
                return Ok((prepared, Begun::Nothing));
            }
            if let Some(begun) = self.start(&prepared).await? {
                return Ok((prepared, begun));
            }
        }
        Err(PushError::Contended(order.site))
    }

    /// Why a push of the site would be refused now; none: it would go.
    pub async fn held(&self, site: &SiteName) -> Result<Option<PushError>, PushError> {
        let last = self.rollouts.read(site).await?;
        if let Some(busy) = last.and_then(|last| busy(site, &last.record)) {
            return Ok(Some(busy));
        }
        let waiting = self.queue(site).await?;
        let waiting = waiting.map_or(0, |read| read.record.waiting.len());
        Ok((waiting > 0).then(|| PushError::Waiting {
            site: site.clone(),
            waiting,
        }))
    }

    /// Makes a prepared push the site's rollout, in one transaction; none: another push was
    /// faster. One that has waited is taken off the queue with it.
    pub async fn start(&self, prepared: &Prepared) -> Result<Option<Begun>, PushError> {
        let site = &prepared.order.site;
        let store = self.store.as_ref();
        let last = self.rollouts.read(site).await?;
        if let Some(busy) = last.as_ref().and_then(|last| busy(site, &last.record)) {
            return Err(busy);
        }
        let Some(turn) = self.turn(prepared).await? else {
            return Ok(None);
        };
        if !prepared.changed && !self.made_of_later(prepared).await? {
            return Ok(None);
        }
        let target = prepared.basis.target.as_ref();
        let everywhere = target.is_some_and(|target| target.nodes.is_empty());
        if !prepared.changed && everywhere && all_have(prepared) {
            return Ok(Some(Begun::Nothing));
        }
        let record = self.record(prepared, last.as_ref()).await?;
        let number = record.number;
        let current = keys::current(site);
        let rollout = keys::rollout(site);
        let mut txn = turn
            .claim(Txn::new())?
            .expect(current.clone(), prepared.basis.expect)
            .expect(rollout.clone(), expected(last.as_ref()))
            .put(
                current.clone(),
                records::to_json(&current, &record.targets())?,
            )
            .put(rollout.clone(), records::to_json(&rollout, &record)?);
        if prepared.changed {
            if let Cause::Rollback { to } = prepared.generation.cause {
                // Its rulesets go with it: pruned since, it cannot come back.
                let earlier = keys::generation(site, to);
                let held = store.get(&earlier).await?;
                if held.is_none() {
                    return Err(PushError::UnknownGeneration(site.clone(), to));
                }
                txn = txn.expect(earlier, Expect::from(&held));
            }
            let key = keys::generation(site, prepared.generation.number);
            let value = records::to_json(&key, prepared.generation.as_ref())?;
            txn = txn.expect(key.clone(), Expect::Absent).put(key, value);
            let packed = prepared
                .packed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(packed) = packed {
                txn = packed.put(store, &stored_before(prepared), txn).await?;
            }
        }
        if record.state.has_ended() {
            let key = keys::outcome(site, record.generation);
            let outcome = record.outcome(record.started_ms);
            txn = txn.put(key.clone(), records::to_json(&key, &outcome)?);
        }
        failpoint::reach("start", failpoint::At::Decided);
        if store.commit(txn).await? == Outcome::Conflict {
            return Ok(None);
        }
        failpoint::reach("start", failpoint::At::Committed);
        tracing::info!(%site, generation = record.generation, by = record.by, "generation pushed");
        self.prune(site.clone());
        let working: Vec<NodeName> = record
            .nodes
            .iter()
            .filter(|(_, step)| step.place.is_working())
            .map(|(name, _)| name.clone())
            .collect();
        self.fleet
            .again_for(
                site,
                &working,
                record.generation,
                prepared.confirm_within_ms,
            )
            .await;
        Ok(Some(Begun::Rollout(number)))
    }

    /// Documents may change and give the same rules: the generation is then as good as made of
    /// them, and no plan goes on to show what differs. False: another push was faster.
    async fn made_of_later(&self, prepared: &Prepared) -> Result<bool, PushError> {
        let site = &prepared.order.site;
        let store = self.store.as_ref();
        let key = keys::generation(site, prepared.generation.number);
        let read: Option<Read<GenerationRecord>> = records::read(store, &key).await?;
        let later = |read: &Read<GenerationRecord>| read.record.documents < prepared.documents;
        let Some(read) = read.filter(later) else {
            return Ok(true);
        };
        if prepared.order.want != Want::Documents {
            return Ok(true);
        }
        let record = GenerationRecord {
            documents: prepared.documents,
            ..read.record
        };
        let txn = Txn::new()
            .expect(keys::current(site), prepared.basis.expect)
            .expect(key.clone(), Expect::At(read.revision))
            .put(key.clone(), records::to_json(&key, &record)?);
        Ok(matches!(
            store.commit(txn).await?,
            Outcome::Committed { .. }
        ))
    }

    async fn record(
        &self,
        prepared: &Prepared,
        last: Option<&Read<RolloutRecord>>,
    ) -> Result<RolloutRecord, PushError> {
        let site = &prepared.order.site;
        let now_ms = self.clock.now_ms();
        let candidates = self.candidates(prepared);
        let stages = stages(prepared, &candidates);
        let ordered = order(&candidates, stages.canary, stages.batch);
        let mut nodes = BTreeMap::new();
        let mut known: BTreeMap<Generation, Option<GenerationRecord>> = BTreeMap::new();
        for (name, candidate) in &candidates {
            let target = prepared.basis.target.as_ref();
            let mut before = target
                .and_then(|target| target.of(name))
                .unwrap_or_default();
            let held = prepared.confirmed.get(name).copied();
            let target = prepared.generation.held(name);
            let has = held.is_some() && held == target;
            if before == prepared.generation.number && !has {
                // It was offered it, and has not taken it.
                before = held.map_or(0, |held| held.generation);
            }
            if let Entry::Vacant(place) = known.entry(before) {
                let key = keys::generation(site, before);
                let read = records::read(self.store.as_ref(), &key).await?;
                place.insert(read.map(|read| read.record));
            }
            let earlier = known.get(&before).and_then(Option::as_ref);
            if earlier.is_none_or(|earlier| !earlier.nodes.contains_key(name)) {
                before = 0;
            }
            nodes.insert(
                name.clone(),
                NodeStep {
                    before,
                    had: candidate.unchanged,
                    place: if has && self.is_here(prepared, name) {
                        Place::Applied
                    } else {
                        Place::Waiting
                    },
                    at_ms: now_ms,
                    refused_before: self.refused(prepared, name),
                    error: String::new(),
                    flows_cut: 0,
                },
            );
        }
        let mut record = RolloutRecord {
            number: last.map_or(0, |last| last.record.number).saturating_add(1),
            generation: prepared.generation.number,
            back: None,
            state: RolloutState::Running,
            why: String::new(),
            by: prepared.order.by.clone(),
            started_ms: now_ms,
            ended_ms: None,
            ticket: prepared.order.ticket,
            stages,
            order: ordered.batches,
            released: 0,
            next_ms: None,
            nodes,
            held: None,
            turned: None,
        };
        // The first batch is released in the transaction that starts it.
        let sights = self.presence(prepared, now_ms);
        for _ in 0..=record.order.len() {
            let next = record.generation.saturating_add(1);
            if !record.advance(&sights, now_ms, next) {
                break;
            }
        }
        Ok(record)
    }

    /// It is connected, or between two connections.
    fn is_here(&self, prepared: &Prepared, name: &NodeName) -> bool {
        let id = id(prepared, name);
        let known = prepared.confirmed.contains_key(name);
        self.fleet.view(&id).is_some() || self.fleet.may_be_back_until(&id, known).is_some()
    }

    /// Who is connected; what nodes say is judged by the rollout's own steps.
    fn presence(&self, prepared: &Prepared, now_ms: u64) -> BTreeMap<NodeName, Sight> {
        let now = tokio::time::Instant::now();
        let sight = |name: &NodeName| {
            let id = id(prepared, name);
            let known = prepared.confirmed.contains_key(name);
            let left = self
                .fleet
                .may_be_back_until(&id, known)
                .map(|until| until.saturating_duration_since(now))
                .filter(|left| !left.is_zero());
            let presence = match left {
                _ if self.fleet.view(&id).is_some() => Presence::Here,
                Some(left) => {
                    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    Presence::MayBeBack(now_ms.saturating_add(left).saturating_add(1))
                }
                None => Presence::Away,
            };
            Sight {
                presence,
                word: Word::Nothing,
            }
        };
        let names = prepared.generation.nodes.keys();
        names.map(|name| (name.clone(), sight(name))).collect()
    }

    fn candidates(&self, prepared: &Prepared) -> BTreeMap<NodeName, Candidate> {
        let contents = &prepared.generation.nodes;
        contents
            .iter()
            .map(|(name, content)| {
                let confirmed = prepared.confirmed.get(name);
                let candidate = Candidate {
                    roles: prepared.roles.get(name).cloned().unwrap_or_default(),
                    connected: self.fleet.view(&id(prepared, name)).is_some(),
                    unchanged: confirmed.is_some_and(|held| held.digest == content.digest),
                };
                (name.clone(), candidate)
            })
            .collect()
    }

    /// The offer of this very content that a node has refused.
    fn refused(&self, prepared: &Prepared, name: &NodeName) -> Option<u64> {
        let view = self.fleet.view(&id(prepared, name))?;
        let offered = view.offered?;
        let answer = offered.answer.as_ref()?;
        let same = Some(offered.held) == prepared.generation.held(name);
        (same && is_refusal(answer.state())).then_some(offered.nonce)
    }
}

/// Whether every node has confirmed this very generation.
fn all_have(prepared: &Prepared) -> bool {
    let generation = &prepared.generation;
    let mut names = generation.nodes.keys();
    names.all(|name| {
        let held = prepared.confirmed.get(name).copied();
        held.is_some() && held == generation.held(name)
    })
}

/// Rulesets that are in the store as long as the site's newest generation is what it was.
fn stored_before(prepared: &Prepared) -> BTreeSet<Digest> {
    let before = prepared.basis.record.iter();
    before
        .flat_map(|record| record.nodes.values())
        .map(|content| content.digest)
        .collect()
}

fn id(prepared: &Prepared, node: &NodeName) -> NodeId {
    NodeId {
        site: prepared.order.site.clone(),
        node: node.clone(),
    }
}

/// The site's wishes in numbers of nodes, of those that change.
fn stages(prepared: &Prepared, candidates: &BTreeMap<NodeName, Candidate>) -> Stages {
    let staging = &prepared.staging;
    let nodes = candidates.values().filter(|node| !node.unchanged).count();
    Stages {
        canary: usize::try_from(staging.canary).unwrap_or(usize::MAX),
        batch: batch_size(staging.batch, nodes),
        max_failures: usize::try_from(staging.max_failures).unwrap_or(usize::MAX),
        pause_ms: staging.pause_ms,
        roll_back: staging.on_failure == OnFailure::Rollback,
        confirm_within_ms: prepared.confirm_within_ms,
    }
}

/// So many nodes at a time, of those that change; 1 or more.
pub(super) fn batch_size(batch: Batch, changing: usize) -> usize {
    let size = match batch {
        Batch::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Batch::Percent(percent) => (changing * usize::from(percent)).div_ceil(100),
    };
    size.max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;
    use voipfleet_policy::Rollout as Staging;

    use super::*;
    use crate::fleet::Fleet;
    use crate::push::prepare::Before;
    use crate::store::{Embedded, Store};

    /// What was prepared names rulesets that are gone with the generation.
    #[tokio::test]
    async fn a_generation_that_was_pruned_meanwhile_is_not_brought_back() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let (clock, stop) = (clock::system(), CancellationToken::new());
        let fleet = Fleet::new(Arc::clone(&store), clock::system(), stop);
        let pushes = Pushes::new(Arc::clone(&store), clock, fleet);
        let site: voipfleet_ruleset::identifiers::SiteName = "site-a".parse().unwrap();
        let prepared = Prepared {
            order: Order {
                site: site.clone(),
                by: "ada".to_owned(),
                confirm_within_ms: None,
                wait_offline: Duration::ZERO,
                dry_run: false,
                rehearse: false,
                sources: Vec::new(),
                basis: None,
                want: Want::Earlier(Some(3)),
                ticket: 0,
            },
            generation: Arc::new(GenerationRecord {
                number: 24,
                at_ms: 0,
                by: "ada".to_owned(),
                confirm_within_ms: 100,
                observe: false,
                documents: 0,
                cause: Cause::Rollback { to: 3 },
                live: BTreeSet::new(),
                nodes: BTreeMap::new(),
            }),
            changed: true,
            documents: 0,
            confirm_within_ms: 100,
            roles: BTreeMap::new(),
            differing: BTreeSet::new(),
            confirmed: BTreeMap::new(),
            warnings: Vec::new(),
            staging: Staging::at_once(),
            basis: Before {
                expect: Expect::Absent,
                target: None,
                record: None,
            },
            packed: Arc::new(Mutex::new(None)),
        };
        let refused = pushes.start(&prepared).await;
        assert!(
            matches!(&refused, Err(PushError::UnknownGeneration(_, 3))),
            "{refused:?}"
        );
        let current = store.get(&keys::current(&site)).await.unwrap();
        assert!(current.is_none());
        // Where it is still there, it is.
        let key = keys::generation(&site, 3);
        let earlier = records::to_json(&key, prepared.generation.as_ref()).unwrap();
        store.commit(Txn::new().put(key, earlier)).await.unwrap();
        assert!(pushes.start(&prepared).await.unwrap().is_some());
    }
}
