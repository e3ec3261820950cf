//! Staged rollouts: the controller brings a generation to a site's nodes batch by batch, whether
//! or not an operator watches.

mod commands;
mod driver;
mod observation;
mod persist;
mod timers;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use voipfleet_ruleset::identifiers::SiteName;

pub use commands::CommandError;
pub(crate) use observation::{Delivery, absent, is_refusal, judge};

use self::driver::SiteRollouts;
#[cfg(test)]
pub(crate) use self::persist::persist;
use self::timers::Timers;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::records::{self, Read, RolloutRecord};
use crate::site_tasks;
use crate::store::{Store, StoreError, keys};

/// How long after its start a controller waits for the nodes of a rollout that it has taken over:
/// an agent without a controller dials again within half a minute.
const RETURN: Duration = Duration::from_secs(40);

/// The rollouts of all sites.
#[derive(Debug, Clone)]
pub struct Rollouts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    fleet: Fleet,
    audit: OnceLock<Audit>,
    /// When this run of the controller began.
    started: Instant,
    timers: Timers,
}

impl Rollouts {
    /// Nothing moves before [`Rollouts::run`].
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, fleet: Fleet) -> Self {
        Self {
            inner: Arc::new(Inner {
                started: Instant::now(),
                store,
                clock,
                fleet,
                audit: OnceLock::new(),
                timers: Timers::default(),
            }),
        }
    }

    /// Continues what an earlier run of the controller has left, and drives every rollout that
    /// comes, until the fleet stops. How they end is written into `audit`.
    pub async fn run(&self, audit: Audit) {
        // Only the first run counts: there is one for each controller.
        let _ = self.inner.audit.set(audit);
        let (store, clock) = (self.inner.store.as_ref(), &self.inner.clock);
        let stop = self.inner.fleet.stop_token();
        let task = |site| SiteRollouts::new(self.clone(), site);
        site_tasks::run_all(store, keys::ALL_ROLLOUTS, clock, &stop, task).await;
    }

    /// A site's running or last rollout.
    pub async fn read(&self, site: &SiteName) -> Result<Option<Read<RolloutRecord>>, StoreError> {
        records::read(self.inner.store.as_ref(), &keys::rollout(site)).await
    }

    /// A rollout of this number is about to be stored by this run of the controller.
    pub(crate) fn started(&self, site: &SiteName, number: u64) {
        self.inner.timers.started(site, number);
    }
}
