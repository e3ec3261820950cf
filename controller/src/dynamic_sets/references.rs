//! Which names and feeds are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use voipfleet_compiler::dynamic_sets::needed;
use voipfleet_policy::{AddressWord, Documents, Feed};
use voipfleet_ruleset::identifiers::{ListName, SiteName};
use voipfleet_ruleset::ruleset::dynamic_sets::{DnsName, DynamicSetName};

use crate::documents::Stored;
use crate::errors::chain;
use crate::records;
use crate::site_inputs::Present;
use crate::store::{Pages, Store, StoreError, keys};

/// The wait after a failure of the store.
const AGAIN: Duration = Duration::from_secs(5);
/// Generations that are read at once.
const PAGE: usize = 256;

/// What documents and pushed generations use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// DNS names.
    pub names: BTreeSet<DnsName>,
    /// Lists that are fetched.
    pub feeds: BTreeMap<ListName, Feed>,
    /// Lists that a generation names: a node may run it, or go back to it, long after no
    /// document says where they come from.
    pub kept: BTreeSet<ListName>,
    /// Lists to which a site opens something, by its document or by a generation.
    pub opened: BTreeSet<ListName>,
}

/// What is needed of a generation here.
#[derive(Deserialize)]
struct Named {
    dynamic: BTreeSet<DynamicSetName>,
}

impl Used {
    /// What `documents` use: of every tenant, provider and list, whether a site has it yet or
    /// not, so that the first push has addresses already.
    pub fn by(documents: &Documents) -> Self {
        let tenants = documents.tenants.values();
        let tenants = tenants.flat_map(|tenant| tenant.names.values().flatten());
        let providers = documents.providers.values();
        let providers = providers.flat_map(|provider| {
            provider
                .signalling_names
                .iter()
                .chain(&provider.media_names)
        });
        let lists = documents.lists.iter();
        let feeds = lists.filter_map(|(name, list)| Some((name.clone(), list.feed.clone()?)));
        let sites = documents.sites.values();
        let words = sites.flat_map(|site| site.admins.iter().chain(site.openings()));
        let opened = words.filter_map(|word| match word {
            AddressWord::List(list) => Some(list.clone()),
            _ => None,
        });
        Self {
            names: tenants.chain(providers).cloned().collect(),
            feeds: feeds.collect(),
            kept: BTreeSet::new(),
            opened: opened.collect(),
        }
    }

    fn add(&mut self, named: Named) {
        for source in named.dynamic {
            match source {
                DynamicSetName::Name(name) => _ = self.names.insert(name),
                DynamicSetName::DenyFeed(list) => _ = self.kept.insert(list),
                DynamicSetName::Feed(list) => {
                    self.opened.insert(list.clone());
                    self.kept.insert(list);
                }
                _ => {}
            }
        }
    }
}

/// Reads documents and generations again whenever they change, until the controller stops. Nothing is sent
/// before they were read once.
pub(super) async fn follow(
    store: Arc<dyn Store>,
    out: watch::Sender<Option<Arc<Used>>>,
    stop: CancellationToken,
) {
    // Before anything is read: what changes meanwhile is read again.
    let documents = store.watch_from_now(keys::DOCUMENTS).await;
    // A push that changes no ruleset agrees to newer documents all the same.
    let generations = store.watch_from_now(keys::ALL_GENERATIONS).await;
    let rollouts = store.watch_from_now(keys::ALL_OUTCOMES).await;
    let mut changes = documents
        .merge(store.watch_from_now(keys::ALL_CURRENT).await)
        .merge(generations)
        .merge(rollouts);
    loop {
        let read = read(store.as_ref()).await;
        let failed = read.is_err();
        match read {
            Ok(used) => _ = out.send_if_modified(|old| change(old, used)),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "cannot read which names and lists are in use");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // One that was missed is a change as well.
            change = changes.next() => if change.is_none() { return },
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

/// Fetched lists whose source was changed in the documents and not pushed yet: what nodes hold goes
/// on coming from where the last push said. A site that has confirmed the new source decides for
/// all.
async fn pushed_feeds(
    store: &dyn Store,
    present: &Present,
) -> Result<BTreeMap<ListName, Feed>, StoreError> {
    let mut pushed = BTreeMap::new();
    let mut agreed = BTreeSet::new();
    // States of the documents that several sites share are read once.
    let mut read = Vec::new();
    let mut pages = Pages::new(store, keys::ALL_CURRENT, PAGE);
    while let Some(page) = pages.next().await? {
        let sites = page.iter().filter_map(|entry| {
            let site = entry.key.strip_prefix(keys::ALL_CURRENT)?;
            site.parse::<SiteName>().ok()
        });
        for site in sites {
            let Some(served) = present.confirmed(store, &site).await? else {
                continue;
            };
            for name in needed(&site, &served) {
                let (DynamicSetName::Feed(list) | DynamicSetName::DenyFeed(list)) = name else {
                    continue;
                };
                let feed = |documents: &Documents| documents.lists.get(&list)?.feed.clone();
                let confirmed = feed(&served);
                if confirmed == feed(&present.documents) {
                    agreed.insert(list);
                } else if let Some(confirmed) = confirmed {
                    pushed.insert(list, confirmed);
                }
            }
            read.push(served);
        }
    }
    pushed.retain(|list, _| !agreed.contains(list));
    Ok(pushed)
}

fn change(old: &mut Option<Arc<Used>>, new: Used) -> bool {
    let changed = old.as_deref() != Some(&new);
    if changed {
        *old = Some(Arc::new(new));
    }
    changed
}

async fn read(store: &dyn Store) -> Result<Used, StoreError> {
    let present = Present::from(Stored::read(store).await?);
    let mut used = Used::by(&present.documents);
    used.feeds.extend(pushed_feeds(store, &present).await?);
    let mut after: Option<String> = None;
    loop {
        let page = store.range(keys::ALL_GENERATIONS, after.as_deref(), PAGE);
        let page = page.await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        for entry in page.entries {
            used.add(records::load(store, &entry).await?);
        }
        if !page.more {
            return Ok(used);
        }
    }
}
