//! What is seen of a site's nodes now.

use std::collections::BTreeMap;

use tokio::time::Instant;
use voipfleet_controller_core::rollout::state_machine::{Presence, Sight, Word};
use voipfleet_proto::v1::NodeState;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use crate::fleet::{Fleet, View};
use crate::records::{GenerationRecord, NodeId, NodeStep, Place, RolloutRecord};

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

/// A node that says this does not run what it was offered.
pub(crate) fn is_refusal(state: NodeState) -> bool {
    matches!(
        state,
        NodeState::Rejected | NodeState::Failed | NodeState::RolledBack
    )
}

/// How a connected node stands with `target`. `refused_before` is the offer of it that it had
/// refused before it was asked this time.
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
        let why = format!("generation {newest} took the place of this one");
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

/// What is seen of a rollout's nodes, with regard to `goal`, the generation that it brings them
/// to now. `back_until`: none of its nodes counts as gone before.
pub(super) async fn observe(
    fleet: &Fleet,
    site: &SiteName,
    record: &RolloutRecord,
    goal: &GenerationRecord,
    now_ms: u64,
    back_until: Option<Instant>,
) -> BTreeMap<NodeName, Sight> {
    let mut sights = BTreeMap::new();
    for (name, step) in &record.nodes {
        let id = NodeId {
            site: site.clone(),
            node: name.clone(),
        };
        let sight = match fleet.view(&id) {
            Some(view) => Sight {
                presence: Presence::Here,
                word: goal.held(name).map_or(Word::Nothing, |target| {
                    word(target, step.refused_before, &view)
                }),
            },
            None => Sight {
                presence: absence(fleet, &id, step, now_ms, back_until).await,
                word: Word::Nothing,
            },
        };
        sights.insert(name.clone(), sight);
    }
    sights
}

fn word(target: Held, refused_before: Option<u64>, view: &View) -> Word {
    let (state, error) = judge(target, refused_before, view);
    let place = match state {
        Delivery::Applied => {
            let status = view.status.as_ref();
            return Word::Runs(status.map_or(0, |status| status.flows_cut));
        }
        Delivery::RolledBack => Place::RolledBack,
        Delivery::Rejected => Place::Rejected,
        Delivery::Failed => Place::Failed,
        _ => return Word::Nothing,
    };
    Word::Refuses(place, error)
}

async fn absence(
    fleet: &Fleet,
    id: &NodeId,
    step: &NodeStep,
    now_ms: u64,
    back_until: Option<Instant>,
) -> Presence {
    let known = step.before != 0;
    let open = matches!(
        step.place,
        Place::Waiting | Place::Away { .. } | Place::Working { .. }
    );
    if open && fleet.is_deleted(id).await {
        return Presence::Deleted;
    }
    let left = fleet
        .may_be_back_until(id, known)
        .max(back_until.filter(|_| known))
        .map(|until| until.saturating_duration_since(Instant::now()))
        .filter(|left| !left.is_zero());
    match left {
        Some(left) => {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            Presence::MayBeBack(now_ms.saturating_add(left).saturating_add(1))
        }
        None => Presence::Away,
    }
}
