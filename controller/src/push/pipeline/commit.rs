//! A proposal becomes the site's generation and rollout, in one transaction.

use std::collections::BTreeSet;

use voipfleet_controller_core::proposal::{Proposal, RolloutStart};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;

use super::propose::{Heads, busy};
use super::queue_claim::QueueClaim;
use super::{Pipeline, Proposed};
use crate::failpoint;
use crate::push::{PushError, prune};
use crate::records::{RolloutRecord, expected};
use crate::store::{Expect, StoreError, Transaction, keys};

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartedPush {
    /// A rollout of this number is under way, or was over at once.
    Rollout(u64),
    /// Nothing was started: a dry run, or every node runs this very generation already.
    Unchanged,
}

impl Pipeline {
    /// Stores a proposal and starts its rollout; none: what it was made of has changed since. A
    /// push that has waited is taken off the queue with it.
    pub(super) async fn commit(
        &self,
        proposed: &mut Proposed,
    ) -> Result<Option<StartedPush>, PushError> {
        let Proposed {
            request,
            proposal,
            heads,
            packed,
            ..
        } = proposed;
        let site = &request.site;
        if let Some(busy) = heads
            .rollout
            .as_ref()
            .and_then(|read| busy(site, &read.record))
        {
            return Err(busy);
        }
        let Some(claim) = QueueClaim::of(request, proposal, heads)? else {
            return Ok(None);
        };
        let settled = proposal.is_settled();
        let rollout = (!settled).then(|| self.rollout(proposal, heads, request.ticket));
        let mut tx = Transaction::new(self.store.as_ref());
        expect_heads(proposal, heads, &mut tx);
        store_generation(proposal, heads, &mut tx).await?;
        if let Some(packed) = packed.take().filter(|_| proposal.changed) {
            packed.stage(&stored(heads), &mut tx).await?;
        }
        let Some(rollout) = rollout else {
            let unchanged = !tx.writes() || tx.commit().await?.is_some();
            return Ok(unchanged.then_some(StartedPush::Unchanged));
        };
        claim.take(&mut tx).await?;
        store_rollout(proposal, &rollout, &mut tx).await?;
        // Before it can be seen: it is this controller's, and not one to take over.
        self.rollouts.started(site, rollout.number);
        failpoint::reach("start", failpoint::At::Decided);
        if tx.commit().await?.is_none() {
            return Ok(None);
        }
        failpoint::reach("start", failpoint::At::Committed);
        let (generation, by) = (rollout.generation, &rollout.by);
        tracing::info!(%site, generation, by, "generation pushed");
        prune::prune_in_background(std::sync::Arc::clone(&self.store), site.clone());
        let working = rollout.nodes.iter();
        let working: Vec<NodeName> = working
            .filter(|(_, step)| step.phase.is_working())
            .map(|(name, _)| name.clone())
            .collect();
        let within_ms = proposal.confirm_within_ms;
        let offer = self.fleet.again_for(site, &working, generation, within_ms);
        offer.await;
        Ok(Some(StartedPush::Rollout(rollout.number)))
    }

    fn rollout(&self, proposal: &Proposal, heads: &Heads, ticket: Option<u64>) -> RolloutRecord {
        let last = heads.rollout.as_ref();
        proposal.rollout(&RolloutStart {
            number: last.map_or(0, |last| last.record.number).saturating_add(1),
            ticket,
            at_ms: self.clock.now_ms(),
        })
    }
}

/// Expects what the proposal was made of.
fn expect_heads(proposal: &Proposal, heads: &Heads, tx: &mut Transaction<'_>) {
    let site = &proposal.site;
    let targets = heads.targets.as_ref();
    let targets = targets.map_or(Expect::Absent, |read| Expect::At(read.revision()));
    tx.expect(keys::current(site), targets);
    tx.expect(keys::rollout(site), expected(heads.rollout.as_ref()));
    // Its rulesets go with it: if it was pruned since, its content cannot come back.
    if let Some(earlier) = &heads.earlier {
        let key = keys::generation(site, earlier.record.number);
        tx.expect(key, Expect::At(earlier.revision));
    }
}

async fn store_generation(
    proposal: &Proposal,
    heads: &Heads,
    tx: &mut Transaction<'_>,
) -> Result<(), StoreError> {
    if !proposal.stores_generation() {
        return Ok(());
    }
    let generation = &proposal.generation;
    let key = keys::generation(&proposal.site, generation.number);
    let expect = if proposal.changed {
        Expect::Absent
    } else {
        expected(heads.generation.as_ref())
    };
    tx.expect(key.clone(), expect);
    tx.find_parts(&key).await?;
    tx.put_large_json(&key, &key, generation)
}

async fn store_rollout(
    proposal: &Proposal,
    rollout: &RolloutRecord,
    tx: &mut Transaction<'_>,
) -> Result<(), StoreError> {
    let site = &proposal.site;
    let key = keys::current(site);
    tx.find_parts(&key).await?;
    tx.put_large_json(&key, &key, &rollout.targets())?;
    let key = keys::rollout(site);
    tx.find_parts(&key).await?;
    tx.put_large_json(&key, &key, rollout)?;
    if rollout.state.has_ended() {
        let key = keys::outcome(site, rollout.generation);
        tx.put_json(&key, &rollout.outcome(rollout.started_ms))?;
    }
    Ok(())
}

/// Rulesets that are in the store as long as the site's newest generation is what it was.
fn stored(heads: &Heads) -> BTreeSet<Digest> {
    let newest = heads.generation.iter();
    newest
        .flat_map(|read| read.record.nodes.values())
        .map(|content| content.digest)
        .collect()
}

#[cfg(test)]
#[path = "large_site_tests.rs"]
mod large_site;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;
    use voipfleet_controller_core::proposal::{Inputs, Want, propose};
    use voipfleet_policy::Rollout;
    use voipfleet_ruleset::identifiers::SiteName;

    use super::*;
    use crate::clock;
    use crate::fleet::Fleet;
    use crate::push::{PushRequest, Pushes, RequestedContent};
    use crate::records::{Cause, GenerationChanges, GenerationRecord, Read};
    use crate::store::{Embedded, Store, Txn};

    fn site() -> SiteName {
        "site-a".parse().unwrap()
    }

    fn earlier() -> GenerationRecord {
        GenerationRecord {
            number: 3,
            at_ms: 0,
            by: "ada".to_owned(),
            confirm_within_ms: 100,
            observe: false,
            documents: Some(1),
            cause: Cause::Push,
            dynamic: BTreeSet::new(),
            changes: GenerationChanges::default(),
            nodes: BTreeMap::new(),
            joined: BTreeMap::new(),
        }
    }

    /// A rollback to generation 3, whose record was read at `revision`.
    fn rollback(revision: u64) -> Proposed {
        let earlier = earlier();
        let inputs = Inputs {
            site: site(),
            at_ms: 1000,
            by: "ada".to_owned(),
            confirm_within_ms: None,
            documents: 1,
            changed_documents: None,
            rollout: Rollout::at_once(),
            observe: false,
            current: None,
            nodes: BTreeMap::new(),
            compiled: BTreeMap::new(),
            warnings: Vec::new(),
        };
        Proposed {
            hosts: std::collections::BTreeMap::new(),
            dynamic: voipfleet_ruleset::ruleset::DynamicSets::new("site-a".parse().unwrap()),
            request: PushRequest {
                content: RequestedContent::Generation(3),
                ..PushRequest::new(site(), "ada")
            },
            proposal: propose(inputs, Want::Rollback(earlier.clone())),
            documents: Arc::default(),
            pending: Vec::new(),
            heads: Heads {
                targets: None,
                generation: None,
                rollout: None,
                queue: None,
                earlier: Some(Read {
                    revision,
                    record: earlier,
                }),
            },
            packed: None,
        }
    }

    async fn put_earlier(store: &dyn Store) -> u64 {
        let key = keys::generation(site(), 3);
        let mut tx = Transaction::new(store);
        tx.put_json(&key, &earlier()).unwrap();
        tx.commit().await.unwrap().unwrap()
    }

    /// The rulesets of a generation that was pruned after the proposal went with it.
    #[tokio::test]
    async fn a_generation_pruned_after_the_proposal_is_not_brought_back() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let (clock, stop) = (clock::system(), CancellationToken::new());
        let fleet = Fleet::new(Arc::clone(&store), clock::system(), None, stop);
        let pushes = Pushes::new(Arc::clone(&store), clock, fleet);
        let revision = put_earlier(store.as_ref()).await;
        let mut proposed = rollback(revision);
        let pruned = Txn::new().delete(keys::generation(site(), 3));
        store.commit(pruned).await.unwrap();
        let started = pushes.pipeline.commit(&mut proposed).await.unwrap();
        assert_eq!(started, None);
        let current = store.get(&keys::current(site())).await.unwrap();
        assert!(current.is_none());

        let revision = put_earlier(store.as_ref()).await;
        let mut proposed = rollback(revision);
        let started = pushes.pipeline.commit(&mut proposed).await.unwrap();
        assert_eq!(started, Some(StartedPush::Rollout(1)));
    }

    /// Of two pushes that were proposed of the same state only one is committed; the other one is
    /// proposed anew.
    #[tokio::test]
    async fn a_proposal_of_an_outdated_state_is_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let (clock, stop) = (clock::system(), CancellationToken::new());
        let fleet = Fleet::new(Arc::clone(&store), clock::system(), None, stop);
        let pushes = Pushes::new(Arc::clone(&store), clock, fleet);
        let revision = put_earlier(store.as_ref()).await;
        let (mut first, mut second) = (rollback(revision), rollback(revision));
        let started = pushes.pipeline.commit(&mut first).await.unwrap();
        assert_eq!(started, Some(StartedPush::Rollout(1)));
        let started = pushes.pipeline.commit(&mut second).await.unwrap();
        assert_eq!(started, None);
    }
}
