//! A prepared push becomes the site's rollout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use voipfleet_common::names::NodeName;
use voipfleet_common::policy::{Batch, OnFailure};
use voipfleet_common::ruleset::Digest;
use voipfleet_common::session::Generation;

use super::{Order, Prepared, PushError, Pushes, Want};
use crate::clock;
use crate::failpoint;
use crate::records::{
    self, GenerationRecord, NodeId, NodeStep, Place, Read, RolloutRecord, RolloutState, Stages,
};
use crate::rollout::order::{Candidate, Ordered, order};
use crate::rollout::step::{Presence, Sight, Word};
use crate::rollout::{self, is_refusal};
use crate::store::{Expect, Outcome, Txn, keys};

/// Tries to win against other pushes of the same site.
const TRIES: usize = 5;

/// What came of starting a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// A rollout of this number goes on, or was over at once.
    Rollout(u64),
    /// Every node should run this content already: only refusals are tried again.
    Nothing,
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
                return Ok((prepared, Begun::Nothing));
            }
            if let Some(begun) = self.start(&prepared, 0).await? {
                return Ok((prepared, begun));
            }
        }
        Err(PushError::Contended(order.site))
    }

    /// The batches that a prepared push would go through.
    pub fn order_of(&self, prepared: &Prepared) -> Ordered {
        let candidates = self.candidates(prepared);
        let stages = stages(prepared, &candidates);
        order(&candidates, stages.canary, stages.batch)
    }

    /// Makes a prepared push the site's rollout, in one transaction; none: another push was
    /// faster. `ticket` is its place in the queue, 0 where it did not wait.
    pub async fn start(
        &self,
        prepared: &Prepared,
        ticket: u64,
    ) -> Result<Option<Begun>, PushError> {
        let site = &prepared.order.site;
        let store = self.store.as_ref();
        let last = self.rollouts.read(site).await?;
        if let Some(last) = last.as_ref().filter(|last| !last.record.state.has_ended()) {
            let record = &last.record;
            return Err(PushError::Busy {
                site: site.clone(),
                generation: record.generation,
                by: record.by.clone(),
                state: record.state.as_str(),
                since: clock::show(record.started_ms),
            });
        }
        let target = prepared.basis.target.as_ref();
        let everywhere = target.is_some_and(|target| target.nodes.is_empty());
        if !prepared.changed && everywhere {
            return Ok(Some(Begun::Nothing));
        }
        let record = self.record(prepared, last.as_ref(), ticket).await?;
        let number = record.number;
        let current = keys::current(site);
        let rollout = keys::rollout(site);
        let expect = last
            .as_ref()
            .map_or(Expect::Absent, |read| Expect::At(read.revision));
        let mut txn = Txn::new()
            .expect(current.clone(), prepared.basis.expect)
            .expect(rollout.clone(), expect)
            .put(
                current.clone(),
                records::to_json(&current, &record.targets())?,
            )
            .put(rollout.clone(), records::to_json(&rollout, &record)?);
        if prepared.changed {
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
        failpoint::reach(rollout::Step::Start, failpoint::At::Decided);
        if store.commit(txn).await? == Outcome::Conflict {
            return Ok(None);
        }
        failpoint::reach(rollout::Step::Start, failpoint::At::Committed);
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

    async fn record(
        &self,
        prepared: &Prepared,
        last: Option<&Read<RolloutRecord>>,
        ticket: u64,
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
            if let std::collections::btree_map::Entry::Vacant(place) = known.entry(before) {
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
                    place: Place::Waiting,
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
            ticket,
            stages,
            order: ordered.batches,
            released: 0,
            next_ms: None,
            nodes,
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
    let batch = match staging.batch {
        Batch::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Batch::Percent(percent) => (nodes * usize::from(percent)).div_ceil(100),
    };
    Stages {
        canary: usize::try_from(staging.canary).unwrap_or(usize::MAX),
        batch: batch.max(1),
        max_failures: usize::try_from(staging.max_failures).unwrap_or(usize::MAX),
        pause_ms: staging.pause_ms,
        roll_back: staging.on_failure == OnFailure::Rollback,
        confirm_within_ms: prepared.confirm_within_ms,
    }
}
