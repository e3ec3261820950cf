//! A rollout as it is stored: everything that a restarted controller needs to continue it.
//!
//! Deadlines are stored as the time that is left, never as a time of day: they mean the same on
//! another machine, and whatever is done to a clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

/// A site's running or last rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// Grows by one with every rollout of the site.
    pub number: u64,
    /// What it brings to the nodes.
    pub generation: Generation,
    /// The generation that holds what each node ran before, once the rollout goes back.
    pub back: Option<Generation>,
    pub state: RolloutState,
    /// The node that failed, or the operator who paused it, in words; empty: no reason to give.
    pub reason: String,
    /// The operator who started it.
    pub by: String,
    /// Unix time, for people.
    pub started_ms: u64,
    /// Unix time, for people; none: it has not ended.
    pub ended_ms: Option<u64>,
    /// Its ticket in the queue; none: it did not wait.
    pub ticket: Option<u64>,
    pub stages: Stages,
    /// The batches in their order, the canary first.
    pub order: Vec<Vec<NodeName>>,
    /// How many batches were released.
    pub released: usize,
    /// How long until the next batch may be released; none: the last one is under way.
    pub pause_left_ms: Option<u64>,
    pub nodes: BTreeMap<NodeName, NodeProgress>,
    /// The state it had in the backup that it was restored from: it does not continue, fail or
    /// roll back before an operator has decided.
    pub held: Option<RolloutState>,
    /// The figures of the way forward, once it goes back: the nodes' phases are then those of the
    /// way back.
    pub forward_tally: Option<Tally>,
}

/// Nodes of a rollout, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub applied: usize,
    pub failed: usize,
    /// Nodes whose turn never came, offline ones among them.
    pub untouched: usize,
}

impl RolloutRecord {
    /// Its state, or the one in which it was restored from a backup.
    pub fn stage(&self) -> RolloutState {
        self.held.unwrap_or(self.state)
    }

    /// Its nodes are brought to what they ran before.
    pub fn goes_back(&self) -> bool {
        matches!(
            self.stage(),
            RolloutState::RollingBack | RolloutState::RolledBack
        )
    }

    /// Holds it, since it was restored from a backup; false: it had ended there.
    pub fn hold(&mut self, site: &str) -> bool {
        if self.state.has_ended() {
            return false;
        }
        let back = self.state == RolloutState::RollingBack;
        let (stage, choice, commands) = if back {
            let choice = "let it finish rolling back";
            (RolloutState::RollingBack, choice, "resume")
        } else {
            (RolloutState::Running, "resume or end it", "resume|abort")
        };
        self.held = Some(stage);
        self.state = RolloutState::Paused;
        self.reason = format!(
            "held: restored from a backup, and may have ended differently since; {choice}: \
             voipctl rollout {commands} {site}"
        );
        true
    }

    /// Why a queued push must not start after it: an operator must look first. None: it has
    /// ended well, or may yet.
    pub fn blocks_queue(&self) -> Option<String> {
        let how = match self.state {
            RolloutState::Running | RolloutState::Paused | RolloutState::Done => return None,
            RolloutState::Halted => "was halted",
            RolloutState::RollingBack | RolloutState::RolledBack => "was rolled back",
            RolloutState::Aborted => "was aborted",
        };
        let reason = match self.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let generation = self.generation;
        Some(format!(
            "the rollout of generation {generation} before it {how}{reason}"
        ))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    Running,
    /// By an operator: released nodes finish, no further node is released.
    Paused,
    /// Too many nodes failed.
    Halted,
    RollingBack,
    RolledBack,
    /// Every node had its turn.
    Done,
    /// An operator ended it.
    Aborted,
}

/// How a rollout goes through the nodes, in numbers of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Nodes that go first; 0: no canary.
    pub canary: usize,
    /// Nodes at a time after that, 1 or more.
    pub batch: usize,
    /// Failures that do not stop it yet.
    pub max_failures: usize,
    /// Between two batches, milliseconds.
    pub pause_ms: u64,
    /// Whether too many failures roll back what was changed.
    pub roll_back: bool,
    /// How long a trial may last, milliseconds.
    pub confirm_within_ms: u64,
}

/// One node of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// What it should have run before; none: it was never given anything.
    pub before: Option<Generation>,
    /// It ran this content already: only the generation's number changes.
    pub unchanged: bool,
    pub phase: Phase,
    /// When the phase began, Unix time, for people.
    pub at_ms: u64,
    /// The nonce of an offer that it had refused before its turn came: that answer does not count.
    pub refused_before: Option<u64>,
    /// The node's own error, or the controller's about it; empty: none.
    pub error: String,
    pub flows_cut: u64,
    /// When its turn began, Unix time, for people; none: it had none yet.
    pub began_ms: Option<u64>,
    /// How the way forward ended for it; none: the rollout does not go back.
    pub forward: Option<ForwardResult>,
}

/// How the way forward of a rollout that goes back ended for one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardResult {
    pub phase: Phase,
    /// Why it failed; empty: it did not.
    pub error: String,
    /// How long its turn took, milliseconds.
    pub took_ms: u64,
}

impl ForwardResult {
    /// The node was never given the generation.
    pub fn is_untouched(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Offline { .. })
    }
}

/// A node's phase in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its batch has not come.
    Waiting,
    /// Its batch came while it was offline: it gets its turn when it reconnects.
    Offline {
        /// How long its batch still waits for it; 0: the batch continues without it.
        grace_ms: u64,
    },
    /// It has been offered the generation.
    Working {
        /// How long until it counts as failed.
        left_ms: u64,
    },
    /// It runs the generation.
    Applied,
    /// It went back to what it ran.
    RolledBack,
    /// It refused the generation.
    Rejected,
    /// It could not apply it.
    Failed,
    TimedOut,
    /// The rollout ended while it was at work: it is offered again what it ran.
    Withdrawn,
    /// The node was deleted.
    Deleted,
}

impl Phase {
    /// The node had its turn, and does not run the generation.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Phase::RolledBack | Phase::Rejected | Phase::Failed | Phase::TimedOut
        )
    }

    pub fn is_working(self) -> bool {
        matches!(self, Phase::Working { .. })
    }

    pub fn is_offline(self) -> bool {
        matches!(self, Phase::Offline { .. })
    }
}

impl RolloutState {
    /// Nothing of it is under way or held.
    pub fn has_ended(self) -> bool {
        !matches!(
            self,
            RolloutState::Running | RolloutState::Paused | RolloutState::RollingBack
        )
    }

    /// The word for people and machines.
    pub fn as_str(self) -> &'static str {
        match self {
            RolloutState::Running => "running",
            RolloutState::Paused => "paused",
            RolloutState::Halted => "halted",
            RolloutState::RollingBack => "rolling_back",
            RolloutState::RolledBack => "rolled_back",
            RolloutState::Done => "done",
            RolloutState::Aborted => "aborted",
        }
    }
}

/// How the rollout of a generation ended; kept as long as the generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    pub state: RolloutState,
    /// What its nodes were brought to in the end: another one where it was rolled back.
    pub brought: Generation,
    pub reason: String,
    /// Unix time.
    pub started_ms: u64,
    /// Unix time.
    pub ended_ms: u64,
    /// Nodes that run it, or ran it before it was rolled back.
    pub applied: usize,
    pub failed: usize,
    /// Nodes whose turn never came, offline ones among them.
    pub untouched: usize,
}

impl OutcomeRecord {
    /// Whether the rollout brought its generation to the nodes for good: at least one node took
    /// it, and none failed.
    pub fn is_good(&self) -> bool {
        self.state == RolloutState::Done && self.failed == 0 && self.applied > 0
    }
}
