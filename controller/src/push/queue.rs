//! Pushes that wait for the rollout of their site to end.

use std::sync::Arc;

use voipfleet_controller_core::proposal::Proposal;
use voipfleet_ruleset::identifiers::SiteName;

use super::propose::Heads;
use super::{PushError, PushRequest};
use crate::clock::Clock;
use crate::records::{self, Fate, MAX_WAITING, QueueRecord, Queued, Read, RolloutState, expected};
use crate::rollout::Rollouts;
use crate::store::{Expect, Outcome, Store, StoreError, Txn, keys};

/// Tries to win against a rollout that moves on.
pub(super) const TRIES: usize = 20;

/// The queues of all sites.
#[derive(Debug, Clone)]
pub struct PushQueue {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rollouts: Rollouts,
}

/// A push that waits from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub site: SiteName,
    pub number: u64,
}

/// A push's own place in the queue, for the transaction that starts it.
pub(super) struct QueueClaim {
    key: String,
    expect: Expect,
    /// The queue without the push; none: the push is not in it.
    left: Option<QueueRecord>,
}

impl QueueClaim {
    /// The place of a proposed push; none: it is not the first one any more. Without a ticket it
    /// may not pass those that wait.
    pub(super) fn of(
        request: &PushRequest,
        proposal: &Proposal,
        heads: &Heads,
    ) -> Result<Option<Self>, PushError> {
        let read = heads.queue.as_ref();
        let mut claim = Self {
            key: keys::queue(&request.site),
            expect: expected(read),
            left: None,
        };
        let mut queue = read.map(|read| read.record.clone()).unwrap_or_default();
        let Some(ticket) = request.ticket else {
            return match queue.waiting.len() {
                0 => Ok(Some(claim)),
                waiting => Err(PushError::Waiting {
                    site: request.site.clone(),
                    waiting,
                }),
            };
        };
        let current = proposal.current.as_ref();
        let fate = Fate::Started {
            before: current.map(|current| current.generation.number),
            generation: proposal.generation.number,
        };
        if !queue.take(ticket, fate) {
            return Ok(None);
        }
        claim.left = Some(queue);
        Ok(Some(claim))
    }

    /// Adds to a transaction that the queue is as it was read, and takes the push off it.
    pub(super) fn take(&self, txn: Txn) -> Result<Txn, StoreError> {
        let txn = txn.expect(self.key.clone(), self.expect);
        Ok(match &self.left {
            Some(left) => txn.put(self.key.clone(), records::to_json(&self.key, left)?),
            None => txn,
        })
    }
}

impl PushQueue {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rollouts: Rollouts) -> Self {
        Self {
            store,
            clock,
            rollouts,
        }
    }

    pub async fn read(&self, site: &SiteName) -> Result<Option<Read<QueueRecord>>, StoreError> {
        records::read(self.store.as_ref(), &keys::queue(site)).await
    }

    /// Adds a push to its site's queue; none: there is nothing to wait for.
    pub(super) async fn enqueue(
        &self,
        request: &PushRequest,
        key_hash: &str,
    ) -> Result<Option<Ticket>, PushError> {
        let site = &request.site;
        for _ in 0..TRIES {
            let last = self.rollouts.read(site).await?;
            let read = self.read(site).await?;
            let expect = expected(read.as_ref());
            let mut queue = read.map(|read| read.record).unwrap_or_default();
            let under_way = last.as_ref().map(|last| &last.record);
            let under_way = under_way.filter(|last| !last.state.has_ended());
            if under_way.is_none() && queue.waiting.is_empty() {
                return Ok(None);
            }
            if let Some(back) = under_way.filter(|last| last.state == RolloutState::RollingBack) {
                return Err(PushError::GoingBack {
                    site: site.clone(),
                    generation: back.generation,
                });
            }
            if queue.waiting.len() >= MAX_WAITING {
                return Err(PushError::QueueFull { site: site.clone() });
            }
            let number = queue.last_ticket.saturating_add(1);
            queue.last_ticket = number;
            let precondition = request.precondition.as_ref();
            queue.waiting.push(Queued {
                ticket: number,
                by: request.by.clone(),
                key_hash: key_hash.to_owned(),
                at_ms: self.clock.now_ms(),
                confirm_within_ms: request.confirm_within_ms,
                planned: precondition.map(|precondition| precondition.content.clone()),
            });
            let (key, rollout) = (keys::queue(site), keys::rollout(site));
            // A rollout that is halted meanwhile drops what waits: nothing is added behind it.
            let txn = Txn::new()
                .expect(rollout, expected(last.as_ref()))
                .expect(key.clone(), expect)
                .put(key.clone(), records::to_json(&key, &queue)?);
            if matches!(self.store.commit(txn).await?, Outcome::Committed { .. }) {
                tracing::info!(%site, ticket = number, by = request.by, "push queued");
                let site = site.clone();
                return Ok(Some(Ticket { site, number }));
            }
        }
        Err(PushError::Contended(site.clone()))
    }

    /// Changes a queue, as long as `change` finds anything to change.
    pub(super) async fn change(
        &self,
        site: &SiteName,
        mut change: impl FnMut(&mut QueueRecord) -> bool,
    ) -> Result<(), StoreError> {
        let key = keys::queue(site);
        for _ in 0..TRIES {
            let Some(read) = self.read(site).await? else {
                return Ok(());
            };
            let mut queue = read.record;
            if !change(&mut queue) {
                return Ok(());
            }
            let txn = Txn::new()
                .expect(key.clone(), Expect::At(read.revision))
                .put(key.clone(), records::to_json(&key, &queue)?);
            if matches!(self.store.commit(txn).await?, Outcome::Committed { .. }) {
                return Ok(());
            }
        }
        Err(StoreError::Changing { prefix: key })
    }
}
