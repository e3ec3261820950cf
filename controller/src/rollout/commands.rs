//! Commands of operators about a rollout that is under way.

use voipfleet_controller_core::rollout::state_machine::CommandRefusal;
use voipfleet_ruleset::identifiers::SiteName;

use super::Rollouts;
use super::persist;
use crate::records::RolloutRecord;
use crate::store::{StoreError, transact_at};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("site {0} has no rollout")]
    None(SiteName),
    /// Its state does not allow it.
    #[error("site {0}")]
    Refused(SiteName, #[source] CommandRefusal),
    /// Others were faster, again and again.
    #[error("the rollout of site {0} was modified concurrently")]
    Contended(SiteName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rollouts {
    /// Released nodes finish, no further node is released.
    pub async fn pause(&self, site: &SiteName, by: &str) -> Result<RolloutRecord, CommandError> {
        self.change(site, |record, _| record.pause(by)).await
    }

    pub async fn resume(&self, site: &SiteName) -> Result<RolloutRecord, CommandError> {
        self.change(site, |record, _| record.resume()).await
    }

    /// Ends it; with `roll_back` nodes go back to what they ran before.
    pub async fn abort(
        &self,
        site: &SiteName,
        by: &str,
        roll_back: bool,
    ) -> Result<RolloutRecord, CommandError> {
        self.change(site, |record, now_ms| {
            let next = record.newest().saturating_add(1);
            record.abort(by, now_ms, roll_back.then_some(next))
        })
        .await
    }

    async fn change(
        &self,
        site: &SiteName,
        change: impl Fn(&mut RolloutRecord, u64) -> Result<(), CommandRefusal>,
    ) -> Result<RolloutRecord, CommandError> {
        let store = self.inner.store.as_ref();
        let what = format!("the rollout of site {site}");
        let changed = transact_at(store, &what, async |mut tx| {
            let Some(read) = self.read(site).await? else {
                return Err(CommandError::None(site.clone()));
            };
            let now = self.inner.clock.monotonic();
            let mut aged = read.record.clone();
            aged.tick(self.inner.timers.peek(site, &read, now));
            let mut next = aged.clone();
            let at_ms = self.inner.clock.now_ms();
            change(&mut next, at_ms)
                .map_err(|refusal| CommandError::Refused(site.clone(), refusal))?;
            if next != aged {
                persist::write(&mut tx, site, &read, &next, at_ms).await?;
            }
            Ok(tx.done((read.record, next, now)))
        });
        let ((before, next, now), revision) = changed.await.map_err(|error| match error {
            CommandError::Store(StoreError::Contended { .. }) => {
                CommandError::Contended(site.clone())
            }
            other => other,
        })?;
        if let Some(revision) = revision {
            persist::committed(&before, &next);
            self.inner.timers.wrote(site, &next, revision, now);
            let (state, reason) = (next.state.as_str(), &next.reason);
            tracing::info!(%site, generation = next.generation, state, reason, "rollout");
        }
        Ok(next)
    }
}
