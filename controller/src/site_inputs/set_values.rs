//! What a site's dynamic sets are made of, out of the store.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_compiler::dynamic_sets::{cluster, needed};
use voipfleet_compiler::{Dropped, NodeInput, Protection};
use voipfleet_policy::Documents;
use voipfleet_ruleset::identifiers::{ListName, SiteName};
use voipfleet_ruleset::ruleset::{DnsName, DynamicSet, DynamicSetName, DynamicSets, Expiring};

use crate::errors::chain;
use crate::limits::MAX_EXCEPTIONS;
use crate::records::{
    self, ExceptionKind, ExceptionRecord, FeedRecord, OpenRecord, ResolvedRecord, SiteScope,
    is_over,
};
use crate::store::{Store, StoreError, keys};

/// Beyond that: of calls at the same moment each may have found room.
const AT_ONCE: usize = 1024;
/// The whole address space, in prefixes that a `hash:net` can hold.
const EVERYBODY: [&str; 4] = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];

/// A site's dynamic sets as of `now_ms`: the sources that the documents
/// need, for nodes with these addresses.
pub async fn read(
    store: &dyn Store,
    site: &SiteName,
    documents: &Documents,
    nodes: &[NodeInput],
    now_ms: u64,
) -> Result<DynamicSets, StoreError> {
    let named = BTreeSet::new();
    // As if they were pushed.
    let served = Some(documents);
    let gathered = gather(store, site, documents, served, nodes, &named, now_ms);
    Ok(gathered.await?.0)
}

/// Entries of fetched lists that a site does not deny because it serves them, by list.
pub(crate) type LeftOut = BTreeMap<ListName, Vec<Dropped>>;

/// The same, with the sources in `named` besides: those that pushed rulesets name. And what of
/// fetched lists is left out, since the site serves it by the documents in `served`; none: it
/// serves nobody yet.
pub(crate) async fn gather(
    store: &dyn Store,
    site: &SiteName,
    documents: &Documents,
    served: Option<&Documents>,
    nodes: &[NodeInput],
    named: &BTreeSet<DynamicSetName>,
    now_ms: u64,
) -> Result<(DynamicSets, LeftOut), StoreError> {
    let mut sets = DynamicSets::new(site.clone());
    let mut feeds = BTreeMap::new();
    // A site without an interface of the cluster, and one that had none at its last push.
    let always = needed(site, documents)
        .into_iter()
        .chain([DynamicSetName::Cluster(None)]);
    for name in always.chain(named.clone()) {
        if sets.sources.contains_key(&name) {
            continue;
        }
        let value = match &name {
            DynamicSetName::Cluster(interface) => cluster(nodes, interface.as_ref()),
            DynamicSetName::Block => {
                exceptions(store, ExceptionKind::Block, site, now_ms, |_| true).await?
            }
            DynamicSetName::BlockForced => {
                exceptions(store, ExceptionKind::Block, site, now_ms, |one| one.forced).await?
            }
            DynamicSetName::Allow => {
                exceptions(store, ExceptionKind::Allow, site, now_ms, |_| true).await?
            }
            DynamicSetName::Open => open(store, site, now_ms).await?,
            DynamicSetName::Name(host) => resolved(store, host).await?,
            DynamicSetName::Feed(list) => {
                let record = feed(store, list).await?;
                // It was fetched before something was opened to it.
                if record.is_wide() {
                    tracing::error!(%site, %list, "fetched list is too wide to open ports to; it opens nothing");
                    DynamicSet::default()
                } else {
                    DynamicSet::new(record.elements(), [])
                }
            }
            DynamicSetName::DenyFeed(list) => {
                let elements = feed(store, list).await?.elements();
                feeds.insert(name, DynamicSet::new(elements, []));
                continue;
            }
        };
        sets.insert(name, value);
    }
    let cleaned = denied(site, served, &sets, feeds).await;
    let left_out = left_out(cleaned.iter().map(|(name, (_, dropped))| (name, dropped)));
    for (name, (value, _)) in cleaned {
        sets.insert(name, value);
    }
    Ok((sets, left_out))
}

/// What a fetched list may deny: nothing of the site's own. Of documents that do not compile
/// nothing is known for certain, and nothing is denied by it.
async fn denied(
    site: &SiteName,
    served: Option<&Documents>,
    known: &DynamicSets,
    feeds: BTreeMap<DynamicSetName, DynamicSet>,
) -> BTreeMap<DynamicSetName, (DynamicSet, Vec<Dropped>)> {
    let nothing = |name| (name, (DynamicSet::default(), Vec::new()));
    if feeds.values().all(DynamicSet::is_empty) {
        return feeds.into_keys().map(nothing).collect();
    }
    let protection = match served {
        Some(documents) => Protection::of_site(site, documents, known),
        None => Ok(Protection::of_nobody()),
    };
    let protection = match protection {
        Ok(protection) => protection,
        Err(error) => {
            tracing::warn!(%site, error = %chain(&error), "documents do not compile; fetched lists deny nothing");
            return feeds.into_keys().map(nothing).collect();
        }
    };
    let cleaning = tokio::task::spawn_blocking(move || {
        feeds
            .into_iter()
            .map(|(name, value)| {
                let cleaned = protection.clean(value.elements);
                (name, (DynamicSet::new(cleaned.nets, []), cleaned.dropped))
            })
            .collect()
    });
    // It is never cancelled, and a panic would be a defect: then nothing is denied.
    cleaning.await.unwrap_or_default()
}

/// What the fetched lists that `documents` deny in a site lose, because the site serves it by
/// these documents.
pub(crate) async fn lost(
    store: &dyn Store,
    site: &SiteName,
    documents: &Documents,
) -> Result<LeftOut, StoreError> {
    let mut known = DynamicSets::new(site.clone());
    let mut feeds = BTreeMap::new();
    for name in needed(site, documents) {
        match &name {
            DynamicSetName::DenyFeed(list) => {
                let elements = feed(store, list).await?.elements();
                feeds.insert(name, DynamicSet::new(elements, []));
            }
            DynamicSetName::Name(host) => {
                let value = resolved(store, host).await?;
                known.insert(name, value);
            }
            _ => {}
        }
    }
    let cleaned = denied(site, Some(documents), &known, feeds).await;
    Ok(left_out(
        cleaned.iter().map(|(name, (_, dropped))| (name, dropped)),
    ))
}

fn left_out<'d>(dropped: impl Iterator<Item = (&'d DynamicSetName, &'d Vec<Dropped>)>) -> LeftOut {
    dropped
        .filter_map(|(name, dropped)| match name {
            DynamicSetName::DenyFeed(list) if !dropped.is_empty() => {
                Some((list.clone(), dropped.clone()))
            }
            _ => None,
        })
        .collect()
}

async fn exceptions(
    store: &dyn Store,
    kind: ExceptionKind,
    site: &SiteName,
    now_ms: u64,
    wanted: fn(&ExceptionRecord) -> bool,
) -> Result<DynamicSet, StoreError> {
    let mut lasting = Vec::new();
    let mut ending = Vec::new();
    for scope in [SiteScope::All, SiteScope::One(site.clone())] {
        let prefix = keys::exceptions(kind, &scope);
        for entry in store.all(&prefix, MAX_EXCEPTIONS + AT_ONCE).await? {
            let record: ExceptionRecord = match records::from_json(&entry.key, &entry.held) {
                Ok(record) => record,
                Err(error) => {
                    // The others count all the same.
                    tracing::error!(error = %chain(&error), "unreadable block or allow skipped");
                    continue;
                }
            };
            match record.end() {
                _ if is_over(record.until, now_ms) || !wanted(&record) => {}
                Some(until) => ending.push(Expiring {
                    net: record.net,
                    until,
                }),
                None => lasting.push(record.net),
            }
        }
    }
    Ok(DynamicSet::new(lasting, ending))
}

async fn open(store: &dyn Store, site: &SiteName, now_ms: u64) -> Result<DynamicSet, StoreError> {
    let read = records::read::<OpenRecord>(store, &keys::open(site)).await?;
    let Some(record) = read.map(|read| read.record) else {
        return Ok(DynamicSet::default());
    };
    if is_over(record.until, now_ms) {
        return Ok(DynamicSet::default());
    }
    let everybody = EVERYBODY.iter().filter_map(|net| net.parse().ok());
    Ok(match record.end() {
        Some(until) => DynamicSet::new([], everybody.map(|net| Expiring { net, until })),
        None => DynamicSet::new(everybody, []),
    })
}

/// The addresses of a name as last heard; none where it never had a good answer.
pub(crate) async fn resolved(store: &dyn Store, host: &DnsName) -> Result<DynamicSet, StoreError> {
    let read = records::read::<ResolvedRecord>(store, &keys::resolved(host)).await?;
    let addresses = read.into_iter().flat_map(|read| read.record.addresses);
    Ok(DynamicSet::new(
        addresses.map(|(address, _)| IpNet::from(address)),
        [],
    ))
}

/// A list's source as last fetched; the default where it never gave anything.
async fn feed(store: &dyn Store, list: &ListName) -> Result<FeedRecord, StoreError> {
    let read = records::read_protobuf(store, &keys::feed(list)).await?;
    Ok(read.unwrap_or_default())
}
