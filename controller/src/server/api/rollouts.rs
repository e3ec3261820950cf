//! Rollouts: start, watch, and what operators may say to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tonic::Status;
use voipfleet_proto::v1::{
    AbortRolloutRequest, PushEvent, RolloutBatch, RolloutNode, RolloutReport, RolloutStatusRequest,
    RolloutStatusResponse,
};
use voipfleet_ruleset::identifiers::SiteName;

use super::convert::{not_commanded, parse, refused};
use super::{Caller, failed, queue};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::push::{Begun, Order, Pushed, Pushes};
use crate::records::{self, NodeId, NodeStep, Place, QueueRecord, RolloutRecord};
use crate::site_inputs::current;
use crate::store::{Store, every, keys};

/// Events of a push that voipctl has not read yet; more of them wait.
pub(super) const EVENTS: usize = 64;

/// What somebody hears of a push.
pub(super) type Events = mpsc::Receiver<Result<PushEvent, Status>>;

/// Pushes, rollbacks and their rollouts.
#[derive(Debug, Clone)]
pub(super) struct PushApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Fleet,
    pub(super) pushes: Pushes,
}

impl PushApi {
    /// Starts a push or rollback, and watches it. With `queue` a push waits for the rollout that is
    /// under way.
    pub(super) async fn push(
        &self,
        caller: &Caller,
        order: Order,
        queue: bool,
    ) -> Result<Events, Status> {
        let before = current(self.store.as_ref(), &order.site);
        let before = before
            .await
            .map_err(failed)?
            .map_or(0, |before| before.number);
        // Before the generation is made: no answer of a node may fall between.
        let events = self.fleet.events();
        let pushes = self.pushes.clone();
        // On a task of its own: what is begun is finished, also when the caller hangs up.
        let key_hash = caller.key_hash.clone();
        let wait_offline = order.wait_offline;
        let pushing = tokio::spawn(async move {
            if queue {
                return pushes.push_or_queue(order, &key_hash).await;
            }
            let (prepared, begun) = pushes.push(order).await?;
            Ok(Pushed::Begun(Box::new(prepared), begun))
        });
        let came = pushing
            .await
            .map_err(|_| Status::internal("the push broke off; the controller's log says why"))?
            .map_err(refused)?;
        let (prepared, begun) = match came {
            Pushed::Begun(prepared, begun) => (*prepared, begun),
            Pushed::Queued(queued) => {
                caller.detail(format!("queued as {}", queued.ticket));
                return Ok(self.wait_with(queued, wait_offline));
            }
        };
        if prepared.order.dry_run {
            caller.detail("dry run");
        } else {
            caller.generations(Some(before), Some(prepared.generation.number));
        }
        let (out, answers) = mpsc::channel(EVENTS);
        let watch = match begun {
            Begun::Nothing => None,
            Begun::Rollout(number) => self
                .watch(&prepared.order.site)
                .await
                .map_err(refused)?
                .filter(|watch| watch.number() == number),
        };
        match watch {
            Some(watch) => {
                tokio::spawn(watch.of_push(&prepared).run(events, out));
            }
            None => {
                tokio::spawn(self.unchanged(prepared).tell(out));
            }
        }
        Ok(answers)
    }

    /// Watches a rollout that somebody has started.
    pub(super) async fn watch_rollout(&self, site: &str) -> Result<Events, Status> {
        let site: SiteName = parse(site)?;
        let events: broadcast::Receiver<NodeId> = self.fleet.events();
        let watch = self.watch(&site).await.map_err(refused)?;
        let watch = watch.ok_or_else(|| none(&site))?;
        let (out, answers) = mpsc::channel(EVENTS);
        tokio::spawn(watch.run(events, out));
        Ok(answers)
    }

    /// How rollouts stand.
    pub(super) async fn rollout_status(
        &self,
        caller: &Caller,
        request: &RolloutStatusRequest,
    ) -> Result<RolloutStatusResponse, Status> {
        let mut answer = RolloutStatusResponse::default();
        if request.site.is_empty() {
            let queues = every(self.store.as_ref(), keys::ALL_QUEUES).await;
            let mut waiting = BTreeMap::new();
            for entry in queues.map_err(failed)? {
                let queue = records::load(self.store.as_ref(), &entry).await;
                let queue: QueueRecord = queue.map_err(failed)?;
                let site = entry.key.strip_prefix(keys::ALL_QUEUES);
                waiting.insert(site.unwrap_or_default().to_owned(), queue::waiting(&queue));
            }
            let entries = every(self.store.as_ref(), keys::ALL_ROLLOUTS).await;
            for entry in entries.map_err(failed)? {
                let record = records::load(self.store.as_ref(), &entry).await;
                let record = record.map_err(failed)?;
                let site = entry
                    .key
                    .strip_prefix(keys::ALL_ROLLOUTS)
                    .unwrap_or_default();
                let name = parse::<SiteName>(site)?;
                if caller.sight.whole_site(&name) {
                    answer.rollouts.push(RolloutReport {
                        waiting: waiting.remove(site).unwrap_or_default(),
                        ..report(site, &record)
                    });
                }
            }
        } else {
            let site: SiteName = parse(&request.site)?;
            let read = self.pushes.rollouts().read(&site).await.map_err(failed)?;
            let read = read.ok_or_else(|| none(&site))?;
            let queue = self.pushes.queue(&site).await.map_err(failed)?;
            answer.rollouts.push(RolloutReport {
                waiting: queue
                    .map(|read| queue::waiting(&read.record))
                    .unwrap_or_default(),
                ..report(site.as_str(), &read.record)
            });
        }
        Ok(answer)
    }

    /// Holds one.
    pub(super) async fn pause_rollout(
        &self,
        caller: &Caller,
        site: &str,
    ) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(site)?;
        let record = self.pushes.rollouts().pause(&site, caller.name.as_str());
        let record = record.await.map_err(not_commanded)?;
        Ok(report(site.as_str(), &record))
    }

    /// Lets one go on.
    pub(super) async fn resume_rollout(&self, site: &str) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(site)?;
        let record = self.pushes.rollouts().resume(&site).await;
        Ok(report(site.as_str(), &record.map_err(not_commanded)?))
    }

    /// Ends one.
    pub(super) async fn abort_rollout(
        &self,
        caller: &Caller,
        request: &AbortRolloutRequest,
    ) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(&request.site)?;
        let by = caller.name.as_str();
        let rollouts = self.pushes.rollouts();
        let record = rollouts.abort(&site, by, request.roll_back).await;
        let record = record.map_err(not_commanded)?;
        caller.generations(Some(record.generation), Some(record.goal()));
        Ok(report(site.as_str(), &record))
    }
}

fn none(site: &SiteName) -> Status {
    Status::not_found(format!(
        "site {site} has no rollout; start one: voipctl push {site}"
    ))
}

fn report(site: &str, record: &RolloutRecord) -> RolloutReport {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let batches = record.order.iter().map(|batch| RolloutBatch {
        nodes: batch
            .iter()
            .filter_map(|name| Some((name, record.nodes.get(name)?)))
            .map(|(name, step)| RolloutNode {
                node: name.to_string(),
                state: word(step).to_owned(),
                error: step.error.clone(),
                at_ms: step.at_ms,
                target: record.target(step),
            })
            .collect(),
    });
    RolloutReport {
        site: site.to_owned(),
        number: record.number,
        generation: record.generation,
        back: record.back.unwrap_or_default(),
        state: record.state.as_str().to_owned(),
        why: record.why.clone(),
        by: record.by.clone(),
        started_ms: record.started_ms,
        ended_ms: record.ended_ms.unwrap_or_default(),
        released: small(record.released),
        batches: batches.collect(),
        max_failures: small(record.stages.max_failures),
        failures: small(record.failed()),
        waiting: Vec::new(),
    }
}

fn word(step: &NodeStep) -> &'static str {
    match step.place {
        Place::Waiting => "waiting",
        Place::Away { .. } => "offline",
        Place::Working { .. } => "working",
        Place::Applied if step.had => "unchanged",
        Place::Applied => "applied",
        Place::RolledBack => "rolled_back",
        Place::Rejected => "rejected",
        Place::Failed => "failed",
        Place::TimedOut => "timed_out",
        Place::Withdrawn => "withdrawn",
        Place::Deleted => "deleted",
    }
}
