//! Pushes that wait for the rollout of their site to end.

use std::sync::Arc;

use voipfleet_ruleset::identifiers::SiteName;

use super::{PushError, PushRequest};
use crate::clock::Clock;
use crate::limits::MAX_WAITING;
use crate::records::{self, QueueRecord, Queued, Read, RolloutRecord, RolloutState};
use crate::store::{Store, StoreError, keys, transact};

/// Tries to queue or to push, while rollouts begin and end.
pub(super) const TRIES: usize = 20;

/// The queues of all sites.
#[derive(Debug, Clone)]
pub struct PushQueue {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

/// A push that waits from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub site: SiteName,
    pub number: u64,
}

impl PushQueue {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
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
        let (key, rollout) = (keys::queue(site), keys::rollout(site));
        let what = format!("the queue of site {site}");
        let enqueued = transact(self.store.as_ref(), &what, async |mut tx| {
            // A rollout that is halted meanwhile drops what waits: nothing is added behind it.
            let last: Option<RolloutRecord> = tx.read(&rollout).await?;
            let queue: Option<QueueRecord> = tx.read(&key).await?;
            let mut queue = queue.unwrap_or_default();
            let under_way = last.filter(|last| !last.state.has_ended());
            if under_way.is_none() && queue.waiting.is_empty() {
                return Ok(tx.done(None));
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
            tx.put_large_json(&key, &key, &queue)?;
            Ok::<_, PushError>(tx.done(Some(number)))
        });
        let Some(number) = enqueued.await? else {
            return Ok(None);
        };
        tracing::info!(%site, ticket = number, by = request.by, "push queued");
        let site = site.clone();
        Ok(Some(Ticket { site, number }))
    }

    /// Changes a queue, as long as `change` finds anything to change.
    pub(super) async fn change(
        &self,
        site: &SiteName,
        change: impl Fn(&mut QueueRecord) -> bool,
    ) -> Result<(), StoreError> {
        let key = keys::queue(site);
        let what = format!("the queue of site {site}");
        transact(self.store.as_ref(), &what, async |mut tx| {
            if let Some(mut queue) = tx.read::<QueueRecord>(&key).await?
                && change(&mut queue)
            {
                tx.put_large_json(&key, &key, &queue)?;
            }
            Ok(tx.done(()))
        })
        .await
    }
}
