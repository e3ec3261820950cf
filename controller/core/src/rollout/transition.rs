//! The kinds of steps between two states of a rollout.

use voipfleet_ruleset::identifiers::NodeName;

use super::record::{RolloutRecord, RolloutState};

/// What leads from one state of a rollout to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// A rollout begins.
    Start,
    /// Nodes get their turn.
    Release,
    /// A node's answer, or a missed deadline, changes its phase.
    Judge,
    /// It stops with some nodes untouched.
    Halt,
    /// It goes back.
    Back,
    /// It ends.
    Finish,
    /// An operator pauses or resumes it.
    Command,
}

impl Transition {
    /// The word for logs and failpoints.
    pub fn as_str(self) -> &'static str {
        match self {
            Transition::Start => "start",
            Transition::Release => "release",
            Transition::Judge => "judge",
            Transition::Halt => "halt",
            Transition::Back => "back",
            Transition::Finish => "finish",
            Transition::Command => "command",
        }
    }

    pub fn between(before: &RolloutRecord, after: &RolloutRecord) -> Self {
        if before.state != after.state {
            return match after.state {
                RolloutState::Halted | RolloutState::Aborted => Transition::Halt,
                RolloutState::RollingBack => Transition::Back,
                RolloutState::Done | RolloutState::RolledBack => Transition::Finish,
                RolloutState::Running | RolloutState::Paused => Transition::Command,
            };
        }
        if released(before, after).is_empty() && before.released == after.released {
            Transition::Judge
        } else {
            Transition::Release
        }
    }
}

/// Nodes that are at work in `after` and were not in `before`.
pub fn released(before: &RolloutRecord, after: &RolloutRecord) -> Vec<NodeName> {
    after
        .nodes
        .iter()
        .filter(|(name, step)| {
            let was = before.nodes.get(*name);
            step.phase.is_working() && was.is_none_or(|was| !was.phase.is_working())
        })
        .map(|(name, _)| name.clone())
        .collect()
}
