//! A queued push, for the operator who waits with it.

use std::time::Duration;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, async_trait};
use voipfleet_proto::v1::{PushEvent, PushQueued, push_event};
use voipfleet_protocol::identity::rights::{Call, Target};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use super::authorize::Access;
use super::refusals::refused;
use super::rollouts::{EVENTS, Events};
use super::{PushApi, failed};
use crate::push::{NoRight, Rights, Ticket};
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
    /// Sends the place of a queued push, and at its turn every event of the push.
    pub(super) fn wait_with(&self, queued: Ticket, wait_offline: Duration) -> Events {
        let (out, answers) = mpsc::channel(EVENTS);
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(end) = api.wait(&queued, wait_offline, &out).await {
                // The operator may have hung up.
                let _ = out.send(Err(end)).await;
            }
        });
        answers
    }

    async fn wait(&self, queued: &Ticket, wait_offline: Duration, out: &Out) -> Result<(), Status> {
        let Ticket { site, number } = queued;
        let stop = self.fleet.stop_token();
        // Before the first read: no change falls between.
        let mut changes = self.store.watch_from_now(&keys::queue(site)).await;
        let mut sent = None;
        loop {
            let read = self.pushes.queue.read(site).await.map_err(failed)?;
            let queue = read.map(|read| read.record).unwrap_or_default();
            let Some(ahead) = queue.ahead(*number) else {
                return self.after(queued, &queue, wait_offline, out).await;
            };
            if sent.replace(ahead) != Some(ahead) {
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

    /// Its place in the queue, and what it waits for.
    async fn place(&self, queued: &Ticket, ahead: usize) -> Result<PushEvent, Status> {
        let rollouts = &self.pushes.rollouts;
        let last = rollouts.read(&queued.site).await.map_err(failed)?;
        let (generation, by) = last
            .map(|last| (last.record.generation, last.record.by))
            .unwrap_or_default();
        let place = PushQueued {
            site: queued.site.to_string(),
            ticket: queued.number,
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
            generation,
            by,
        };
        Ok(PushEvent {
            kind: Some(push_event::Kind::Queued(place)),
        })
    }

    /// What follows when it no longer waits.
    async fn after(
        &self,
        queued: &Ticket,
        queue: &QueueRecord,
        wait_offline: Duration,
        out: &Out,
    ) -> Result<(), Status> {
        let Ticket { site, number } = queued;
        let changed = match queue.fate(*number) {
            Some(Fate::Started { .. }) => true,
            Some(Fate::Unchanged) => false,
            Some(Fate::Dropped { reason }) => {
                let message = format!(
                    "{site}: the push queued as {number} was dropped, and nothing of it was pushed: \
                     {reason}"
                );
                return Err(gone(site, *number, message).into());
            }
            None => {
                let message = format!("{site}: the push queued as {number} no longer waits");
                return Err(gone(site, *number, message)
                    .hint("see what became of it: voipctl audit")
                    .into());
            }
        };
        let events = self.fleet.events();
        let progress = self.progress(site).await.map_err(refused)?;
        // A push that changed nothing shows the rollout before it.
        let own = progress.filter(|progress| !changed || progress.ticket() == Some(*number));
        let Some(progress) = own else {
            let message = format!(
                "{site}: the rollout of the push queued as {number} is over, and another has begun"
            );
            return Err(Refusal::new(Reason::RolloutReplaced, message)
                .hint(format!("see how it ended: voipctl history {site}"))
                .fact("site", site)
                .into());
        };
        let progress = progress.of_queued(changed, wait_offline);
        progress.run(events, out.clone()).await;
        Ok(())
    }
}

fn gone(site: &SiteName, number: u64, message: String) -> Refusal {
    Refusal::new(Reason::QueueEntryGone, message)
        .fact("site", site)
        .fact("ticket", number)
}

fn stopping(site: &SiteName) -> Status {
    let message = "controller is stopping; the push stays queued, and starts at its turn when the \
                   controller is back";
    Refusal::new(Reason::Stopping, message)
        .hint(format!("check it then: voipctl rollout status {site}"))
        .fact("site", site)
        .into()
}
