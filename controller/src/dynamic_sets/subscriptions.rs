//! Every site's dynamic sets as they are now, and watches of their changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use voipfleet_compiler::Dropped;
use voipfleet_ruleset::identifiers::{ListName, SiteName};
use voipfleet_ruleset::ruleset::{Digest, DynamicSets};

use super::SetsSnapshot;
use crate::clock::Clock;
use crate::site_inputs::LeftOut;
use crate::store::{Revision, Store};

/// The bytes of older values that are kept of a site: a node that holds one of them is sent the
/// difference.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// And how many of them at most.
const KEPT: usize = 8;

/// The dynamic sets of every site with a subscriber.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop: CancellationToken,
    sites: Mutex<HashMap<SiteName, Site>>,
    /// A site was asked for that was not kept before.
    pub(super) asked: Notify,
    /// The last transaction that the values know of.
    pub(super) computed: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Site {
    now: watch::Sender<Option<Arc<SetsSnapshot>>>,
    /// The values until now, newest first.
    kept: VecDeque<Arc<SetsSnapshot>>,
    left_out: LeftOut,
}

impl Subscriptions {
    /// Over a store. Nothing is computed before [`Subscriptions::follow`] runs.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                stop,
                sites: Mutex::default(),
                asked: Notify::new(),
                computed: watch::channel(0).0,
            }),
        }
    }

    /// A site's dynamic sets, now and whenever they change; none until they were computed.
    pub fn subscribe(&self, site: &SiteName) -> watch::Receiver<Option<Arc<SetsSnapshot>>> {
        let mut sites = self.sites();
        let known = sites.contains_key(site);
        let entry = sites.entry(site.clone()).or_insert_with(|| Site {
            now: watch::channel(None).0,
            kept: VecDeque::new(),
            left_out: LeftOut::new(),
        });
        let receiver = entry.now.subscribe();
        drop(sites);
        if !known {
            self.inner.asked.notify_one();
        }
        receiver
    }

    /// The value of a digest, if it is a site's current one or one that is still kept.
    pub fn find(&self, site: &SiteName, digest: &Digest) -> Option<Arc<SetsSnapshot>> {
        let sites = self.sites();
        let mut kept = sites.get(site)?.kept.iter();
        kept.find(|value| value.digest == *digest).cloned()
    }

    /// What of a fetched list the sites that were asked for do not deny, by whose it is.
    pub fn left_out(&self, list: &ListName) -> BTreeMap<SiteName, Vec<Dropped>> {
        let sites = self.sites();
        let of = |(site, entry): (&SiteName, &Site)| {
            let dropped = entry.left_out.get(list)?.clone();
            Some((site.clone(), dropped))
        };
        sites.iter().filter_map(of).collect()
    }

    /// Replaces what a site's lists lose; returns what it was.
    pub(super) fn leave_out(&self, site: &SiteName, left_out: LeftOut) -> LeftOut {
        let mut sites = self.sites();
        let entry = sites.get_mut(site);
        entry.map_or_else(LeftOut::new, |entry| {
            std::mem::replace(&mut entry.left_out, left_out)
        })
    }

    /// Waits until the values know of a transaction.
    pub async fn caught_up(&self, revision: Revision) {
        let mut computed = self.inner.computed.subscribe();
        // The sender is of this very value: it does not go.
        let _ = computed.wait_for(|known| *known >= revision).await;
    }

    /// The sites with a subscriber.
    pub(super) fn asked_for(&self) -> Vec<SiteName> {
        self.sites().keys().cloned().collect()
    }

    /// Makes `sets` a site's current value. Takes a while for long feeds.
    pub(super) fn publish(&self, sets: DynamicSets) {
        let site = sets.site.clone();
        let before = self.sites().get(&site).map(|entry| entry.kept.clone());
        let value = Arc::new(SetsSnapshot::new(sets, &before.unwrap_or_default()));
        let mut sites = self.sites();
        let Some(entry) = sites.get_mut(&site) else {
            return;
        };
        if entry.now.borrow().as_ref().map(|now| now.digest) == Some(value.digest) {
            return;
        }
        // What was so before and is so again leads to itself no more.
        entry.kept.retain(|old| old.digest != value.digest);
        entry.kept.push_front(Arc::clone(&value));
        let mut bytes = 0;
        let mut count = 0;
        entry.kept.retain(|old| {
            bytes += old.bytes.len();
            count += 1;
            // The current one, and the one that most nodes hold.
            count <= 2 || (count <= KEPT && bytes <= KEPT_BYTES)
        });
        tracing::debug!(%site, digest = %value.digest.short(), "dynamic sets recomputed");
        entry.now.send_replace(Some(value));
    }

    fn sites(&self) -> MutexGuard<'_, HashMap<SiteName, Site>> {
        // Every change under the lock leaves values that are whole: a panic breaks none.
        self.inner
            .sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
