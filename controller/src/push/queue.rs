//! Pushes that wait for the rollout of their site to end, and their places.

use voipfleet_controller_core::precondition::PlanBasis;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Begun, Order, Prepared, PushError, Pushes};
use crate::limits::MAX_WAITING;
use crate::records::{self, Fate, QueueRecord, Queued, Read, RolloutState, expected};
use crate::store::{Expect, Outcome, StoreError, Txn, keys};

/// Tries to win against a rollout that moves on.
const TRIES: usize = 20;

/// What came of a push that may wait.
#[derive(Debug)]
pub enum Pushed {
    /// It did not have to.
    Begun(Box<Prepared>, Begun),
    /// It waits.
    Queued(Enqueued),
}

/// A push that waits from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// The site.
    pub site: SiteName,
    /// Its ticket.
    pub ticket: u64,
}

/// A push's own place in the queue, for the transaction that starts it.
pub(super) struct Turn {
    key: String,
    expect: Expect,
    left: Option<QueueRecord>,
}

impl Turn {
    /// Adds to a transaction that the queue is as it was found, and takes the push off it.
    pub(super) fn claim(&self, txn: Txn) -> Result<Txn, StoreError> {
        let txn = txn.expect(self.key.clone(), self.expect);
        Ok(match &self.left {
            Some(left) => txn.put(self.key.clone(), records::to_json(&self.key, left)?),
            None => txn,
        })
    }
}

impl Pushes {
    /// A site's queue.
    pub async fn queue(&self, site: &SiteName) -> Result<Option<Read<QueueRecord>>, StoreError> {
        records::read(self.store.as_ref(), &keys::queue(site)).await
    }

    /// Pushes, or waits in the queue where a rollout of the site is under way.
    pub async fn push_or_queue(&self, order: Order, key_hash: &str) -> Result<Pushed, PushError> {
        for _ in 0..TRIES {
            if let Some(queued) = self.enqueue(&order, key_hash).await? {
                return Ok(Pushed::Queued(queued));
            }
            match self.push(order.clone()).await {
                // A rollout has begun since.
                Err(PushError::Busy { .. } | PushError::Waiting { .. }) => {}
                other => {
                    let (prepared, begun) = other?;
                    return Ok(Pushed::Begun(Box::new(prepared), begun));
                }
            }
        }
        Err(PushError::Contended(order.site))
    }

    /// Gives a push a place in its site's queue; none: there is nothing to wait for.
    async fn enqueue(&self, order: &Order, key_hash: &str) -> Result<Option<Enqueued>, PushError> {
        let site = &order.site;
        for _ in 0..TRIES {
            let last = self.rollouts.read(site).await?;
            let read = self.queue(site).await?;
            let expect = expected(read.as_ref());
            let mut queue = read.map(|read| read.record).unwrap_or_default();
            let last = last.as_ref();
            let under_way = last.filter(|last| !last.record.state.has_ended());
            if under_way.is_none() && queue.waiting.is_empty() {
                return Ok(None);
            }
            if let Some(read) =
                under_way.filter(|read| read.record.state == RolloutState::RollingBack)
            {
                return Err(PushError::GoingBack {
                    site: site.clone(),
                    generation: read.record.generation,
                });
            }
            if queue.waiting.len() >= MAX_WAITING {
                return Err(PushError::QueueFull { site: site.clone() });
            }
            let ticket = queue.last_ticket.saturating_add(1);
            queue.last_ticket = ticket;
            queue.waiting.push(Queued {
                ticket,
                by: order.by.clone(),
                key_hash: key_hash.to_owned(),
                at_ms: self.clock.now_ms(),
                confirm_within_ms: order.confirm_within_ms,
                planned: order.basis.as_ref().map(PlanBasis::content),
            });
            let (key, rollout) = (keys::queue(site), keys::rollout(site));
            // A rollout that is halted meanwhile drops what waits: nothing is added behind it.
            let txn = Txn::new()
                .expect(rollout, expected(last))
                .expect(key.clone(), expect)
                .put(key.clone(), records::to_json(&key, &queue)?);
            if matches!(self.store.commit(txn).await?, Outcome::Committed { .. }) {
                tracing::info!(%site, ticket, by = order.by, "push queued");
                let site = site.clone();
                return Ok(Some(Enqueued { site, ticket }));
            }
        }
        Err(PushError::Contended(site.clone()))
    }

    /// The place of a prepared push in the queue; none: it has none any more. Without a ticket
    /// it may not pass those that wait.
    pub(super) async fn turn(&self, prepared: &Prepared) -> Result<Option<Turn>, PushError> {
        let order = &prepared.order;
        let read = self.queue(&order.site).await?;
        let mut turn = Turn {
            key: keys::queue(&order.site),
            expect: expected(read.as_ref()),
            left: None,
        };
        let mut queue = read.map(|read| read.record).unwrap_or_default();
        if order.ticket == 0 {
            return match queue.waiting.len() {
                0 => Ok(Some(turn)),
                waiting => Err(PushError::Waiting {
                    site: order.site.clone(),
                    waiting,
                }),
            };
        }
        let before = prepared.basis.record.as_ref();
        let fate = Fate::Started {
            before: before.map_or(0, |record| record.number),
            generation: prepared.generation.number,
        };
        if !queue.take(order.ticket, fate) {
            return Ok(None);
        }
        turn.left = Some(queue);
        Ok(Some(turn))
    }
}
