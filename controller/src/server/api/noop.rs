//! A push that starts no rollout: a dry run, or one where every node has confirmed what it should
//! run.

use tokio::sync::mpsc;
use tonic::Status;
use voipfleet_proto::v1::{PushDone, PushEvent, PushNode, PushNodeState, PushStarted, push_event};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::NodeName;

use super::PushApi;
use super::rollout_progress::{push_state, send, warning};
use crate::fleet::Fleet;
use crate::push::Proposed;
use crate::records::NodeId;
use crate::rollout::judge;

/// A push that starts nothing, and the states of its nodes.
#[derive(Debug)]
pub(super) struct UnchangedPush {
    fleet: Fleet,
    proposed: Proposed,
}

impl PushApi {
    pub(super) fn unchanged(&self, proposed: Proposed) -> UnchangedPush {
        UnchangedPush {
            fleet: self.fleet.clone(),
            proposed,
        }
    }
}

impl UnchangedPush {
    /// Sends it to the operator.
    pub(super) async fn send(self, out: mpsc::Sender<Result<PushEvent, Status>>) {
        let generation = &self.proposed.proposal.generation;
        let nodes = generation.nodes.keys();
        let nodes: Vec<PushNode> = nodes
            .filter_map(|name| Some(self.node(name, generation.held(name)?)))
            .collect();
        // The operator may have hung up; nothing else wants to know.
        let _ = self.send_all(&out, nodes).await;
    }

    fn node(&self, name: &NodeName, target: Held) -> PushNode {
        let (state, error) = self.state(name, target);
        let node = self.proposed.proposal.nodes.get(name);
        let roles = node.map(|node| &node.state.roles);
        PushNode {
            node: name.to_string(),
            roles: roles
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            state: state.into(),
            error,
            ..PushNode::default()
        }
    }

    fn state(&self, name: &NodeName, target: Held) -> (PushNodeState, String) {
        let Proposed {
            request, proposal, ..
        } = &self.proposed;
        let id = NodeId {
            site: request.site.clone(),
            node: name.clone(),
        };
        let view = self.fleet.view(&id);
        let node = proposal.nodes.get(name);
        let confirmed = node.and_then(|node| node.state.confirmed);
        let has = confirmed.is_some_and(|held| held.digest == target.digest);
        // A node between two connections is not offline.
        let known = confirmed.is_some();
        let here = view.is_some() || self.fleet.may_be_back_until(&id, known).is_some();
        let state = match view {
            _ if has && (request.dry_run || here) => PushNodeState::Unchanged,
            Some(view) => {
                let (delivery, error) = judge(target, None, &view);
                return (push_state(delivery), error);
            }
            None => PushNodeState::Offline,
        };
        (state, String::new())
    }

    async fn send_all(
        &self,
        out: &mpsc::Sender<Result<PushEvent, Status>>,
        nodes: Vec<PushNode>,
    ) -> Result<(), ()> {
        let Proposed {
            request, proposal, ..
        } = &self.proposed;
        let count = |of: PushNodeState| {
            let number = nodes.iter().filter(|node| node.state() == of).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let done = PushDone {
            site: request.site.to_string(),
            generation: proposal.generation.number,
            changed: proposal.changed,
            applied: count(PushNodeState::Applied) + count(PushNodeState::Unchanged),
            rolled_back: count(PushNodeState::RolledBack),
            offline: count(PushNodeState::Offline),
            dry_run: request.dry_run,
            ..PushDone::default()
        };
        let started = PushStarted {
            site: request.site.to_string(),
            generation: proposal.generation.number,
            changed: proposal.changed,
            nodes,
            by: request.by.clone(),
            dry_run: request.dry_run,
            ..PushStarted::default()
        };
        send(out, push_event::Kind::Started(started)).await?;
        for message in &proposal.warnings {
            send(out, warning(message.clone())).await?;
        }
        send(out, push_event::Kind::Done(done)).await
    }
}
