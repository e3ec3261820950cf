//! The task that recomputes dynamic sets when the store changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use voipfleet_policy::Documents;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::DynamicSetName;

use super::members::{self, PushedCluster};
use super::{Subscriptions, exemption_log, expiry};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::documents::Stored;
use crate::errors::chain;
use crate::records::{self, GenerationRecord, StatusRecord};
use crate::site_inputs::{self, Present, Reported, SiteNode, Targets, counts_until};
use crate::store::{Change, Revision, Store, StoreError, Versioned, WatchError, keys};

/// How long after a failure of the store it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What must be computed anew.
#[derive(Debug, Default)]
struct Stale {
    documents: bool,
    every_site: bool,
    sites: BTreeSet<SiteName>,
    /// Something may end earlier than was thought.
    ends: bool,
}

struct Follower<'l> {
    dynamic: &'l Subscriptions,
    audit: &'l Audit,
    present: Present,
    /// By what was pushed and confirmed last; none: nothing.
    served: HashMap<SiteName, Option<Arc<Documents>>>,
    /// Of computed sites, what their nodes report: most status reports change none of it.
    nodes: HashMap<SiteName, HashMap<String, Reported>>,
    /// Of computed sites, the cluster that was pushed.
    clusters: HashMap<SiteName, PushedCluster>,
    /// When an address that a node lost counts no longer, Unix time.
    lost: HashMap<SiteName, u64>,
    stale: Stale,
    /// The keys of what was over at the last look.
    over: BTreeSet<String>,
    heard: Revision,
}

impl Subscriptions {
    /// Follows the store until the controller stops. Changes of clusters, and what fetched lists lose
    /// to those whom a site serves, are written to `audit`.
    pub async fn follow(&self, audit: &Audit) {
        // Before anything is read: what changes meanwhile is read again.
        let mut changes = self.inner.store.watch_from_now("").await;
        let mut follower = Follower {
            dynamic: self,
            audit,
            present: Present::default(),
            served: HashMap::new(),
            nodes: HashMap::new(),
            clusters: HashMap::new(),
            lost: HashMap::new(),
            stale: Stale {
                documents: true,
                ends: true,
                ..Stale::default()
            },
            over: BTreeSet::new(),
            heard: 0,
        };
        let mut look = Instant::now();
        loop {
            let whole = follower.refresh().await;
            if whole {
                self.inner.computed.send_replace(follower.heard);
            }
            if std::mem::take(&mut follower.stale.ends) || look <= Instant::now() {
                look = Instant::now() + follower.sweep().await;
                if follower.stale.every_site {
                    continue;
                }
            }
            let next = if whole {
                look
            } else {
                look.min(Instant::now() + AGAIN)
            };
            let lost = follower.until_lost();
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { return };
                    follower.hear(change);
                }
                () = self.inner.asked.notified() => {}
                () = tokio::time::sleep_until(next) => {}
                () = sleep(self.inner.clock.as_ref(), lost) => {}
                () = self.inner.stop.cancelled() => return,
            }
            // Changes that came at the same time are computed once, and before a site that was
            // just asked for.
            while let Some(Some(change)) = changes.next().now_or_never() {
                follower.hear(change);
            }
        }
    }
}

impl Follower<'_> {
    /// Looks at what has ended; returns the time until the next look.
    async fn sweep(&mut self) -> Duration {
        let inner = &self.dynamic.inner;
        match expiry::sweep(inner.store.as_ref(), inner.clock.now_ms()).await {
            Ok(swept) => {
                let over = std::mem::replace(&mut self.over, swept.over);
                for key in self.over.difference(&over) {
                    tracing::info!(key, "expired");
                }
                // Also where a clock was set back and something is not over any more.
                self.stale.every_site |= self.over != over;
                // Not in the second before the end, again and again.
                swept.wait.max(AGAIN)
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "ended records not looked at; will retry");
                AGAIN
            }
        }
    }

    fn hear(&mut self, change: Result<Change, WatchError>) {
        let Ok(change) = change else {
            self.served.clear();
            self.stale.documents = true;
            self.stale.ends = true;
            return;
        };
        self.heard = change.revision;
        if change.key == keys::DOCUMENTS {
            self.stale.documents = true;
            return;
        }
        let mut parts = change.key.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("block" | "allow"), Some(scope), _) => {
                self.stale.ends = true;
                match scope.parse() {
                    Ok(records::SiteScope::One(site)) => _ = self.stale.sites.insert(site),
                    _ => self.stale.every_site = true,
                }
            }
            (Some("open"), Some(site), _) => {
                self.stale.ends = true;
                self.stale.sites.extend(site.parse::<SiteName>());
            }
            (Some("node" | "current"), Some(site), _) => {
                self.stale.sites.extend(site.parse::<SiteName>());
            }
            // A rollout ended, or a push that changes no ruleset agreed to newer documents.
            (Some("outcome" | "gen"), Some(site), _) => {
                if let Ok(site) = site.parse::<SiteName>() {
                    self.served.remove(&site);
                    self.stale.sites.insert(site);
                }
            }
            (Some("status"), Some(site), Some(node)) => {
                if let Ok(site) = site.parse()
                    && self.moved(&site, node, &change)
                {
                    self.stale.sites.insert(site);
                }
            }
            (Some("resolved" | "feed"), ..) => self.stale.every_site = true,
            _ => {}
        }
    }

    /// The time until an address that a node lost counts no longer; none: there is no such one.
    fn until_lost(&self) -> Option<Duration> {
        let next = self.lost.values().min()?;
        Some(Duration::from_millis(next.saturating_sub(self.now_ms())))
    }

    fn now_ms(&self) -> u64 {
        self.dynamic.inner.clock.now_ms()
    }

    /// Whether a node reports something else than what was last used.
    fn moved(&self, site: &SiteName, node: &str, change: &Change) -> bool {
        let known = self.nodes.get(site).and_then(|nodes| nodes.get(node));
        let said = change.value.as_ref().and_then(|value| {
            let held = Versioned {
                revision: change.revision,
                value: value.to_vec(),
            };
            let record: StatusRecord = records::from_protobuf(&change.key, &held).ok()?;
            Some(Reported::of(&record))
        });
        known != said.as_ref()
    }

    /// Computes what is stale; false: some of it could not be.
    async fn refresh(&mut self) -> bool {
        if self.stale.documents {
            match Stored::read(self.dynamic.inner.store.as_ref()).await {
                Ok(stored) => {
                    self.present.replace(stored);
                    self.stale.documents = false;
                    self.stale.every_site = true;
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "dynamic sets not recomputed; will retry");
                    return false;
                }
            }
        }
        let now_ms = self.now_ms();
        let over = self.lost.extract_if(|_, at_ms| *at_ms <= now_ms);
        let over: Vec<SiteName> = over.map(|(site, _)| site).collect();
        self.stale.sites.extend(over);
        let every = std::mem::take(&mut self.stale.every_site);
        let sites = std::mem::take(&mut self.stale.sites);
        for site in self.dynamic.asked_for() {
            if !every && !sites.contains(&site) && self.nodes.contains_key(&site) {
                continue;
            }
            if let Err(error) = self.compute(&site).await {
                tracing::error!(%site, error = %chain(&error), "dynamic sets not recomputed; will retry");
                self.stale.sites.insert(site);
            }
        }
        self.stale.sites.is_empty()
    }

    async fn compute(&mut self, site: &SiteName) -> Result<(), StoreError> {
        let inner = &self.dynamic.inner;
        let store = inner.store.as_ref();
        let nodes = site_inputs::nodes(store, site).await?;
        let named = named(store, site, &nodes).await?;
        let now_ms = inner.clock.now_ms();
        let reported = nodes
            .iter()
            .map(|(name, node)| (name.to_string(), node.reported()));
        let reported = reported.collect();
        let ends = nodes.values().flat_map(|node| &node.lost);
        let ends = ends.map(|(_, lost_ms)| counts_until(*lost_ms));
        let next_end = ends.filter(|end| *end > now_ms).min();
        let nodes = site_inputs::inputs(&nodes, now_ms);
        let served = if let Some(served) = self.served.get(site) {
            served.clone()
        } else {
            let served = self.present.confirmed(store, site).await?;
            self.served.insert(site.clone(), served.clone());
            served
        };
        let documents = &self.present.documents;
        let served = served.as_deref();
        let gathered = site_inputs::gather(store, site, documents, served, &nodes, &named, now_ms);
        let (sets, left_out) = gathered.await?;
        let dynamic = self.dynamic.clone();
        tokio::task::spawn_blocking(move || dynamic.publish(sets))
            .await
            .map_err(|_| StoreError::Closed)?;
        let before = self.dynamic.leave_out(site, left_out.clone());
        // What was so when the controller started was recorded when it became so.
        if self.nodes.contains_key(site) {
            for (list, event) in exemption_log::events(site, &before, &left_out) {
                let about = format!("{site}/{list}");
                self.audit.note_some(&about, event).await;
            }
        }
        self.nodes.insert(site.clone(), reported);
        match next_end {
            Some(end) => _ = self.lost.insert(site.clone(), end),
            None => _ = self.lost.remove(site),
        }
        let known = self.clusters.remove(site);
        if let Some(pushed) = members::pushed(store, site, known).await? {
            members::note(store, self.audit, site, &pushed, &nodes).await?;
            self.clusters.insert(site.clone(), pushed);
        }
        Ok(())
    }
}

/// Sleeps for so long; none: forever.
async fn sleep(clock: &dyn Clock, time: Option<Duration>) {
    match time {
        Some(time) => {
            clock
                .sleep_until(clock.monotonic().saturating_add(time))
                .await;
        }
        None => std::future::pending().await,
    }
}

/// The dynamic sets that rulesets name which nodes should run, or run still.
async fn named(
    store: &dyn Store,
    site: &SiteName,
    nodes: &BTreeMap<NodeName, SiteNode>,
) -> Result<BTreeSet<DynamicSetName>, StoreError> {
    let targets = Targets::read(store, site).await?;
    let mut named = targets.as_ref().map(Targets::dynamic).unwrap_or_default();
    let confirmed = nodes.values().filter_map(|node| node.confirmed);
    let numbers: BTreeSet<Generation> = confirmed.map(|held| held.generation).collect();
    for number in numbers {
        let key = keys::generation(site, number);
        if let Some(read) = records::read::<GenerationRecord>(store, &key).await? {
            named.extend(read.record.dynamic);
        }
    }
    Ok(named)
}
