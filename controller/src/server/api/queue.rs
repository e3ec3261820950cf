//! A push that waits for its turn, for whoever waits with it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, async_trait};
use voipfleet_proto::v1::{PushEvent, PushQueued, QueuedPush, push_event};
use voipfleet_protocol::identity::rights::{Call, Target};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use super::authorize::Access;
use super::convert::refused;
use super::rollouts::{EVENTS, Events};
use super::{PushApi, failed};
use crate::push::{Enqueued, NoRight, Rights};
use crate::records::{Fate, QueueRecord, Queued};
use crate::store::keys;

type Out = mpsc::Sender<Result<PushEvent, Status>>;

#[async_trait]
impl Rights for Access {
    async fn may_push(&self, site: &SiteName, queued: &Queued) -> Result<(), NoRight> {
        let name: OperatorName = match queued.by.parse() {
            Ok(name) => name,
            Err(error) => return Err(NoRight::Lost(format!("{error}"))),
        };
        let target = Target::site(site.clone());
        let allowed = self.may(&name, &queued.key_hash, Call::Push, &target).await;
        allowed.map_err(|status| {
            let why = status.message().to_owned();
            match status.code() {
                Code::PermissionDenied => NoRight::Lost(why),
                _ => NoRight::Unknown(why),
            }
        })
    }
}

impl PushApi {
    /// Tells how a queued push gets on, and at its turn everything that a push tells.
    pub(super) fn wait_with(&self, queued: Enqueued, wait_offline: Duration) -> Events {
        let (out, answers) = mpsc::channel(EVENTS);
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(end) = api.wait(&queued, wait_offline, &out).await {
                // The listener may have gone.
                let _ = out.send(Err(end)).await;
            }
        });
        answers
    }

    async fn wait(
        &self,
        queued: &Enqueued,
        wait_offline: Duration,
        out: &Out,
    ) -> Result<(), Status> {
        let Enqueued { site, ticket } = queued;
        let stop = self.fleet.stop_token();
        // Before the first read: no change falls between.
        let mut changes = self.store.watch_from_now(&keys::queue(site)).await;
        let mut told = None;
        loop {
            let read = self.pushes.queue(site).await.map_err(failed)?;
            let queue = read.map(|read| read.record).unwrap_or_default();
            let Some(ahead) = queue.ahead(*ticket) else {
                return self.after(queued, &queue, wait_offline, out).await;
            };
            if told.replace(ahead) != Some(ahead) {
                let event = self.place(queued, ahead).await?;
                if out.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                change = changes.next() => if change.is_none() { return Err(stopping(site)) },
                () = out.closed() => return Ok(()),
                () = stop.cancelled() => return Err(stopping(site)),
            }
        }
    }

    /// Where it stands in the queue, and what it waits for.
    async fn place(&self, queued: &Enqueued, ahead: usize) -> Result<PushEvent, Status> {
        let rollouts = self.pushes.rollouts();
        let last = rollouts.read(&queued.site).await.map_err(failed)?;
        let (generation, by) = last
            .map(|last| (last.record.generation, last.record.by))
            .unwrap_or_default();
        let place = PushQueued {
            site: queued.site.to_string(),
            ticket: queued.ticket,
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
            generation,
            by,
        };
        Ok(PushEvent {
            kind: Some(push_event::Kind::Queued(place)),
        })
    }

    /// What follows when it waits no more.
    async fn after(
        &self,
        queued: &Enqueued,
        queue: &QueueRecord,
        wait_offline: Duration,
        out: &Out,
    ) -> Result<(), Status> {
        let Enqueued { site, ticket } = queued;
        let changed = match queue.fate(*ticket) {
            Some(Fate::Started { .. }) => true,
            Some(Fate::Nothing) => false,
            Some(Fate::Dropped { why }) => {
                return Err(Status::failed_precondition(format!(
                    "{site}: the push queued as {ticket} was dropped, and nothing of it was \
                     pushed: {why}"
                )));
            }
            None => {
                return Err(Status::failed_precondition(format!(
                    "{site}: the push queued as {ticket} waits no more; what became of it: \
                     voipctl audit"
                )));
            }
        };
        let events = self.fleet.events();
        let watch = self.watch(site).await.map_err(refused)?;
        // One that changed nothing is told by the rollout before it.
        let own = watch.filter(|watch| !changed || watch.ticket() == *ticket);
        let Some(watch) = own else {
            return Err(Status::aborted(format!(
                "{site}: the rollout of the push queued as {ticket} is over, and another has begun; \
                 see how it ended: voipctl history {site}"
            )));
        };
        let watch = watch.of_queued(changed, wait_offline);
        watch.run(events, out.clone()).await;
        Ok(())
    }
}

fn stopping(site: &SiteName) -> Status {
    Status::unavailable(format!(
        "controller is stopping; the push waits on, and goes at its turn when the controller is \
         started again: voipctl rollout status {site}"
    ))
}

/// What waits, for a report.
pub(super) fn waiting(queue: &QueueRecord) -> Vec<QueuedPush> {
    let waiting = queue.waiting.iter().map(|queued| QueuedPush {
        ticket: queued.ticket,
        by: queued.by.clone(),
        at_ms: queued.at_ms,
        planned: queued.planned.is_some(),
    });
    waiting.collect()
}
