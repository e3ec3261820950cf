//! Watching the nodes take a generation, for the operator who pushed it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tonic::Status;
use voipfleet_common::names::NodeName;
use voipfleet_common::session::Held;
use voipfleet_proto::v1::{
    Diagnostic, PushDone, PushEvent, PushNode, PushNodeState, PushStarted, Severity, push_event,
};

use super::track::Track;
use super::{ANSWER, Prepared, Pushes};
use crate::fleet::Fleet;
use crate::records::NodeId;
use crate::rollout::is_refusal;

/// A push that goes on.
#[derive(Debug)]
pub struct Rollout {
    fleet: Fleet,
    prepared: Prepared,
    nodes: BTreeMap<NodeName, Track>,
    started: Instant,
    answer: Duration,
}

impl Pushes {
    /// Offers a prepared push to its nodes, and watches them.
    ///
    /// `events` must have been taken before the generation was made.
    pub fn roll_out(&self, prepared: Prepared) -> Rollout {
        let started = Instant::now();
        let mut rollout = Rollout {
            fleet: self.fleet.clone(),
            answer: ANSWER + Duration::from_millis(prepared.confirm_within_ms),
            nodes: BTreeMap::new(),
            started,
            prepared,
        };
        rollout.nodes = rollout.tracks();
        rollout
    }
}

impl Rollout {
    fn tracks(&self) -> BTreeMap<NodeName, Track> {
        let generation = &self.prepared.generation;
        let offline_until = self.started + self.prepared.order.wait_offline;
        let mut tracks = BTreeMap::new();
        for name in generation.nodes.keys() {
            let Some(target) = generation.held(name) else {
                continue;
            };
            let view = self.fleet.view(&self.id(name));
            let offered = view.as_ref().and_then(|view| view.offered.as_ref());
            let refused_before = offered
                .filter(|offered| {
                    let answer = offered.answer.as_ref();
                    answer.is_some_and(|answer| is_refusal(answer.state()))
                })
                .map(|offered| offered.nonce)
                // A new generation has not been refused by anybody yet.
                .filter(|_| !self.prepared.changed);
            let confirmed = view.as_ref().and_then(|view| view.confirmed);
            // One between two connections is no more offline than one that answers late.
            let known = self.prepared.confirmed.contains_key(name);
            let back_until = self.fleet.may_be_back_until(&self.id(name), known);
            let had = if self.prepared.changed {
                !self.prepared.differing.contains(name)
                    && confirmed.is_some_and(|held| held.digest == target.digest)
            } else {
                confirmed == Some(target)
            };
            let mut track = Track {
                target,
                had,
                refused_before,
                state: PushNodeState::Offline,
                error: String::new(),
                flows_cut: 0,
                deadline: back_until.map_or(offline_until, |until| until.max(offline_until)),
                seen: false,
            };
            if self.prepared.order.dry_run && self.holds(name, target) {
                track.state = PushNodeState::Unchanged;
            } else {
                track.look(view.as_ref(), self.started, self.answer);
            }
            tracks.insert(name.clone(), track);
        }
        tracks
    }

    /// Whether a node runs this content already, under whatever number; as it last said.
    fn holds(&self, node: &NodeName, target: Held) -> bool {
        let confirmed = self.prepared.confirmed.get(node);
        confirmed.is_some_and(|held| held.digest == target.digest)
    }

    fn id(&self, node: &NodeName) -> NodeId {
        NodeId {
            site: self.prepared.order.site.clone(),
            node: node.clone(),
        }
    }

    /// Tells the operator everything, until every node has answered, the time is over, or the
    /// operator has gone.
    pub async fn run(
        mut self,
        mut events: broadcast::Receiver<NodeId>,
        out: mpsc::Sender<Result<PushEvent, Status>>,
    ) {
        let order = self.prepared.order.clone();
        if self.tell_start(&out).await.is_err() || order.dry_run {
            // In a dry run nothing follows but the end.
            let _ = self.tell_end(&out).await;
            return;
        }
        if !self.prepared.changed {
            let prepared = &self.prepared;
            let generation = prepared.generation.number;
            self.fleet
                .again(&order.site, generation, prepared.confirm_within_ms)
                .await;
        }
        let stop = self.fleet.stop_token();
        loop {
            let now = Instant::now();
            let Some(deadline) = self
                .nodes
                .values()
                .filter(|track| !track.ended(now))
                .map(|track| track.deadline)
                .min()
            else {
                break;
            };
            let looked_at = tokio::select! {
                event = events.recv() => match event {
                    Ok(id) if id.site == order.site => vec![id.node],
                    Ok(_) => continue,
                    // Some were missed, or the fleet is gone: look at all.
                    Err(_) => self.nodes.keys().cloned().collect(),
                },
                () = tokio::time::sleep_until(deadline) => self.nodes.keys().cloned().collect(),
                () = out.closed() => return,
                () = stop.cancelled() => {
                    let end = Status::unavailable("controller is stopping; the nodes go on by themselves");
                    // The operator may have gone.
                    let _ = out.send(Err(end)).await;
                    return;
                }
            };
            for name in looked_at {
                let view = self.fleet.view(&self.id(&name));
                let Some(mut track) = self.nodes.remove(&name) else {
                    continue;
                };
                let mut changed = track.look(view.as_ref(), Instant::now(), self.answer);
                if view.is_none() && self.fleet.is_deleted(&self.id(&name)).await {
                    changed |= track.deleted();
                }
                let event = changed.then(|| self.event(&name, &track));
                self.nodes.insert(name, track);
                if let Some(event) = event
                    && tell(&out, push_event::Kind::Node(event)).await.is_err()
                {
                    return;
                }
            }
        }
        // The operator may have gone; there is nobody else to tell.
        let _ = self.tell_end(&out).await;
    }

    fn event(&self, name: &NodeName, track: &Track) -> PushNode {
        let roles = self.prepared.roles.get(name);
        PushNode {
            node: name.to_string(),
            roles: roles
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            state: track.state.into(),
            error: track.error.clone(),
            elapsed_ms: self.elapsed_ms(),
            flows_cut: track.flows_cut,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn tell_start(&self, out: &mpsc::Sender<Result<PushEvent, Status>>) -> Result<(), ()> {
        let prepared = &self.prepared;
        let nodes = self.nodes.iter().map(|(name, track)| PushNode {
            elapsed_ms: 0,
            ..self.event(name, track)
        });
        let started = PushStarted {
            site: prepared.order.site.to_string(),
            generation: prepared.generation.number,
            changed: prepared.changed,
            nodes: nodes.collect(),
            by: prepared.order.by.clone(),
            ..PushStarted::default()
        };
        tell(out, push_event::Kind::Started(started)).await?;
        for warning in &prepared.warnings {
            let diagnostic = Diagnostic {
                severity: Severity::Warning.into(),
                message: warning.clone(),
                ..Diagnostic::default()
            };
            tell(out, push_event::Kind::Diagnostic(diagnostic)).await?;
        }
        Ok(())
    }

    async fn tell_end(&self, out: &mpsc::Sender<Result<PushEvent, Status>>) -> Result<(), ()> {
        let count = |states: &[PushNodeState]| {
            let tracks = self.nodes.values();
            let number = tracks.filter(|t| states.contains(&t.state)).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let dry_run = self.prepared.order.dry_run;
        let done = PushDone {
            site: self.prepared.order.site.to_string(),
            generation: self.prepared.generation.number,
            changed: self.prepared.changed,
            applied: count(&[PushNodeState::Applied, PushNodeState::Unchanged]),
            failed: if dry_run {
                0
            } else {
                count(&[
                    PushNodeState::Failed,
                    PushNodeState::Rejected,
                    PushNodeState::TimedOut,
                ])
            },
            rolled_back: count(&[PushNodeState::RolledBack]),
            offline: count(&[PushNodeState::Offline]),
            elapsed_ms: self.elapsed_ms(),
            flows_cut: self.nodes.values().map(|track| track.flows_cut).sum(),
            ..PushDone::default()
        };
        let site = &done.site;
        let generation = done.generation;
        let (applied, failed, offline) = (done.applied, done.failed, done.offline);
        let (rolled_back, flows_cut) = (done.rolled_back, done.flows_cut);
        if !dry_run {
            tracing::info!(
                site,
                generation,
                applied,
                failed,
                rolled_back,
                offline,
                flows_cut,
                "push ended"
            );
        }
        tell(out, push_event::Kind::Done(done)).await
    }
}

async fn tell(
    out: &mpsc::Sender<Result<PushEvent, Status>>,
    kind: push_event::Kind,
) -> Result<(), ()> {
    let event = PushEvent { kind: Some(kind) };
    out.send(Ok(event)).await.map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;
    use voipfleet_common::ruleset::Digest;

    use super::*;
    use crate::clock;
    use voipfleet_common::policy::Rollout as Staging;

    use crate::push::generation::Before;
    use crate::push::{Order, Want};
    use crate::records::{Cause, Content, GenerationRecord};
    use crate::store::Expect;
    use crate::store::{Embedded, Store};

    /// A connected node that never answers ends as timed out, and the push with it.
    #[tokio::test]
    async fn a_push_ends_though_a_node_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let fleet = Fleet::new(
            Arc::clone(&store),
            clock::system(),
            CancellationToken::new(),
        );
        let id = NodeId {
            site: "site-a".parse().unwrap(),
            node: "sip1".parse().unwrap(),
        };
        let _connected = fleet.pretend(&id);
        let digest = Digest::of(b"x");
        let generation = GenerationRecord {
            number: 1,
            at_ms: 0,
            by: "ada".to_owned(),
            confirm_within_ms: 100,
            observe: false,
            documents: 0,
            cause: Cause::Push,
            live: BTreeSet::new(),
            nodes: BTreeMap::from([(id.node.clone(), Content { digest, size: 1 })]),
        };
        let order = Order {
            site: id.site.clone(),
            by: "ada".to_owned(),
            confirm_within_ms: None,
            wait_offline: Duration::ZERO,
            dry_run: false,
            rehearse: false,
            sources: Vec::new(),
            basis: None,
            want: Want::Documents,
            ticket: 0,
        };
        let prepared = Prepared {
            order,
            generation: Arc::new(generation),
            changed: true,
            documents: 0,
            confirm_within_ms: 100,
            roles: BTreeMap::new(),
            differing: BTreeSet::from([id.node.clone()]),
            confirmed: BTreeMap::new(),
            warnings: Vec::new(),
            staging: Staging::at_once(),
            basis: Before {
                expect: Expect::Absent,
                target: None,
                record: None,
            },
            packed: Arc::default(),
        };
        let pushes = Pushes::new(store, clock::system(), fleet.clone());
        let events = fleet.events();
        let mut rollout = pushes.roll_out(prepared);
        rollout.answer = Duration::from_millis(20);
        rollout.nodes = rollout.tracks();
        let (out, mut told) = mpsc::channel(64);
        rollout.run(events, out).await;
        let mut last = None;
        while let Some(event) = told.recv().await {
            last = event.unwrap().kind;
        }
        let Some(push_event::Kind::Done(done)) = last else {
            panic!("{last:?}");
        };
        assert_eq!((done.failed, done.offline), (1, 0));
    }
}
