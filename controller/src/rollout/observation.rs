//! What the fleet sees of a rollout's nodes at this moment.

use std::collections::BTreeMap;

use tokio::time::Instant;
use voipfleet_controller_core::rollout::state_machine::{NodeReport, Observation, Presence};
use voipfleet_proto::v1::NodeState;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use crate::fleet::{Fleet, View};
use crate::records::{GenerationRecord, NodeId, NodeProgress, Phase, RolloutRecord};

/// How far a node is with a generation that it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It has not answered.
    Sent,
    Applying,
    Trial,
    Applied,
    RolledBack,
    Rejected,
    Failed,
}

/// A node in this state does not run what it was offered.
pub(crate) fn is_refusal(state: NodeState) -> bool {
    matches!(
        state,
        NodeState::Rejected | NodeState::Failed | NodeState::RolledBack
    )
}

/// How far a connected node is with `target`, and its error. `refused_before` is the nonce of an
/// offer of it that it had refused before its turn came.
pub(crate) fn judge(target: Held, refused_before: Option<u64>, view: &View) -> (Delivery, String) {
    if view.confirmed == Some(target) {
        return (Delivery::Applied, String::new());
    }
    let offered = view.offered.as_ref();
    let newest = [view.confirmed, offered.map(|offered| offered.held)]
        .into_iter()
        .flatten()
        .map(|held| held.generation)
        .max()
        .unwrap_or_default();
    if newest > target.generation {
        let why = format!("superseded by generation {newest}");
        return (Delivery::Failed, why);
    }
    let answer = offered
        .filter(|offered| offered.held == target && Some(offered.nonce) != refused_before)
        .and_then(|offered| offered.answer.as_ref());
    let Some(answer) = answer else {
        return (Delivery::Sent, String::new());
    };
    let state = match answer.state() {
        NodeState::Unspecified => Delivery::Sent,
        NodeState::Applying => Delivery::Applying,
        NodeState::Trial => Delivery::Trial,
        NodeState::Applied => Delivery::Applied,
        NodeState::RolledBack => Delivery::RolledBack,
        NodeState::Rejected => Delivery::Rejected,
        NodeState::Failed => Delivery::Failed,
    };
    (state, answer.error.clone())
}

/// Observes a rollout's nodes with regard to `goal`, the generation that it brings them to now.
/// `back_until`: none of its nodes counts as gone before.
pub(super) async fn observe(
    fleet: &Fleet,
    site: &SiteName,
    record: &RolloutRecord,
    goal: &GenerationRecord,
    back_until: Option<Instant>,
) -> BTreeMap<NodeName, Observation> {
    let mut observed = BTreeMap::new();
    for (name, step) in &record.nodes {
        let id = NodeId {
            site: site.clone(),
            node: name.clone(),
        };
        let observation = match fleet.view(&id) {
            Some(view) => Observation {
                presence: Presence::Connected,
                report: goal.held(name).map_or(NodeReport::Silent, |target| {
                    report(target, step.refused_before, &view)
                }),
            },
            None => Observation {
                presence: absence(fleet, &id, step, back_until).await,
                report: NodeReport::Silent,
            },
        };
        observed.insert(name.clone(), observation);
    }
    observed
}

fn report(target: Held, refused_before: Option<u64>, view: &View) -> NodeReport {
    let (state, error) = judge(target, refused_before, view);
    let phase = match state {
        Delivery::Applied => {
            let status = view.status.as_ref();
            return NodeReport::Runs(status.map_or(0, |status| status.flows_cut));
        }
        Delivery::RolledBack => Phase::RolledBack,
        Delivery::Rejected => Phase::Rejected,
        Delivery::Failed => Phase::Failed,
        _ => return NodeReport::Silent,
    };
    NodeReport::Refused(phase, error)
}

async fn absence(
    fleet: &Fleet,
    id: &NodeId,
    step: &NodeProgress,
    back_until: Option<Instant>,
) -> Presence {
    let known = step.before.is_some();
    let open = matches!(
        step.phase,
        Phase::Waiting | Phase::Offline { .. } | Phase::Working { .. }
    );
    if open && fleet.is_deleted(id).await {
        return Presence::Deleted;
    }
    let until = fleet.may_be_back_until(id, known);
    absent(until.max(back_until.filter(|_| known)), Instant::now())
}

/// The presence of a node without a connection that is expected until then.
pub(crate) fn absent(until: Option<Instant>, now: Instant) -> Presence {
    let left = until.map(|until| until.saturating_duration_since(now));
    match left.filter(|left| !left.is_zero()) {
        Some(left) => {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            Presence::Returning(left.saturating_add(1))
        }
        None => Presence::Offline,
    }
}
