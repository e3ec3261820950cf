//! Staged rollouts: a generation goes to a site's nodes batch by batch, by the controller
//! itself, whoever watches.

mod commands;
mod driver;
mod observation;
mod persist;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use voipfleet_ruleset::identifiers::SiteName;

pub use commands::CommandError;
pub(crate) use observation::{Delivery, is_refusal, judge};
pub(crate) use persist::persist;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::records::{self, Read, RolloutRecord};
use crate::store::{Store, StoreError, each_key, keys};

/// How long after its start a controller waits for the nodes of a rollout that it has taken over:
/// an agent that found nobody dials again within half a minute.
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
    /// Sites that have a driver.
    driven: Mutex<BTreeSet<SiteName>>,
    audit: OnceLock<Audit>,
    /// When this run of the controller began.
    started: Instant,
    started_ms: u64,
}

impl Rollouts {
    /// Rollouts over a store and a fleet. Nothing goes on before [`Rollouts::go_on`].
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, fleet: Fleet) -> Self {
        Self {
            inner: Arc::new(Inner {
                started: Instant::now(),
                started_ms: clock.now_ms(),
                store,
                clock,
                fleet,
                driven: Mutex::default(),
                audit: OnceLock::new(),
            }),
        }
    }

    /// Goes on with what an earlier run of the controller has left, and with every rollout that
    /// comes, until the fleet stops. How they end is written into `audit`.
    pub async fn go_on(&self, audit: Audit) {
        // Only the first run counts: there is one for each controller.
        let _ = self.inner.audit.set(audit);
        let (store, stop) = (self.inner.store.as_ref(), self.inner.fleet.stop_token());
        let drive = |key: &str| self.drive_key(key);
        each_key(store, keys::ALL_ROLLOUTS, &stop, drive).await;
    }

    /// A site's running or last rollout.
    pub async fn read(&self, site: &SiteName) -> Result<Option<Read<RolloutRecord>>, StoreError> {
        records::read(self.inner.store.as_ref(), &keys::rollout(site)).await
    }

    fn drive_key(&self, key: &str) {
        let site = key.strip_prefix(keys::ALL_ROLLOUTS);
        if let Some(site) = site.and_then(|site| site.parse().ok()) {
            self.drive(site);
        }
    }

    /// Makes sure that somebody looks after a site's rollouts.
    fn drive(&self, site: SiteName) {
        let mut driven = self
            .inner
            .driven
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if driven.insert(site.clone()) {
            tokio::spawn(driver::run(self.clone(), site));
        }
    }
}
