//! Pushes that wait for the rollout of their site to end. Each is started at its turn, from the
//! documents of that moment, in the transaction that takes it off the queue.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_stream::StreamExt as _;
use voipfleet_common::names::SiteName;
use voipfleet_common::session::Generation;

use super::basis::PlanBasis;
use super::{Begun, Order, Prepared, PushError, Pushes, Want};
use crate::audit::{Audit, Event};
use crate::errors::chain;
use crate::records::{
    self, Ended, Fate, MAX_WAITING, QueueRecord, Queued, Read, RolloutRecord, RolloutState, expected,
};
use crate::store::{Expect, Outcome, StoreError, Txn, keys};

/// Tries to win against a rollout that moves on.
const TRIES: usize = 20;
/// After an error that may pass.
const RETRY: Duration = Duration::from_secs(2);
/// The most sites of an installation.
const MAX_SITES: usize = 50_000;

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

    /// Starts what waits, each at its turn, until the fleet stops; also what an earlier run of
    /// the controller has left. What becomes of it is written into `audit`.
    pub async fn take_turns(&self, rights: Arc<dyn Rights>, audit: Audit) {
        let stop = self.fleet.stop_token();
        // Before the first read: no queue falls between.
        let mut changes = self.store.watch(keys::ALL_QUEUES);
        let mut known = BTreeSet::new();
        let mut all = true;
        loop {
            let mut found = Vec::new();
            if std::mem::take(&mut all) {
                match self.store.all(keys::ALL_QUEUES, MAX_SITES).await {
                    Ok(entries) => found.extend(entries.into_iter().map(|entry| entry.key)),
                    Err(error) => tracing::error!(error = %chain(&error), "queues not read"),
                }
            } else {
                let change = tokio::select! {
                    change = changes.next() => change,
                    () = stop.cancelled() => return,
                };
                match change {
                    None => return,
                    Some(Ok(change)) => found.push(change.key),
                    Some(Err(_)) => all = true,
                }
            }
            for key in found {
                let site = key.strip_prefix(keys::ALL_QUEUES);
                let site: Option<SiteName> = site.and_then(|site| site.parse().ok());
                if let Some(site) = site
                    && known.insert(site.clone())
                {
                    let (pushes, rights) = (self.clone(), Arc::clone(&rights));
                    let audit = audit.clone();
                    tokio::spawn(async move { pushes.look_after(site, rights, audit).await });
                }
            }
        }
    }

    /// Looks after one site's queue.
    async fn look_after(&self, site: SiteName, rights: Arc<dyn Rights>, audit: Audit) {
        let stop = self.fleet.stop_token();
        let mut queue = self.store.watch(&keys::queue(&site));
        let mut rollout = self.store.watch(&keys::rollout(&site));
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
            let asleep = async {
                match sleep {
                    Some(sleep) => tokio::time::sleep(sleep).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = asleep => {}
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
            Err(PushError::Store(error)) if may_pass(&error) => Err(error),
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
        mut change: impl FnMut(&mut QueueRecord) -> bool,
    ) -> Result<(), StoreError> {
        let key = keys::queue(site);
        for _ in 0..TRIES {
            let Some(read) = self.queue(site).await? else {
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

/// Whether the same push may go better later.
fn may_pass(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Engine(_)
            | StoreError::Outrun
            | StoreError::Changing { .. }
            | StoreError::Closed
    )
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
