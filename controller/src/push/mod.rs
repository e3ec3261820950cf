//! A push: documents and nodes become a generation, and the generation goes to the nodes.

mod commit;
mod compile;
pub mod history;
pub mod plan;
mod prepare;
mod prune;
mod queue;
mod queue_worker;
pub mod sources;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use voipfleet_compiler::CompileError;
use voipfleet_controller_core::precondition::PlanBasis;
use voipfleet_policy::Source;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

pub use commit::Begun;
pub(crate) use prepare::BELIEVED;
pub use prepare::Prepared;
pub use queue::{Enqueued, Pushed};
pub use queue_worker::{NoRight, Rights};

use crate::clock::Clock;
use crate::documents::Cache;
use crate::fleet::Fleet;
use crate::limits::MAX_WAITING;
use crate::rollout::Rollouts;
use crate::site_inputs::InputsError;
use crate::store::{Store, StoreError};

/// Compiles at the same time: each takes a processor.
const COMPILES: usize = 2;
/// What `confirm_within` may be, milliseconds: as in a Site's `rollout`.
pub const CONFIRM_WITHIN_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// Pushes to sites.
#[derive(Debug, Clone)]
pub struct Pushes {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    fleet: Fleet,
    rollouts: Rollouts,
    compiles: Arc<Semaphore>,
    documents: Cache,
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct Order {
    /// The site.
    pub site: SiteName,
    /// Who asks.
    pub by: String,
    /// How long nodes have to prove that they are still reachable; none: the site's own.
    pub confirm_within_ms: Option<u64>,
    /// How long to wait for nodes that are offline.
    pub wait_offline: Duration,
    /// Compile and compare only.
    pub dry_run: bool,
    /// In a dry run: refuse what the push itself would be refused for.
    pub rehearse: bool,
    /// Documents that a dry run takes as if they were stored.
    pub sources: Vec<Source>,
    /// The plan that was agreed to; none: whatever the documents say is pushed.
    pub basis: Option<PlanBasis>,
    /// What the nodes should get.
    pub want: Want,
    /// Its place in the queue; 0: it did not wait.
    pub ticket: u64,
}

/// What the nodes of a site should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// What the documents say.
    Documents,
    /// What an earlier generation held; none: the last good one before the newest.
    Earlier(Option<Generation>),
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Its documents or nodes cannot be read.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The documents do not compile.
    #[error("site {site} does not compile; nothing was pushed")]
    Compile {
        /// The site.
        site: SiteName,
        /// Why not.
        #[source]
        source: CompileError,
    },
    /// What a plan stands on is no longer so.
    #[error("the plan of {site} no longer holds: {}", .moved.join("; "))]
    Stale {
        /// The site.
        site: SiteName,
        /// What moved, in words; never empty.
        moved: Vec<String>,
    },
    /// The site, but not the generation.
    #[error("site {0} has no generation {1}, or no longer; `voipctl history {0}` lists them")]
    UnknownGeneration(SiteName, Generation),
    /// The site, but not the node.
    #[error("there is no node {0}; `voipctl nodes` lists them")]
    UnknownNode(String),
    /// A rollback without anything to go back to.
    #[error(
        "site {0} has no earlier generation with other content that its nodes took without a \
         failure; choose one: voipctl history {0}, then voipctl rollback {0} --to GEN"
    )]
    NothingBefore(SiteName),
    /// One rollout of a site at a time.
    #[error(
        "{site}: the rollout of generation {generation} by {by} is {state}, since {since}; watch it \
         (voipctl rollout watch {site}), push after it (voipctl push {site} --queue), or end it \
         (voipctl rollout abort {site})"
    )]
    Busy {
        /// The site.
        site: SiteName,
        /// What is being rolled out.
        generation: Generation,
        /// By whom.
        by: String,
        /// How it stands.
        state: &'static str,
        /// Since when, for people.
        since: String,
    },
    /// Others wait for their turn.
    #[error(
        "{site}: {waiting} queued before wait for their turn (voipctl rollout status {site}); push \
         after them: voipctl push {site} --queue"
    )]
    Waiting {
        /// The site.
        site: SiteName,
        /// How many.
        waiting: usize,
    },
    /// As many wait as may.
    #[error(
        "{site}: {MAX_WAITING} pushes wait already, and no more may (voipctl rollout status \
         {site}); wait for some of them"
    )]
    QueueFull {
        /// The site.
        site: SiteName,
    },
    /// What waits would be dropped.
    #[error(
        "{site}: the rollout of generation {generation} is being taken back, and nothing waits for \
         that: look why (voipctl rollout status {site}), then push again"
    )]
    GoingBack {
        /// The site.
        site: SiteName,
        /// What is taken back.
        generation: Generation,
    },
    /// Others were faster, again and again.
    #[error("site {0} is being pushed by others; try again")]
    Contended(SiteName),
    /// The compiler's thread broke.
    #[error("the compiler failed on site {0}; the controller's log says why")]
    Broken(SiteName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pushes {
    /// The rollouts of all sites.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Pushes over a store and a fleet.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, fleet: Fleet) -> Self {
        Self {
            documents: Cache::new(Arc::clone(&store)),
            rollouts: Rollouts::new(Arc::clone(&store), Arc::clone(&clock), fleet.clone()),
            store,
            clock,
            fleet,
            compiles: Arc::new(Semaphore::new(COMPILES)),
        }
    }

    /// The documents that it compiles, parsed once for each of their states.
    pub fn documents(&self) -> &Cache {
        &self.documents
    }
}
