//! A push that starts no rollout: a dry run, or one where every node has confirmed what it should
//! run.

use tokio::sync::mpsc;
use tonic::Status;
use voipfleet_proto::v1::{PushDone, PushEvent, PushNode, PushNodeState, PushStarted, push_event};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::NodeName;

use super::PushApi;
use super::rollout_progress::{push_state, tell, warning};
use crate::fleet::Fleet;
use crate::push::Prepared;
use crate::records::NodeId;
use crate::rollout::judge;

/// What a push finds that starts nothing.
#[derive(Debug)]
pub(super) struct UnchangedPush {
    fleet: Fleet,
    prepared: Prepared,
}

impl PushApi {
    /// How its nodes stand to a prepared push that starts nothing.
    pub(super) fn unchanged(&self, prepared: Prepared) -> UnchangedPush {
        UnchangedPush {
            fleet: self.fleet.clone(),
            prepared,
        }
    }
}

impl UnchangedPush {
    /// Tells the operator.
    pub(super) async fn tell(self, out: mpsc::Sender<Result<PushEvent, Status>>) {
        let nodes: Vec<PushNode> = self
            .prepared
            .generation
            .nodes
            .keys()
            .filter_map(|name| Some(self.node(name, self.prepared.generation.held(name)?)))
            .collect();
        // The operator may have gone; there is nobody else to tell.
        let _ = self.tell_all(&out, nodes).await;
    }

    fn node(&self, name: &NodeName, target: Held) -> PushNode {
        let (state, error) = self.state(name, target);
        let roles = self.prepared.roles.get(name);
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
        let prepared = &self.prepared;
        let id = NodeId {
            site: prepared.order.site.clone(),
            node: name.clone(),
        };
        let view = self.fleet.view(&id);
        let confirmed = prepared.confirmed.get(name);
        let has = confirmed.is_some_and(|held| held.digest == target.digest);
        // One between two connections is no offline one.
        let known = confirmed.is_some();
        let here = view.is_some() || self.fleet.may_be_back_until(&id, known).is_some();
        let state = match view {
            _ if has && (prepared.order.dry_run || here) => PushNodeState::Unchanged,
            Some(view) => {
                let (delivery, error) = judge(target, None, &view);
                return (push_state(delivery), error);
            }
            None => PushNodeState::Offline,
        };
        (state, String::new())
    }

    async fn tell_all(
        &self,
        out: &mpsc::Sender<Result<PushEvent, Status>>,
        nodes: Vec<PushNode>,
    ) -> Result<(), ()> {
        let prepared = &self.prepared;
        let count = |of: PushNodeState| {
            let number = nodes.iter().filter(|node| node.state() == of).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let done = PushDone {
            site: prepared.order.site.to_string(),
            generation: prepared.generation.number,
            changed: prepared.changed,
            applied: count(PushNodeState::Applied) + count(PushNodeState::Unchanged),
            rolled_back: count(PushNodeState::RolledBack),
            offline: count(PushNodeState::Offline),
            ..PushDone::default()
        };
        let started = PushStarted {
            site: prepared.order.site.to_string(),
            generation: prepared.generation.number,
            changed: prepared.changed,
            nodes,
            by: prepared.order.by.clone(),
            ..PushStarted::default()
        };
        tell(out, push_event::Kind::Started(started)).await?;
        for message in &prepared.warnings {
            tell(out, warning(message.clone())).await?;
        }
        tell(out, push_event::Kind::Done(done)).await
    }
}
