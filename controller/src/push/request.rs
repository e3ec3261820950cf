//! What an operator asks for, and why nothing was pushed.

use std::time::Duration;

use voipfleet_compiler::CompileError;
use voipfleet_controller_core::precondition::{Precondition, Violation};
use voipfleet_policy::Source;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use crate::limits::MAX_WAITING;
use crate::site_inputs::InputsError;
use crate::store::StoreError;

/// What `confirm_within` may be, milliseconds: as in a Site's `rollout`.
pub const CONFIRM_WITHIN_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

#[derive(Debug, Clone)]
pub struct PushRequest {
    pub site: SiteName,
    /// The operator who asks.
    pub by: String,
    /// How long nodes have to prove that they are still reachable; none: the site's own.
    pub confirm_within_ms: Option<u64>,
    /// How long the operator waits for nodes that are offline.
    pub wait_offline: Duration,
    /// Nothing is stored.
    pub dry_run: bool,
    /// In a dry run: refuse what the push itself would be refused for.
    pub rehearse: bool,
    /// Documents that a dry run or a plan takes as if they were stored.
    pub sources: Vec<Source>,
    /// Of the plan that the operator confirmed; none: there was none.
    pub precondition: Option<Precondition>,
    pub content: RequestedContent,
    /// Its place in the queue; none: it did not wait.
    pub ticket: Option<u64>,
}

impl PushRequest {
    /// A push of what the documents of `site` say.
    pub fn new(site: SiteName, by: impl Into<String>) -> Self {
        Self {
            site,
            by: by.into(),
            confirm_within_ms: None,
            wait_offline: Duration::ZERO,
            dry_run: false,
            rehearse: false,
            sources: Vec::new(),
            precondition: None,
            content: RequestedContent::Documents,
            ticket: None,
        }
    }
}

/// What the nodes of a site should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedContent {
    /// What the documents say.
    Documents,
    /// What an earlier generation held.
    Generation(Generation),
    /// What the last good generation before the newest held.
    LastGood,
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Its documents or nodes cannot be read.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    #[error("site {site} does not compile; nothing was pushed")]
    Compile {
        site: SiteName,
        #[source]
        source: CompileError,
    },
    /// The precondition of the plan that was confirmed does not hold.
    #[error("the plan of {site} no longer holds: {}", listed(.violations))]
    Stale {
        site: SiteName,
        /// Never empty.
        violations: Vec<Violation>,
    },
    #[error("site {0} has no generation {1}, or no longer")]
    UnknownGeneration(SiteName, Generation),
    #[error("there is no node {0}")]
    UnknownNode(String),
    /// A rollback without anything to go back to.
    #[error(
        "site {0} has no earlier generation with other content that its nodes applied without a failure"
    )]
    NothingBefore(SiteName),
    /// One rollout of a site at a time.
    #[error("{site}: the rollout of generation {generation} by {by} is {state} since {since}")]
    Busy {
        site: SiteName,
        generation: Generation,
        by: String,
        state: &'static str,
        /// For people.
        since: String,
    },
    /// Others wait for their turn.
    #[error("{site}: pushes waiting for their turn: {waiting}")]
    Waiting { site: SiteName, waiting: usize },
    #[error("{site}: {MAX_WAITING} pushes are waiting, the most that may")]
    QueueFull { site: SiteName },
    /// A queued push would be dropped.
    #[error(
        "{site}: the rollout of generation {generation} is being rolled back, and no push may wait \
         for that"
    )]
    GoingBack {
        site: SiteName,
        generation: Generation,
    },
    #[error("site {0} was pushed concurrently")]
    Contended(SiteName),
    /// The compiler's thread panicked.
    #[error("the compiler failed on site {0}")]
    Broken(SiteName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn listed(violations: &[Violation]) -> String {
    let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
    violations.join("; ")
}
