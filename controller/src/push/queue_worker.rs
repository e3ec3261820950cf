//! Starts queued pushes, each at its turn: from the documents of that moment, in the transaction
//! that takes it off the queue.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_stream::StreamExt as _;
use voipfleet_controller_core::precondition::Precondition;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Pipeline, PushError, PushQueue, PushRequest, Pushes, StartedPush};
use crate::audit::{Audit, Event};
use crate::errors::chain;
use crate::records::{Ended, Fate, QueueRecord, Queued, RolloutRecord};
use crate::site_tasks::{self, Next, SiteTask};
use crate::store::{Changes, StoreError, keys};

/// After an error that may pass.
const RETRY: Duration = Duration::from_secs(2);

/// Who may push, at this moment.
#[async_trait]
pub trait Rights: Send + Sync + fmt::Debug {
    /// Whether the operator who queued a push may still push the site.
    async fn may_push(&self, site: &SiteName, queued: &Queued) -> Result<(), NoRight>;
}

/// Why a right was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRight {
    /// The operator has lost it; in words.
    Lost(String),
    /// It cannot be known now.
    Unknown(String),
}

/// Starts the queued pushes of all sites.
#[derive(Debug, Clone)]
pub struct QueueWorker {
    pipeline: Pipeline,
    queue: PushQueue,
    rights: Arc<dyn Rights>,
    audit: Audit,
}

/// Why a turn of the queue did not end well.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the rights of the operator cannot be read: {0}")]
    Rights(String),
}

/// One site's queue.
struct SiteQueue {
    worker: QueueWorker,
    site: SiteName,
    queue: Changes,
    rollout: Changes,
}

impl QueueWorker {
    /// What becomes of queued pushes is written into `audit`.
    pub fn new(pushes: &Pushes, rights: Arc<dyn Rights>, audit: Audit) -> Self {
        Self {
            pipeline: pushes.pipeline.clone(),
            queue: pushes.queue.clone(),
            rights,
            audit,
        }
    }

    /// Works until the fleet stops; begins with what an earlier run of the controller has left.
    pub async fn run(&self) {
        let store = Arc::clone(&self.pipeline.store);
        let stop = self.pipeline.fleet.stop_token();
        let task = |site| SiteQueue::new(self.clone(), site);
        let clock = &self.pipeline.clock;
        site_tasks::run_all(store.as_ref(), keys::ALL_QUEUES, clock, &stop, task).await;
    }

    async fn turn(&self, site: &SiteName) -> Result<Next, TurnError> {
        let Some(read) = self.queue.read(site).await? else {
            return Ok(Next::OnChange);
        };
        let queue = &read.record;
        if queue.ended.iter().any(|ended| !ended.noted) {
            self.note(site, queue).await?;
            return Ok(Next::Now);
        }
        let Some(first) = queue.waiting.first() else {
            return Ok(Next::OnChange);
        };
        let last = self.pipeline.rollouts.read(site).await?;
        let last = last.as_ref().map(|last| &last.record);
        if last.is_some_and(|last| !last.state.has_ended()) {
            return Ok(Next::OnChange);
        }
        if let Some(reason) = last.and_then(RolloutRecord::blocks_queue) {
            let drop_all = |queue: &mut QueueRecord| queue.drop_all(&reason);
            self.queue.change(site, drop_all).await?;
            return Ok(Next::Now);
        }
        let fate = match self.rights.may_push(site, first).await {
            Ok(()) => match self.start(site, first).await? {
                Some(fate) => fate,
                // It was started, or something has changed meanwhile.
                None => return Ok(Next::Now),
            },
            Err(NoRight::Lost(reason)) => Fate::Dropped { reason },
            Err(NoRight::Unknown(error)) => return Err(TurnError::Rights(error)),
        };
        let take = |queue: &mut QueueRecord| queue.take(first.ticket, fate.clone());
        self.queue.change(site, take).await?;
        Ok(Next::Now)
    }

    /// Starts a push whose turn has come; a fate: it was not started.
    async fn start(&self, site: &SiteName, queued: &Queued) -> Result<Option<Fate>, StoreError> {
        let request = PushRequest {
            confirm_within_ms: queued.confirm_within_ms,
            precondition: queued.planned.clone().map(|content| Precondition {
                content,
                state: None,
            }),
            ticket: Some(queued.ticket),
            ..PushRequest::new(site.clone(), &*queued.by)
        };
        match self.pipeline.attempt(&request).await {
            Ok(Some((_, StartedPush::Unchanged))) => Ok(Some(Fate::Unchanged)),
            Ok(Some((_, StartedPush::Rollout(_))) | None) | Err(PushError::Busy { .. }) => Ok(None),
            Err(PushError::Store(error)) if error.is_transient() => Err(error),
            Err(error) => Ok(Some(Fate::Dropped {
                reason: chain(&error),
            })),
        }
    }

    /// Writes what became of pushes into the audit log. One that was written just before a crash
    /// is written again.
    async fn note(&self, site: &SiteName, queue: &QueueRecord) -> Result<(), StoreError> {
        let mut noted = BTreeSet::new();
        for ended in queue.ended.iter().filter(|ended| !ended.noted) {
            let (ticket, by) = (ended.ticket, &ended.by);
            if let Fate::Dropped { reason } = &ended.fate {
                tracing::warn!(%site, ticket, by, reason, "queued push dropped");
            }
            self.audit.note(event(site, ended)).await;
            noted.insert(ticket);
        }
        let note = |queue: &mut QueueRecord| {
            let mut any = false;
            for ended in &mut queue.ended {
                if noted.contains(&ended.ticket) {
                    any |= !std::mem::replace(&mut ended.noted, true);
                }
            }
            any
        };
        self.queue.change(site, note).await
    }
}

impl SiteQueue {
    async fn new(worker: QueueWorker, site: SiteName) -> Self {
        let store = &worker.pipeline.store;
        Self {
            queue: store.watch_from_now(&keys::queue(&site)).await,
            rollout: store.watch_from_now(&keys::rollout(&site)).await,
            site,
            worker,
        }
    }
}

#[async_trait]
impl SiteTask for SiteQueue {
    async fn turn(&mut self) -> Next {
        let site = &self.site;
        match self.worker.turn(site).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%site, error = chain(&error), "queued push delayed");
                Next::After(RETRY)
            }
        }
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            change = self.queue.next() => change.is_some(),
            change = self.rollout.next() => change.is_some(),
        }
    }
}

fn event(site: &SiteName, ended: &Ended) -> Event {
    let event = match &ended.fate {
        Fate::Started { before, generation } => {
            Event::new("QueuedPushStarted").generations(*before, Some(*generation))
        }
        Fate::Unchanged => Event::new("QueuedPushNeedless"),
        Fate::Dropped { reason } => Event::new("QueuedPushDropped").failed(reason.as_str()),
    };
    let (ticket, by) = (ended.ticket, &ended.by);
    event
        .site(site)
        .detail(format!("queued as {ticket} by {by}"))
}
