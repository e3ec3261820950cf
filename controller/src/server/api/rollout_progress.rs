//! Watching a rollout, which continues whether or not an operator watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::Status;
use voipfleet_proto::v1::{
    Diagnostic, PushDone, PushEvent, PushNode, PushNodeState, PushStarted, Severity, push_event,
};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use super::{PushApi, failed};
use crate::fleet::{Fleet, View, of_site};
use crate::push::{Proposed, PushError};
use crate::records::{
    self, ForwardResult, GenerationRecord, NodeId, NodeProgress, Phase, RolloutRecord, RolloutState,
};
use crate::rollout::{Delivery, Rollouts, judge};
use crate::store::{Store, every, keys};

/// An operator's view of a rollout.
#[derive(Debug)]
pub(super) struct RolloutProgress {
    store: Arc<dyn Store>,
    rollouts: Rollouts,
    fleet: Fleet,
    site: SiteName,
    record: RolloutRecord,
    generation: Arc<GenerationRecord>,
    /// The generation that it goes back to, once it does.
    back: Option<Arc<GenerationRecord>>,
    roles: BTreeMap<NodeName, Vec<String>>,
    sent: BTreeMap<NodeName, Sent>,
    /// The reason to wait that was sent last; empty: none.
    sent_reason: String,
    warnings: Vec<String>,
    changed: bool,
    wait_offline: Duration,
    now_ms: u64,
    started: Instant,
}

/// What was sent of a node last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    state: PushNodeState,
    error: String,
    /// When the turn began that it was about.
    began_ms: Option<u64>,
}

type Out = mpsc::Sender<Result<PushEvent, Status>>;

impl PushApi {
    /// Watches a site's running or last rollout.
    pub(super) async fn progress(
        &self,
        site: &SiteName,
    ) -> Result<Option<RolloutProgress>, PushError> {
        let rollouts = &self.pushes.rollouts;
        let Some(read) = rollouts.read(site).await? else {
            return Ok(None);
        };
        let record = read.record;
        let key = keys::generation(site, record.generation);
        let Some(generation) = records::read(self.store.as_ref(), &key).await? else {
            return Ok(None);
        };
        let mut roles = BTreeMap::new();
        for entry in every(self.store.as_ref(), &keys::nodes(site)).await? {
            let node: records::NodeRecord = records::from_json(&entry.key, &entry.held)?;
            let name = keys::site_and_node(&entry.key).and_then(|(_, node)| node.parse().ok());
            if let Some(name) = name {
                roles.insert(name, node.roles.iter().map(ToString::to_string).collect());
            }
        }
        Ok(Some(RolloutProgress {
            store: Arc::clone(&self.store),
            rollouts: rollouts.clone(),
            fleet: self.fleet.clone(),
            site: site.clone(),
            record,
            generation: Arc::new(generation.record),
            back: None,
            roles,
            sent: BTreeMap::new(),
            sent_reason: String::new(),
            warnings: Vec::new(),
            changed: true,
            wait_offline: Duration::ZERO,
            now_ms: self.clock.now_ms(),
            started: Instant::now(),
        }))
    }
}

impl RolloutProgress {
    pub(super) fn number(&self) -> u64 {
        self.record.number
    }

    /// Adds what the operator who pushed should know: whether the content is new, the compiler's
    /// warnings, and how long to wait for nodes that are offline.
    #[must_use]
    pub(super) fn of_push(mut self, proposed: &Proposed) -> Self {
        self.changed = proposed.proposal.changed;
        self.warnings.clone_from(&proposed.proposal.warnings);
        self.wait_offline = proposed.request.wait_offline;
        self
    }

    /// Its ticket in the queue; none: it did not wait.
    pub(super) fn ticket(&self) -> Option<u64> {
        self.record.ticket
    }

    /// Adds what the operator who queued it should know, as in [`RolloutProgress::of_push`].
    #[must_use]
    pub(super) fn of_queued(mut self, changed: bool, wait_offline: Duration) -> Self {
        self.changed = changed;
        self.wait_offline = wait_offline;
        self
    }

    /// Sends every event, until the rollout has ended or the operator has hung up.
    ///
    /// `events` must have been taken before the rollout was started.
    pub(super) async fn run(mut self, mut events: broadcast::Receiver<NodeId>, out: Out) {
        let stop = self.fleet.stop_token();
        let mut changes = self.store.watch_from_now(&keys::rollout(&self.site)).await;
        if self.send_start(&out).await.is_err() {
            return;
        }
        let mut until: Option<Instant> = None;
        loop {
            if let Err(end) = self.renew().await {
                // The operator may have hung up.
                let _ = out.send(Err(end)).await;
                return;
            }
            if self.send_news(&out).await.is_err() {
                return;
            }
            if self.record.state.has_ended() {
                // Nodes that were offline get it when they reconnect: the operator may wait for that.
                let end = *until.get_or_insert_with(|| Instant::now() + self.wait_offline);
                if !self.awaited() || Instant::now() >= end {
                    // The operator may have hung up.
                    let _ = self.send_end(&out).await;
                    return;
                }
            }
            let end = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let site = &self.site;
            tokio::select! {
                _ = changes.next() => {}
                () = of_site(&mut events, site) => {}
                () = end => {}
                () = out.closed() => return,
                () = stop.cancelled() => {
                    let message = "controller is stopping; the rollout continues when it is back";
                    let end = Refusal::new(Reason::Stopping, message)
                        .hint(format!("watch it then: voipctl rollout watch {site}"))
                        .into();
                    // The operator may have hung up.
                    let _ = out.send(Err(end)).await;
                    return;
                }
            }
        }
    }

    /// Reads the rollout again.
    async fn renew(&mut self) -> Result<(), Status> {
        let read = self.rollouts.read(&self.site).await;
        let read = read.map_err(failed)?;
        match read {
            Some(read) if read.record.number == self.record.number => self.record = read.record,
            // The operator still waits for nodes of a rollout that is over: nothing else changes.
            _ if self.record.state.has_ended() => {}
            _ => {
                let site = &self.site;
                let message = format!("another rollout of site {site} has begun");
                return Err(Refusal::new(Reason::RolloutReplaced, message)
                    .hint(format!("watch it: voipctl rollout watch {site}"))
                    .fact("site", site)
                    .into());
            }
        }
        if self.record.state == RolloutState::Done {
            self.deleted().await;
        }
        if let (None, Some(back)) = (&self.back, self.record.back) {
            let key = keys::generation(&self.site, back);
            let read = records::read(self.store.as_ref(), &key).await;
            let read = read.map_err(failed)?;
            self.back = read.map(|read| Arc::new(read.record));
        }
        Ok(())
    }

    /// A node that was deleted after the rollout was over is not waited for.
    async fn deleted(&mut self) {
        for (name, step) in &mut self.record.nodes {
            let id = NodeId {
                site: self.site.clone(),
                node: name.clone(),
            };
            if matches!(step.phase, Phase::Offline { .. })
                && self.fleet.view(&id).is_none()
                && self.fleet.is_deleted(&id).await
            {
                step.phase = Phase::Deleted;
                "it was deleted during the push".clone_into(&mut step.error);
            }
        }
    }

    fn view(&self, node: &NodeName) -> Option<View> {
        self.fleet.view(&NodeId {
            site: self.site.clone(),
            node: node.clone(),
        })
    }

    /// A node that gets the generation when it is back is waited for.
    fn awaited(&self) -> bool {
        self.record.state == RolloutState::Done
            && !self.wait_offline.is_zero()
            && self.record.nodes.iter().any(|(name, step)| {
                let (state, _) = self.state(name, step);
                matches!(
                    state,
                    PushNodeState::Offline
                        | PushNodeState::Sent
                        | PushNodeState::Applying
                        | PushNodeState::Trial
                )
            })
    }

    /// A node's state, in the words of a push.
    fn state(&self, name: &NodeName, step: &NodeProgress) -> (PushNodeState, String) {
        let going_back = self.record.goes_back();
        if let Some(forward) = step.forward.as_ref().filter(|_| going_back) {
            return self.state_going_back(name, step, forward);
        }
        let goal = &self.generation;
        let delivered = || match (self.view(name), goal.held(name)) {
            (Some(view), Some(held)) => {
                let (delivery, error) = judge(held, step.refused_before, &view);
                (push_state(delivery), error)
            }
            _ => (PushNodeState::Sent, String::new()),
        };
        let state = match step.phase {
            Phase::Waiting => PushNodeState::Waiting,
            // The rollout is over, and it is back: it takes it like after any push.
            Phase::Offline { .. } if self.record.state == RolloutState::Done => {
                return match self.view(name) {
                    Some(_) => delivered(),
                    None => (PushNodeState::Offline, String::new()),
                };
            }
            Phase::Offline { .. } => PushNodeState::Offline,
            Phase::Working { .. } => match delivered().0 {
                between @ (PushNodeState::Applying | PushNodeState::Trial) => between,
                _ => PushNodeState::Sent,
            },
            Phase::Applied if step.unchanged => PushNodeState::Unchanged,
            Phase::Applied => PushNodeState::Applied,
            Phase::RolledBack | Phase::Withdrawn => PushNodeState::RolledBack,
            Phase::Rejected => PushNodeState::Rejected,
            Phase::Failed | Phase::Deleted => PushNodeState::Failed,
            Phase::TimedOut => PushNodeState::TimedOut,
        };
        (state, step.error.clone())
    }

    /// A node's state while the rollout goes back: one that failed stays as it ended on the way
    /// forward, and of one that was never given other rules nothing has changed.
    fn state_going_back(
        &self,
        name: &NodeName,
        step: &NodeProgress,
        forward: &ForwardResult,
    ) -> (PushNodeState, String) {
        if step.phase == Phase::Deleted {
            return (PushNodeState::Failed, step.error.clone());
        }
        if let Some(state) = failure(step.phase) {
            return (state, format!("did not go back: {}", step.error));
        }
        if let Some(state) = failure(forward.phase) {
            return (state, forward.error.clone());
        }
        if forward.is_untouched() || step.unchanged {
            return (PushNodeState::Untouched, String::new());
        }
        let state = match step.phase {
            Phase::Offline { .. } => PushNodeState::Offline,
            Phase::Working { .. } => {
                let held = self.back.as_ref().and_then(|back| back.held(name));
                let judged = |held| self.view(name).map(|view| judge(held, None, &view).0);
                match held.and_then(judged).map(push_state) {
                    Some(between @ (PushNodeState::Applying | PushNodeState::Trial)) => between,
                    _ => PushNodeState::Sent,
                }
            }
            _ => PushNodeState::RolledBack,
        };
        (state, String::new())
    }

    fn event(&self, name: &NodeName, step: &NodeProgress, sent: &Sent) -> PushNode {
        let failed_forward = step
            .forward
            .as_ref()
            .filter(|forward| self.record.goes_back() && failure(forward.phase).is_some());
        let batch = self.record.order.iter().position(|b| b.contains(name));
        PushNode {
            node: name.to_string(),
            roles: self.roles.get(name).cloned().unwrap_or_default(),
            state: sent.state.into(),
            error: sent.error.clone(),
            elapsed_ms: match failed_forward {
                Some(forward) if failure(step.phase).is_none() => forward.took_ms,
                _ => step.took_ms(self.now_ms()),
            },
            flows_cut: step.flows_cut,
            taken_back: sent.state == PushNodeState::RolledBack
                && self.record.goes_back()
                && failed_forward.is_none()
                && failure(step.phase).is_none(),
            batch: batch.map_or(0, |at| u32::try_from(at + 1).unwrap_or(u32::MAX)),
        }
    }

    fn newest(&self, name: &NodeName, step: &NodeProgress) -> Sent {
        let (state, error) = self.state(name, step);
        let mut newest = Sent {
            state,
            error,
            began_ms: step.began_ms,
        };
        let applying = self.sent.get(name).is_some_and(|last| {
            last.state == PushNodeState::Applying && last.began_ms == newest.began_ms
        });
        if applying && newest.state == PushNodeState::Sent && self.view(name).is_none() {
            // It dials anew for its trial: its last word over the old connection may be lost.
            newest.state = PushNodeState::Trial;
        }
        newest
    }

    /// Unix time, by the clock at the begin of the watch.
    fn now_ms(&self) -> u64 {
        let here = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now_ms.saturating_add(here)
    }

    /// Since the rollout began, which may be before this watch.
    fn elapsed_ms(&self) -> u64 {
        if let Some(ended) = self.record.ended_ms
            && self.wait_offline.is_zero()
        {
            return ended.saturating_sub(self.record.started_ms);
        }
        self.now_ms().saturating_sub(self.record.started_ms)
    }

    async fn send_start(&mut self, out: &Out) -> Result<(), ()> {
        let record = &self.record;
        let mut nodes: Vec<PushNode> = Vec::new();
        for (name, step) in &record.nodes {
            let sent = self.newest(name, step);
            nodes.push(self.event(name, step, &sent));
            self.sent.insert(name.clone(), sent);
        }
        let started = PushStarted {
            site: self.site.to_string(),
            generation: record.generation,
            changed: self.changed,
            nodes,
            by: record.by.clone(),
            started_ms: record.started_ms,
            batches: record
                .order
                .iter()
                .map(|batch| u32::try_from(batch.len()).unwrap_or(u32::MAX))
                .collect(),
            dry_run: false,
        };
        send(out, push_event::Kind::Started(started)).await?;
        for message in &self.warnings {
            send(out, warning(message.clone())).await?;
        }
        Ok(())
    }

    async fn send_news(&mut self, out: &Out) -> Result<(), ()> {
        let mut news = Vec::new();
        for (name, step) in &self.record.nodes {
            let now = self.newest(name, step);
            let last = self.sent.get(name);
            if !last.is_some_and(|last| last.covers(&now)) {
                news.push((name.clone(), self.event(name, step, &now), now));
            }
        }
        for (name, event, now) in news {
            self.sent.insert(name, now);
            send(out, push_event::Kind::Node(event)).await?;
        }
        // A running rollout only sends what it waits for.
        let goes_on = self.record.state == RolloutState::Running;
        if goes_on && self.record.reason != self.sent_reason {
            self.sent_reason.clone_from(&self.record.reason);
            if !self.sent_reason.is_empty() {
                let message = format!("the rollout of site {} {}", self.site, self.sent_reason);
                send(out, warning(message)).await?;
            }
        }
        Ok(())
    }

    async fn send_end(&self, out: &Out) -> Result<(), ()> {
        let states: Vec<PushNodeState> = self
            .record
            .nodes
            .iter()
            .map(|(name, step)| self.state(name, step).0)
            .collect();
        let count = |of: &[PushNodeState]| {
            let number = states.iter().filter(|state| of.contains(state)).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let done = PushDone {
            site: self.site.to_string(),
            generation: self.record.goal(),
            changed: self.changed,
            applied: count(&[PushNodeState::Applied, PushNodeState::Unchanged]),
            failed: count(&[
                PushNodeState::Failed,
                PushNodeState::Rejected,
                PushNodeState::TimedOut,
            ]),
            rolled_back: count(&[PushNodeState::RolledBack]),
            offline: count(&[
                PushNodeState::Offline,
                PushNodeState::Sent,
                PushNodeState::Applying,
                PushNodeState::Trial,
            ]),
            elapsed_ms: self.elapsed_ms(),
            flows_cut: self.record.nodes.values().map(|step| step.flows_cut).sum(),
            waiting: count(&[PushNodeState::Waiting, PushNodeState::Untouched]),
            state: self.record.state.as_str().to_owned(),
            why: self.record.reason.clone(),
            dry_run: false,
        };
        send(out, push_event::Kind::Done(done)).await
    }
}

impl Sent {
    /// Whether `next` is no news after it: the same, or less far in the same turn. A session that
    /// the node opens for its trial begins without an answer, and progress does not go backwards.
    fn covers(&self, next: &Self) -> bool {
        if (self.state, &self.error) == (next.state, &next.error) {
            return true;
        }
        let rank = |state| match state {
            PushNodeState::Sent => Some(0),
            PushNodeState::Applying => Some(1),
            PushNodeState::Trial => Some(2),
            _ => None,
        };
        self.began_ms == next.began_ms
            && rank(self.state)
                .zip(rank(next.state))
                .is_some_and(|(last, next)| last > next)
    }
}

/// The state of a node that had its turn and failed; none: it did not fail.
fn failure(phase: Phase) -> Option<PushNodeState> {
    match phase {
        Phase::RolledBack => Some(PushNodeState::RolledBack),
        Phase::Rejected => Some(PushNodeState::Rejected),
        Phase::Failed => Some(PushNodeState::Failed),
        Phase::TimedOut => Some(PushNodeState::TimedOut),
        _ => None,
    }
}

/// How far a node is, for the operator.
pub(super) fn push_state(delivery: Delivery) -> PushNodeState {
    match delivery {
        Delivery::Sent => PushNodeState::Sent,
        Delivery::Applying => PushNodeState::Applying,
        Delivery::Trial => PushNodeState::Trial,
        Delivery::Applied => PushNodeState::Applied,
        Delivery::RolledBack => PushNodeState::RolledBack,
        Delivery::Rejected => PushNodeState::Rejected,
        Delivery::Failed => PushNodeState::Failed,
    }
}

/// A warning of the compiler.
pub(super) fn warning(message: String) -> push_event::Kind {
    push_event::Kind::Diagnostic(Diagnostic {
        severity: Severity::Warning.into(),
        message,
        ..Diagnostic::default()
    })
}

pub(super) async fn send(out: &Out, kind: push_event::Kind) -> Result<(), ()> {
    let event = PushEvent { kind: Some(kind) };
    out.send(Ok(event)).await.map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_a_turn_does_not_go_backwards() {
        use PushNodeState::{Applied, Applying, Offline, RolledBack, Trial};
        let sent = |state, began_ms| Sent {
            state,
            error: String::new(),
            began_ms,
        };
        // The session that a node opens for its trial begins without an answer.
        for (last, next) in [
            (Applying, PushNodeState::Sent),
            (Trial, PushNodeState::Sent),
            (Trial, Applying),
            (Trial, Trial),
        ] {
            assert!(sent(last, Some(1)).covers(&sent(next, Some(1))), "{next:?}");
        }
        for (last, next) in [
            (Offline, PushNodeState::Sent),
            (PushNodeState::Sent, Applying),
            (Trial, Applied),
            (Trial, RolledBack),
        ] {
            assert!(
                !sent(last, Some(1)).covers(&sent(next, Some(1))),
                "{next:?}"
            );
        }
        // Another turn begins anew, such as that of the way back.
        assert!(!sent(Trial, Some(1)).covers(&sent(PushNodeState::Sent, Some(2))));
    }
}
