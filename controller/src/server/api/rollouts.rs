//! Rollouts: start, watch, pause, resume and abort.

use crate::server::rpc_status::internal;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tonic::Status;
use voipfleet_proto::v1::{
    AbortRolloutRequest, PushEvent, QueuedPush, RolloutBatch, RolloutNode, RolloutReport,
    RolloutStatusRequest, RolloutStatusResponse,
};
use voipfleet_ruleset::identifiers::SiteName;

use super::fields::parse;
use super::refusals::{no_rollout, not_commanded, refused};
use super::{Caller, failed};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::push::{PushOutcome, PushRequest, Pushes, StartedPush};
use crate::records::{self, NodeId, NodeProgress, Phase, QueueRecord, RolloutRecord};
use crate::store::{Store, every, keys};

/// Events of a push that voipctl has not read yet; more of them wait.
pub(super) const EVENTS: usize = 64;

/// The events of a push, for an operator.
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
        request: PushRequest,
        queue: bool,
    ) -> Result<Events, Status> {
        // Before the generation is made: no answer of a node may fall between.
        let events = self.fleet.events();
        let pushes = self.pushes.clone();
        // On a task of its own: a push that has begun is finished, also when the caller hangs up.
        let key_hash = caller.key_hash.clone();
        let wait_offline = request.wait_offline;
        let pushing = tokio::spawn(async move {
            if queue {
                return pushes.push_or_queue(request, &key_hash).await;
            }
            let (proposed, started) = pushes.pipeline.push(request).await?;
            Ok(PushOutcome::Started(Box::new(proposed), started))
        });
        let outcome = pushing
            .await
            .map_err(|_| internal("the push broke off"))?
            .map_err(refused)?;
        let (proposed, started) = match outcome {
            PushOutcome::Started(proposed, started) => (*proposed, started),
            PushOutcome::Queued(ticket) => {
                caller.detail(format!("queued as {}", ticket.number));
                return Ok(self.wait_with(ticket, wait_offline));
            }
        };
        let proposal = &proposed.proposal;
        if !proposed.request.dry_run {
            let before = proposal.current.as_ref();
            let before = before.map_or(0, |current| current.generation.number);
            caller.generations(Some(before), Some(proposal.generation.number));
        }
        let (out, answers) = mpsc::channel(EVENTS);
        let progress = match started {
            StartedPush::Unchanged => None,
            StartedPush::Rollout(number) => self
                .progress(&proposal.site)
                .await
                .map_err(refused)?
                .filter(|progress| progress.number() == number),
        };
        match progress {
            Some(progress) => {
                tokio::spawn(progress.of_push(&proposed).run(events, out));
            }
            None => {
                tokio::spawn(self.unchanged(proposed).send(out));
            }
        }
        Ok(answers)
    }

    /// Watches a site's running or last rollout.
    pub(super) async fn watch_rollout(&self, site: &str) -> Result<Events, Status> {
        let site: SiteName = parse(site)?;
        let events: broadcast::Receiver<NodeId> = self.fleet.events();
        let progress = self.progress(&site).await.map_err(refused)?;
        let progress = progress.ok_or_else(|| no_rollout(&site))?;
        let (out, answers) = mpsc::channel(EVENTS);
        tokio::spawn(progress.run(events, out));
        Ok(answers)
    }

    pub(super) async fn rollout_status(
        &self,
        caller: &Caller,
        request: &RolloutStatusRequest,
    ) -> Result<RolloutStatusResponse, Status> {
        let mut answer = RolloutStatusResponse::default();
        if request.site.is_empty() {
            let stored = every(self.store.as_ref(), keys::ALL_QUEUES).await;
            let mut queued = BTreeMap::new();
            for entry in stored.map_err(failed)? {
                let site = entry.key.strip_prefix(keys::ALL_QUEUES);
                let site = site.unwrap_or_default().to_owned();
                let queue: QueueRecord = records::load(self.store.as_ref(), &entry)
                    .await
                    .map_err(failed)?;
                queued.insert(site, waiting(&queue));
            }
            let entries = every(self.store.as_ref(), keys::ALL_ROLLOUTS).await;
            for entry in entries.map_err(failed)? {
                let site = entry.key.strip_prefix(keys::ALL_ROLLOUTS);
                let site = site.unwrap_or_default().to_owned();
                if caller.sight.whole_site(&parse::<SiteName>(&site)?) {
                    let record = records::load(self.store.as_ref(), &entry).await;
                    answer.rollouts.push(RolloutReport {
                        waiting: queued.remove(&site).unwrap_or_default(),
                        ..report(&site, &record.map_err(failed)?)
                    });
                }
            }
        } else {
            let site: SiteName = parse(&request.site)?;
            let read = self.pushes.rollouts.read(&site).await.map_err(failed)?;
            let read = read.ok_or_else(|| no_rollout(&site))?;
            let queue = self.pushes.queue.read(&site).await.map_err(failed)?;
            answer.rollouts.push(RolloutReport {
                waiting: queue.map(|read| waiting(&read.record)).unwrap_or_default(),
                ..report(site.as_str(), &read.record)
            });
        }
        Ok(answer)
    }

    pub(super) async fn pause_rollout(
        &self,
        caller: &Caller,
        site: &str,
    ) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(site)?;
        let record = self.pushes.rollouts.pause(&site, caller.name.as_str());
        let record = record.await.map_err(not_commanded)?;
        Ok(report(site.as_str(), &record))
    }

    pub(super) async fn resume_rollout(&self, site: &str) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(site)?;
        let record = self.pushes.rollouts.resume(&site).await;
        Ok(report(site.as_str(), &record.map_err(not_commanded)?))
    }

    pub(super) async fn abort_rollout(
        &self,
        caller: &Caller,
        request: &AbortRolloutRequest,
    ) -> Result<RolloutReport, Status> {
        let site: SiteName = parse(&request.site)?;
        let by = caller.name.as_str();
        let rollouts = &self.pushes.rollouts;
        let record = rollouts.abort(&site, by, request.roll_back).await;
        let record = record.map_err(not_commanded)?;
        caller.generations(Some(record.generation), Some(record.goal()));
        Ok(report(site.as_str(), &record))
    }
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
                target: record.target(step).unwrap_or_default(),
            })
            .collect(),
    });
    RolloutReport {
        site: site.to_owned(),
        number: record.number,
        generation: record.generation,
        back: record.back.unwrap_or_default(),
        state: record.state.as_str().to_owned(),
        why: record.reason.clone(),
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

/// Waiting pushes, for a report.
fn waiting(queue: &QueueRecord) -> Vec<QueuedPush> {
    let waiting = queue.waiting.iter().map(|queued| QueuedPush {
        ticket: queued.ticket,
        by: queued.by.clone(),
        at_ms: queued.at_ms,
        planned: queued.planned.is_some(),
    });
    waiting.collect()
}

fn word(step: &NodeProgress) -> &'static str {
    match step.phase {
        Phase::Waiting => "waiting",
        Phase::Offline { .. } => "offline",
        Phase::Working { .. } => "working",
        Phase::Applied if step.unchanged => "unchanged",
        Phase::Applied => "applied",
        Phase::RolledBack => "rolled_back",
        Phase::Rejected => "rejected",
        Phase::Failed => "failed",
        Phase::TimedOut => "timed_out",
        Phase::Withdrawn => "withdrawn",
        Phase::Deleted => "deleted",
    }
}
