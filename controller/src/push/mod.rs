//! A push: documents and nodes become a proposal, the proposal becomes the site's generation and
//! rollout. Plans, dry runs, pushes, queued pushes and rollbacks go through the same
//! [`Pipeline`].

mod compile;
pub mod history;
mod join;
mod pipeline;
pub mod plan;
pub mod planned_sources;
mod prune;
mod queue;
mod queue_worker;
mod request;
mod stored_content;

use std::sync::Arc;

pub use compile::Compiler;
pub use history::HistoryReader;
pub use join::Joiner;
pub use pipeline::{Pipeline, Proposed, StartedPush};
pub use plan::Planner;
pub use queue::{PushQueue, Ticket};
pub use queue_worker::{NoRight, QueueWorker, Rights};
pub use request::{CONFIRM_WITHIN_MS, PushError, PushRequest, RequestedContent};

use crate::clock::Clock;
use crate::documents::Cache;
use crate::fleet::Fleet;
use crate::rollout::Rollouts;
use crate::store::{self, Store};

/// Everything about pushes, over one store and one fleet.
#[derive(Debug, Clone)]
pub struct Pushes {
    pub rollouts: Rollouts,
    /// The documents that are compiled, parsed once for each of their states.
    pub documents: Cache,
    pub compiler: Compiler,
    pub pipeline: Pipeline,
    pub planner: Planner,
    pub queue: PushQueue,
    pub history: HistoryReader,
}

/// How a push that may wait went on.
#[derive(Debug)]
pub enum PushOutcome {
    /// It did not have to wait.
    Started(Box<Proposed>, StartedPush),
    Queued(Ticket),
}

impl Pushes {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, fleet: Fleet) -> Self {
        let documents = Cache::new(Arc::clone(&store));
        let rollouts = Rollouts::new(Arc::clone(&store), Arc::clone(&clock), fleet.clone());
        let compiler = Compiler::new(Arc::clone(&store), Arc::clone(&clock), documents.clone());
        let queue = PushQueue::new(Arc::clone(&store), Arc::clone(&clock));
        let pipeline = Pipeline::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            fleet.clone(),
            rollouts.clone(),
            compiler.clone(),
        );
        Self {
            planner: Planner::new(Arc::clone(&store), clock, pipeline.clone()),
            history: HistoryReader::new(store, fleet, compiler.clone()),
            rollouts,
            documents,
            compiler,
            pipeline,
            queue,
        }
    }

    /// Pushes, or waits in the queue while a rollout of the site is under way.
    pub async fn push_or_queue(
        &self,
        request: PushRequest,
        key_hash: &str,
    ) -> Result<PushOutcome, PushError> {
        for _ in 0..store::ATTEMPTS {
            if let Some(ticket) = self.queue.enqueue(&request, key_hash).await? {
                return Ok(PushOutcome::Queued(ticket));
            }
            match self.pipeline.push(request.clone()).await {
                // A rollout has begun since: it waits for that one.
                Err(PushError::Busy { .. } | PushError::Waiting { .. }) => {}
                other => {
                    let (proposed, started) = other?;
                    return Ok(PushOutcome::Started(Box::new(proposed), started));
                }
            }
        }
        Err(PushError::Contended(request.site))
    }
}
