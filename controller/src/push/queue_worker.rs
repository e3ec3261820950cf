//! The turn of a push that has waited: it is started from the documents of that moment, in the
//! transaction that takes it off the queue.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_stream::StreamExt as _;
use voipfleet_controller_core::precondition::PlanBasis;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Begun, Order, PushError, Pushes, Want};
use crate::audit::{Audit, Event};
use crate::clock;
use crate::errors::chain;
use crate::records::{Ended, Fate, QueueRecord, Queued, RolloutRecord};
use crate::store::{StoreError, each_key, keys, transact};

/// After an error that may pass.
const RETRY: Duration = Duration::from_secs(2);

/// Who may push, as it stands now.
#[async_trait]
pub trait Rights: Send + Sync + fmt::Debug {
    /// Whether the operator who queued it may still push the site.
    async fn may_push(&self, site: &SiteName, queued: &Queued) -> Result<(), NoRight>;
}

/// Why a right was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRight {
    /// There is none any more; in words.
    Lost(String),
    /// It cannot be known now.
    Unknown(String),
}

/// What a look at a queue led to.
enum Look {
    /// Something was done; there may be more to do.
    Again,
    /// Nothing can be done before something changes.
    Wait,
    /// It may go better later.
    Later(String),
}

impl Pushes {
    /// Starts what waits, each at its turn, until the fleet stops; also what an earlier run of
    /// the controller has left. What becomes of it is written into `audit`.
    pub async fn take_turns(&self, rights: Arc<dyn Rights>, audit: Audit) {
        let stop = self.fleet.stop_token();
        let mut known = BTreeSet::new();
        let look = |key: &str| {
            let site = key.strip_prefix(keys::ALL_QUEUES);
            let site: Option<SiteName> = site.and_then(|site| site.parse().ok());
            if let Some(site) = site
                && known.insert(site.clone())
            {
                let (pushes, rights) = (self.clone(), Arc::clone(&rights));
                let audit = audit.clone();
                tokio::spawn(async move { pushes.look_after(site, rights, audit).await });
            }
        };
        each_key(self.store.as_ref(), keys::ALL_QUEUES, &stop, look).await;
    }

    /// Looks after one site's queue.
    async fn look_after(&self, site: SiteName, rights: Arc<dyn Rights>, audit: Audit) {
        let stop = self.fleet.stop_token();
        let mut queue = self.store.watch_from_now(&keys::queue(&site)).await;
        let mut rollout = self.store.watch_from_now(&keys::rollout(&site)).await;
        loop {
            let look = match self.look(&site, rights.as_ref(), &audit).await {
                Ok(look) => look,
                Err(error) => Look::Later(chain(&error)),
            };
            let sleep = match look {
                Look::Again => continue,
                Look::Wait => None,
                Look::Later(error) => {
                    tracing::error!(%site, error, "a queued push does not go on");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = clock::sleep(sleep) => {}
                change = queue.next() => if change.is_none() { return },
                change = rollout.next() => if change.is_none() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(
        &self,
        site: &SiteName,
        rights: &dyn Rights,
        audit: &Audit,
    ) -> Result<Look, StoreError> {
        let Some(read) = self.queue(site).await? else {
            return Ok(Look::Wait);
        };
        let queue = &read.record;
        if queue.ended.iter().any(|ended| !ended.noted) {
            self.note(site, queue, audit).await?;
            return Ok(Look::Again);
        }
        let Some(first) = queue.waiting.first() else {
            return Ok(Look::Wait);
        };
        let last = self.rollouts.read(site).await?;
        let last = last.as_ref().map(|last| &last.record);
        if last.is_some_and(|last| !last.state.has_ended()) {
            return Ok(Look::Wait);
        }
        if let Some(why) = last.and_then(RolloutRecord::why_not_after) {
            self.change(site, |queue| queue.drop_all(&why)).await?;
            return Ok(Look::Again);
        }
        let fate = match rights.may_push(site, first).await {
            Ok(()) => match self.start_queued(site, first).await? {
                Some(fate) => fate,
                // It was started, or something has changed meanwhile.
                None => return Ok(Look::Again),
            },
            Err(NoRight::Lost(why)) => Fate::Dropped { why },
            Err(NoRight::Unknown(error)) => return Ok(Look::Later(error)),
        };
        self.change(site, |queue| queue.take(first.ticket, fate.clone()))
            .await?;
        Ok(Look::Again)
    }

    /// Starts a push whose turn has come; a fate: it was not started.
    async fn start_queued(
        &self,
        site: &SiteName,
        queued: &Queued,
    ) -> Result<Option<Fate>, StoreError> {
        let order = Order {
            site: site.clone(),
            by: queued.by.clone(),
            confirm_within_ms: queued.confirm_within_ms,
            wait_offline: Duration::ZERO,
            dry_run: false,
            rehearse: false,
            sources: Vec::new(),
            basis: queued.planned.as_ref().map(PlanBasis::of_content),
            want: Want::Documents,
            ticket: queued.ticket,
        };
        let started = match self.prepare(order).await {
            Ok(prepared) => self.start(&prepared).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(Some(Begun::Nothing)) => Ok(Some(Fate::Nothing)),
            Ok(Some(Begun::Rollout(_)) | None) | Err(PushError::Busy { .. }) => Ok(None),
            Err(PushError::Store(error)) if error.is_transient() => Err(error),
            Err(error) => Ok(Some(Fate::Dropped { why: chain(&error) })),
        }
    }

    /// Writes what became of pushes into the audit log. One that was written just before a crash
    /// is written again.
    async fn note(
        &self,
        site: &SiteName,
        queue: &QueueRecord,
        audit: &Audit,
    ) -> Result<(), StoreError> {
        let mut noted = BTreeSet::new();
        for ended in queue.ended.iter().filter(|ended| !ended.noted) {
            let (ticket, by) = (ended.ticket, &ended.by);
            if let Fate::Dropped { why } = &ended.fate {
                tracing::warn!(%site, ticket, by, why, "queued push dropped");
            }
            audit.note(event(site, ended)).await;
            noted.insert(ticket);
        }
        self.change(site, |queue| {
            let mut any = false;
            for ended in &mut queue.ended {
                if noted.contains(&ended.ticket) {
                    any |= !std::mem::replace(&mut ended.noted, true);
                }
            }
            any
        })
        .await
    }

    /// Changes a queue, as long as `change` says that there is anything to change.
    async fn change(
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

fn event(site: &SiteName, ended: &Ended) -> Event {
    let number = |number: Generation| (number != 0).then_some(number);
    let event = match &ended.fate {
        Fate::Started { before, generation } => {
            Event::new("QueuedPushStarted").generations(number(*before), number(*generation))
        }
        Fate::Nothing => Event::new("QueuedPushNeedless"),
        Fate::Dropped { why } => Event::new("QueuedPushDropped").failed(why.as_str()),
    };
    let (ticket, by) = (ended.ticket, &ended.by);
    event
        .site(site)
        .detail(format!("queued as {ticket} by {by}"))
}
