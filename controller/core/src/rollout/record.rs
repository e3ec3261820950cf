//! A rollout as it is kept: what a restart of the controller goes on with.

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
    #[serde(default)]
    pub back: Option<Generation>,
    /// How it stands.
    pub state: RolloutState,
    /// Why it stands so: the node that failed, or who paused it; empty: nothing to say.
    #[serde(default)]
    pub why: String,
    /// Who started it.
    pub by: String,
    /// When, Unix time.
    pub started_ms: u64,
    /// When it ended, Unix time; none: it has not.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// The place in the queue that it came from; 0: none.
    #[serde(default)]
    pub ticket: u64,
    /// How it goes through the nodes.
    pub stages: Stages,
    /// The batches in their order, the canary first.
    pub order: Vec<Vec<NodeName>>,
    /// So many of them were released.
    pub released: usize,
    /// The next one is not released before, Unix time; none: the last one is under way.
    #[serde(default)]
    pub next_ms: Option<u64>,
    /// Every node of it.
    pub nodes: BTreeMap<NodeName, NodeStep>,
    /// It comes from a backup, and stood so there: nothing of it goes on, nor does it fail or go
    /// back, before an operator has looked.
    #[serde(default)]
    pub held: Option<RolloutState>,
    /// How far it had come when it turned back: its nodes' places are then those of the way back.
    #[serde(default)]
    pub turned: Option<Tally>,
}

/// Nodes of a rollout, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Nodes that run it.
    pub applied: usize,
    /// Nodes that failed.
    pub failed: usize,
    /// Nodes whose turn never came, offline ones among them.
    pub untouched: usize,
}

impl RolloutRecord {
    /// How it stands, whoever holds it.
    pub fn stage(&self) -> RolloutState {
        self.held.unwrap_or(self.state)
    }

    /// What its nodes are brought to is what they ran before.
    pub fn goes_back(&self) -> bool {
        matches!(
            self.stage(),
            RolloutState::RollingBack | RolloutState::RolledBack
        )
    }

    /// Holds it, since it comes from a backup; false: it has ended there.
    pub fn hold(&mut self, site: &str) -> bool {
        if self.state.has_ended() {
            return false;
        }
        let back = self.state == RolloutState::RollingBack;
        let (stage, commands) = if back {
            (RolloutState::RollingBack, "let it go on back")
        } else {
            (RolloutState::Running, "go on or end it")
        };
        let words = if back { "resume" } else { "resume|abort" };
        self.held = Some(stage);
        self.state = RolloutState::Paused;
        self.why = format!(
            "held, since it comes from a backup, and may have ended otherwise; {commands}: \
             voipctl rollout {words} {site}"
        );
        true
    }

    /// Why nothing that waits may be pushed after it: somebody must look first. None: it has
    /// ended well, or may yet.
    pub fn why_not_after(&self) -> Option<String> {
        let how = match self.state {
            RolloutState::Running | RolloutState::Paused | RolloutState::Done => return None,
            RolloutState::Halted => "was halted",
            RolloutState::RollingBack | RolloutState::RolledBack => "was taken back",
            RolloutState::Aborted => "was ended early",
        };
        let why = match self.why.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        let generation = self.generation;
        Some(format!(
            "the rollout of generation {generation} before it {how}{why}"
        ))
    }
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// It goes on.
    Running,
    /// An operator holds it: what was released goes on, nothing more is released.
    Paused,
    /// Too many nodes failed.
    Halted,
    /// What was changed is taken back.
    RollingBack,
    /// That has ended.
    RolledBack,
    /// Every node had its turn.
    Done,
    /// An operator ended it.
    Aborted,
}

/// How a rollout goes through the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Nodes that go first; 0: none do.
    pub canary: usize,
    /// Nodes at a time after that, 1 or more.
    pub batch: usize,
    /// Failures that are still no reason to stop.
    pub max_failures: usize,
    /// Between two batches, milliseconds.
    pub pause_ms: u64,
    /// Whether too many failures take back what was changed.
    pub roll_back: bool,
    /// How long a trial may last, milliseconds.
    pub confirm_within_ms: u64,
}

/// One node of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStep {
    /// What it should have run before; 0: it was never given anything.
    pub before: Generation,
    /// It ran this content already.
    #[serde(default)]
    pub had: bool,
    /// How it stands.
    pub place: Place,
    /// When that began, Unix time.
    pub at_ms: u64,
    /// The offer that it had refused before its turn came: that answer does not count.
    #[serde(default)]
    pub refused_before: Option<u64>,
    /// Its own words, or ours about it; empty: nothing to say.
    #[serde(default)]
    pub error: String,
    /// Live flows that it cut.
    #[serde(default)]
    pub flows_cut: u64,
}

/// How a node stands in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Its batch has not come.
    Waiting,
    /// Its batch came while it was offline: it gets its turn when it is back. Until then,
    /// Unix time, the batch waits for it.
    Away {
        /// Until when; 0: the batch went on without it.
        until_ms: u64,
    },
    /// It should take the generation until then, Unix time.
    Working {
        /// After that it counts as failed.
        deadline_ms: u64,
    },
    /// It runs it.
    Applied,
    /// It went back to what it ran.
    RolledBack,
    /// It refused it.
    Rejected,
    /// It could not do it.
    Failed,
    /// It did not answer in time.
    TimedOut,
    /// The rollout ended while it was at work: it is offered again what it ran.
    Withdrawn,
    /// It was deleted.
    Deleted,
}

impl Place {
    /// It had its turn, and does not run the generation.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Place::RolledBack | Place::Rejected | Place::Failed | Place::TimedOut
        )
    }

    /// It is at work.
    pub fn is_working(self) -> bool {
        matches!(self, Place::Working { .. })
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
    /// How it ended.
    pub state: RolloutState,
    /// What its nodes were brought to in the end: another one where it went back.
    #[serde(default)]
    pub brought: Generation,
    /// Why.
    pub why: String,
    /// When it began, Unix time.
    pub started_ms: u64,
    /// When it ended, Unix time.
    pub ended_ms: u64,
    /// Nodes that run it, or ran it before it was taken back.
    pub applied: usize,
    /// Nodes that failed.
    pub failed: usize,
    /// Nodes whose turn never came, offline ones among them.
    pub untouched: usize,
}

impl OutcomeRecord {
    /// Whether the rollout brought `number` to the nodes and let it stand: some node took it, and
    /// none failed. Of one that was taken back only the generation that it went back to was.
    pub fn is_good_for(&self, number: Generation) -> bool {
        match self.state {
            RolloutState::Done => self.failed == 0 && self.applied > 0,
            RolloutState::RolledBack => self.brought == number,
            _ => false,
        }
    }
}
