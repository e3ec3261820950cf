//! What an operator may say of a rollout that goes on.

use voipfleet_controller_core::rollout::state_machine::Refusal;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Rollouts, persist};
use crate::records::RolloutRecord;
use crate::store::StoreError;

/// Tries to win against the rollout itself.
const TRIES: usize = 20;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There never was one.
    #[error("site {0} has no rollout; start one: voipctl push {0}")]
    None(SiteName),
    /// It does not stand so.
    #[error("site {0}")]
    Refused(SiteName, #[source] Refusal),
    /// Others were faster, again and again.
    #[error("the rollout of site {0} moves too fast; try again")]
    Contended(SiteName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rollouts {
    /// Holds it.
    pub async fn pause(&self, site: &SiteName, by: &str) -> Result<RolloutRecord, CommandError> {
        self.change(site, |record, _| record.pause(by)).await
    }

    /// Lets it go on.
    pub async fn resume(&self, site: &SiteName) -> Result<RolloutRecord, CommandError> {
        self.change(site, RolloutRecord::resume).await
    }

    /// Ends it; with `roll_back` what was changed is taken back.
    pub async fn abort(
        &self,
        site: &SiteName,
        by: &str,
        roll_back: bool,
    ) -> Result<RolloutRecord, CommandError> {
        self.change(site, |record, now_ms| {
            let next = record.goal().max(record.generation).saturating_add(1);
            record.abort(by, now_ms, roll_back.then_some(next))
        })
        .await
    }

    async fn change(
        &self,
        site: &SiteName,
        change: impl Fn(&mut RolloutRecord, u64) -> Result<(), Refusal>,
    ) -> Result<RolloutRecord, CommandError> {
        for _ in 0..TRIES {
            let Some(read) = self.read(site).await? else {
                return Err(CommandError::None(site.clone()));
            };
            let mut next = read.record.clone();
            let now_ms = self.inner.clock.now_ms();
            change(&mut next, now_ms)
                .map_err(|refusal| CommandError::Refused(site.clone(), refusal))?;
            if next == read.record {
                return Ok(next);
            }
            if persist(self.inner.store.as_ref(), site, &read, &next, now_ms).await? {
                let state = next.state.as_str();
                tracing::info!(%site, generation = next.generation, state, why = next.why, "rollout");
                return Ok(next);
            }
        }
        Err(CommandError::Contended(site.clone()))
    }
}
