//! What a site's live sets are made of, out of the store.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_common::compile::NodeInput;
use voipfleet_common::names::{ListName, SiteName};
use voipfleet_common::policy::Documents;
use voipfleet_common::ruleset::{DnsName, Expiring, Interface, LiveName, LiveSets, LiveValue};

use crate::errors::chain;
use crate::records::{
    self, ExceptionKind, ExceptionRecord, FeedRecord, OpenRecord, ResolvedRecord, SiteScope,
    is_over,
};
use crate::store::{Store, StoreError, keys};

/// The most addresses that are blocked, or allowed, in one scope.
pub const MAX_EXCEPTIONS: usize = 20_000;
/// Everybody, in prefixes that a `hash:net` can hold.
const EVERYBODY: [&str; 4] = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];

/// A site's live sets as the store says they are at `now_ms`: the sources that the documents
/// need, for nodes with these addresses.
pub async fn read(
    store: &dyn Store,
    site: &SiteName,
    documents: &Documents,
    nodes: &[NodeInput],
    now_ms: u64,
) -> Result<LiveSets, StoreError> {
    gather(store, site, documents, nodes, &BTreeSet::new(), now_ms).await
}

/// The same, with the sources in `named` besides: those that pushed rulesets name.
pub(super) async fn gather(
    store: &dyn Store,
    site: &SiteName,
    documents: &Documents,
    nodes: &[NodeInput],
    named: &BTreeSet<LiveName>,
    now_ms: u64,
) -> Result<LiveSets, StoreError> {
    let mut sets = LiveSets::new(site.clone());
    for name in needed(site, documents).into_iter().chain(named.clone()) {
        if sets.sources.contains_key(&name) {
            continue;
        }
        let value = match &name {
            LiveName::Cluster(interface) => cluster(nodes, interface.as_ref()),
            LiveName::Block => exceptions(store, ExceptionKind::Block, site, now_ms).await?,
            LiveName::Allow => exceptions(store, ExceptionKind::Allow, site, now_ms).await?,
            LiveName::Open => open(store, site, now_ms).await?,
            LiveName::Name(host) => resolved(store, host).await?,
            LiveName::Feed(list) | LiveName::DenyFeed(list) => feed(store, list).await?,
        };
        sets.insert(name, value);
    }
    Ok(sets)
}

/// The sources that a site has whatever its documents say, and those that they name.
fn needed(site: &SiteName, documents: &Documents) -> BTreeSet<LiveName> {
    let document = documents.sites.get(site);
    let interface = document.and_then(|document| document.cluster.interface.clone());
    BTreeSet::from([
        LiveName::Cluster(None),
        LiveName::Cluster(interface),
        LiveName::Block,
        LiveName::Allow,
        LiveName::Open,
    ])
}

fn cluster(nodes: &[NodeInput], interface: Option<&Interface>) -> LiveValue {
    let addresses = nodes
        .iter()
        .flat_map(|node| node.cluster_addresses(interface));
    let addresses = addresses.map(|(_, address): (_, IpAddr)| IpNet::from(address));
    LiveValue::new(addresses, [])
}

async fn exceptions(
    store: &dyn Store,
    kind: ExceptionKind,
    site: &SiteName,
    now_ms: u64,
) -> Result<LiveValue, StoreError> {
    let mut lasting = Vec::new();
    let mut ending = Vec::new();
    for scope in [SiteScope::All, SiteScope::One(site.clone())] {
        let prefix = keys::exceptions(kind, &scope);
        for entry in store.all(&prefix, MAX_EXCEPTIONS).await? {
            let record: ExceptionRecord = match records::from_json(&entry.key, &entry.held) {
                Ok(record) => record,
                Err(error) => {
                    // The others count all the same.
                    tracing::error!(error = %chain(&error), "left out");
                    continue;
                }
            };
            match record.end() {
                _ if is_over(record.until, now_ms) => {}
                Some(until) => ending.push(Expiring {
                    net: record.net,
                    until,
                }),
                None => lasting.push(record.net),
            }
        }
    }
    Ok(LiveValue::new(lasting, ending))
}

async fn open(store: &dyn Store, site: &SiteName, now_ms: u64) -> Result<LiveValue, StoreError> {
    let read = records::read::<OpenRecord>(store, &keys::open(site)).await?;
    let Some(record) = read.map(|read| read.record) else {
        return Ok(LiveValue::default());
    };
    if is_over(record.until, now_ms) {
        return Ok(LiveValue::default());
    }
    let everybody = EVERYBODY.iter().filter_map(|net| net.parse().ok());
    Ok(match record.end() {
        Some(until) => LiveValue::new([], everybody.map(|net| Expiring { net, until })),
        None => LiveValue::new(everybody, []),
    })
}

/// The addresses of a name as last heard; none where it never had a good answer.
pub(crate) async fn resolved(store: &dyn Store, host: &DnsName) -> Result<LiveValue, StoreError> {
    let read = records::read::<ResolvedRecord>(store, &keys::resolved(host)).await?;
    let addresses = read.into_iter().flat_map(|read| read.record.addresses);
    Ok(LiveValue::new(
        addresses.map(|(address, _)| IpNet::from(address)),
        [],
    ))
}

/// The entries of a list's source as last fetched; none where it never gave any.
async fn feed(store: &dyn Store, list: &ListName) -> Result<LiveValue, StoreError> {
    let key = keys::feed(list);
    let Some(held) = store.get(&key).await? else {
        return Ok(LiveValue::default());
    };
    let record: FeedRecord = records::from_protobuf(&key, &held)?;
    Ok(LiveValue::new(record.elements(), []))
}
