//! Addresses of DNS names, and the state of fetched lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use std::time::Duration;
use tonic::Status;
use voipfleet_policy::{Documents, Kind, Provider};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{
    FeedLeftOut, FeedReport, FetchFeedRequest, FetchFeedResponse, ListDynamicSetsResponse,
    ResolvedAddress, ResolvedName,
};
use voipfleet_protocol::identity::rights::Visibility;
use voipfleet_ruleset::identifiers::ListName;
use voipfleet_ruleset::ruleset::DnsName;

use super::fields::parse;
use super::{Caller, failed};
use crate::documents::Stored;
use crate::dynamic_sets::Sources;
use crate::fleet::Fleet;
use crate::records::{self, FeedRecord, ResolvedRecord};
use crate::store::{Pages, Store, keys};

/// Records of names that are read at once.
const NAMES: usize = 1000;
/// Records of feeds that are read at once: each may be some MiB.
const FEEDS: usize = 16;

/// DNS names and fetched lists.
#[derive(Debug, Clone)]
pub(super) struct SourcesApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) fleet: Fleet,
    pub(super) sources: Sources,
}

impl SourcesApi {
    /// The names and lists that documents have, or had until lately, as far as the caller sees
    /// their users.
    pub(super) async fn list_dynamic_sets(
        &self,
        caller: &Caller,
    ) -> Result<ListDynamicSetsResponse, Status> {
        let sight = &caller.sight;
        let stored = Stored::read(self.store.as_ref()).await.map_err(failed)?;
        let documents = stored.documents;
        let mut users = users(&documents, sight);
        let mut names = BTreeMap::new();
        let mut pages = Pages::new(self.store.as_ref(), keys::ALL_RESOLVED, NAMES);
        while let Some(page) = pages.next().await.map_err(failed)? {
            for entry in page {
                let record: ResolvedRecord =
                    records::from_json(&entry.key, &entry.held).map_err(failed)?;
                let name = entry.key.strip_prefix(keys::ALL_RESOLVED);
                if let Some(name) = name.and_then(|name| name.parse::<DnsName>().ok()) {
                    let used_by = users.remove(&name).unwrap_or_default();
                    if used_by.is_empty() && !sight.is_all() {
                        continue;
                    }
                    names.insert(name.clone(), resolved_name(&name, record, used_by));
                }
            }
        }
        // Those that are not resolved yet.
        for (name, used_by) in users {
            let report = resolved_name(&name, ResolvedRecord::default(), used_by);
            names.insert(name, report);
        }

        let mut feeds = BTreeMap::new();
        for list in documents.lists.values().filter(|list| list.feed.is_some()) {
            let report = feed_report(&list.name, FeedRecord::default(), &documents);
            feeds.insert(list.name.clone(), report);
        }
        let mut pages = Pages::new(self.store.as_ref(), keys::ALL_FEEDS, FEEDS);
        while let Some(page) = pages.next().await.map_err(failed)? {
            for entry in page {
                let record = records::load_protobuf(self.store.as_ref(), &entry).await;
                let record = record.map_err(failed)?;
                let list = entry.key.strip_prefix(keys::ALL_FEEDS);
                if let Some(list) = list.and_then(|list| list.parse::<ListName>().ok()) {
                    let report = feed_report(&list, record, &documents);
                    feeds.insert(list, report);
                }
            }
        }
        feeds.retain(|list, _| sight.document(Kind::List, list.as_str()));
        for (list, report) in &mut feeds {
            report.left_out = self.left_out(list, sight);
        }
        Ok(ListDynamicSetsResponse {
            names: names.into_values().collect(),
            feeds: feeds.into_values().collect(),
        })
    }

    /// Asks the source of a list now.
    pub(super) async fn fetch_feed(
        &self,
        caller: &Caller,
        request: &FetchFeedRequest,
    ) -> Result<FetchFeedResponse, Status> {
        let list: ListName = parse(&request.list)?;
        let stored = Stored::read(self.store.as_ref()).await.map_err(failed)?;
        let documents = stored.documents;
        let fetched = documents.lists.get(&list).map(|list| list.feed.is_some());
        match fetched {
            None => {
                let message = format!("there is no list {list}");
                return Err(Refusal::new(Reason::UnknownList, message)
                    .hint("list the fetched lists: voipctl feeds")
                    .fact("list", list)
                    .into());
            }
            Some(false) => {
                let message = format!(
                    "list {list} is not fetched: its document has neither `url` nor `refresh`"
                );
                return Err(Refusal::new(Reason::ListNotFetched, message)
                    .fact("list", list)
                    .into());
            }
            Some(true) => {}
        }
        let record = self
            .sources
            .fetch(list.clone(), request.accept_shrunk)
            .await;
        if request.accept_shrunk {
            caller.detail("as short as it may be");
        }
        let record = record.ok_or_else(|| {
            let message = format!("list {list} is not being fetched yet");
            Status::from(
                Refusal::new(Reason::NotReady, message).retry_after(Duration::from_secs(5)),
            )
        })?;
        let mut report = feed_report(&list, record, &documents);
        report.left_out = self.left_out(&list, &caller.sight);
        Ok(FetchFeedResponse { feed: Some(report) })
    }

    /// Entries of a list that are not denied, in sites that the caller sees completely.
    fn left_out(&self, list: &ListName, sight: &Visibility) -> Vec<FeedLeftOut> {
        let sites = self.fleet.dynamic_sets().left_out(list);
        let seen = sites.into_iter().filter(|(site, _)| sight.whole_site(site));
        seen.flat_map(|(site, dropped)| {
            dropped.into_iter().map(move |one| FeedLeftOut {
                site: site.to_string(),
                whose: one.class.to_string(),
                entries: one.entries as u64,
                examples: one.examples.iter().map(ToString::to_string).collect(),
            })
        })
        .collect()
    }
}

/// The visible users of each name.
fn users(documents: &Documents, sight: &Visibility) -> BTreeMap<DnsName, BTreeSet<String>> {
    let mut users: BTreeMap<DnsName, BTreeSet<String>> = BTreeMap::new();
    let mut add = |name: &DnsName, user: String| {
        users.entry(name.clone()).or_default().insert(user);
    };
    let tenants = documents.tenants.values();
    for tenant in tenants.filter(|tenant| sight.tenant(&tenant.name)) {
        for name in tenant.names.values().flatten() {
            add(name, format!("tenant {}", tenant.name));
        }
    }
    let seen = |provider: &&Provider| sight.document(Kind::Provider, provider.name.as_str());
    for provider in documents.providers.values().filter(seen) {
        for name in provider
            .signalling_names
            .iter()
            .chain(&provider.media_names)
        {
            add(name, format!("provider {}", provider.name));
        }
    }
    users
}

fn resolved_name(
    name: &DnsName,
    record: ResolvedRecord,
    used_by: BTreeSet<String>,
) -> ResolvedName {
    let addresses = record.addresses.into_iter();
    ResolvedName {
        name: name.to_string(),
        addresses: addresses
            .map(|(address, seen)| ResolvedAddress {
                address: address.to_string(),
                first_ms: seen.first_ms,
                last_ms: seen.last_ms,
                missing_since_ms: seen.missing_since_ms.unwrap_or_default(),
            })
            .collect(),
        resolved_ms: record.resolved_ms,
        failing_since_ms: record.failing_since_ms.unwrap_or_default(),
        error: record.error,
        refused: record.refused.iter().map(ToString::to_string).collect(),
        beyond: record.beyond,
        unused_since_ms: record.unused_since_ms.unwrap_or_default(),
        used_by: used_by.into_iter().collect(),
        asked_since_ms: record.asked_since_ms.unwrap_or_default(),
    }
}

fn feed_report(list: &ListName, record: FeedRecord, documents: &Documents) -> FeedReport {
    let feed = documents
        .lists
        .get(list)
        .and_then(|list| list.feed.as_ref());
    let entries = record.len() as u64;
    let source = feed.map(|feed| feed.source.to_string()).unwrap_or_default();
    let fetched_from = if record.source == source {
        String::new()
    } else {
        record.source
    };
    let dropped = record.dropped.unwrap_or_default();
    FeedReport {
        list: list.to_string(),
        source,
        entries,
        fetched_ms: record.fetched_ms,
        checked_ms: record.checked_ms,
        refresh_ms: feed.map(|feed| feed.refresh_ms).unwrap_or_default(),
        failing_since_ms: record.failing_since_ms,
        error: record.error,
        shrunk_to: record.shrunk_to,
        not_addresses: dropped.not_addresses,
        samples: dropped.samples,
        private: dropped.private,
        bogon: dropped.bogon,
        too_wide: dropped.too_wide,
        twice: dropped.twice,
        unused_since_ms: record.unused_since_ms,
        left_out: Vec::new(),
        fetched_from,
    }
}
