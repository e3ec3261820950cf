//! The one way from a request to a stored generation: propose, check, commit.

mod commit;
mod propose;
mod queue_claim;

use std::sync::Arc;

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::push::{Compiler, PushError, PushRequest};
use crate::rollout::Rollouts;
use crate::store::Store;

pub use self::commit::StartedPush;
pub use self::propose::Proposed;

/// Tries to win against other pushes of the same site: each makes the whole proposal anew.
const TRIES: usize = 5;

#[derive(Debug, Clone)]
pub struct Pipeline {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Fleet,
    pub(super) rollouts: Rollouts,
    pub(super) compiler: Compiler,
}

impl Pipeline {
    pub(super) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        fleet: Fleet,
        rollouts: Rollouts,
        compiler: Compiler,
    ) -> Self {
        Self {
            store,
            clock,
            fleet,
            rollouts,
            compiler,
        }
    }

    /// Proposes a push and commits it. If what the proposal was made of has changed since, the
    /// whole proposal is made anew. A dry run ends before the commit.
    pub async fn push(&self, request: PushRequest) -> Result<(Proposed, StartedPush), PushError> {
        for _ in 0..TRIES {
            if let Some(done) = self.attempt(&request).await? {
                return Ok(done);
            }
        }
        Err(PushError::Contended(request.site))
    }

    /// One try; none: another change was faster.
    pub(super) async fn attempt(
        &self,
        request: &PushRequest,
    ) -> Result<Option<(Proposed, StartedPush)>, PushError> {
        let mut proposed = self.propose(request).await?;
        if request.dry_run {
            let blocked = proposed.blocked().filter(|_| request.rehearse);
            return match blocked {
                Some(blocked) => Err(blocked),
                None => Ok(Some((proposed, StartedPush::Unchanged))),
            };
        }
        let started = self.commit(&mut proposed).await?;
        Ok(started.map(|started| (proposed, started)))
    }
}
