//! Changes of a site's cluster: counted, kept for status, and written to the audit log by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use voipfleet_compiler::{Membership, NodeInput};
use voipfleet_policy::Cluster;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use crate::audit::{Audit, Event};
use crate::documents::documents_at;
use crate::records::{self, MembersRecord, PendingMember};
use crate::site_inputs::current;
use crate::store::{Store, StoreError, Txn, keys};

/// Addresses of each kind that a record keeps.
const KEPT: usize = 5000;
/// Addresses that an audit record names.
const NAMED: usize = 8;

/// The cluster that a site's newest generation was made of.
#[derive(Debug, Clone)]
pub(super) struct PushedCluster {
    generation: Generation,
    cluster: Cluster,
}

/// Reads what was pushed, unless it is `known`; none: the site was never pushed, or its documents
/// of then are gone.
pub(super) async fn pushed(
    store: &dyn Store,
    site: &SiteName,
    known: Option<PushedCluster>,
) -> Result<Option<PushedCluster>, StoreError> {
    let Some(newest) = current(store, site).await? else {
        return Ok(None);
    };
    if let Some(known) = known.filter(|known| known.generation == newest.number) {
        return Ok(Some(known));
    }
    let documents = match newest.documents {
        Some(version) => documents_at(store, version).await?,
        None => None,
    };
    let site = documents.and_then(|mut documents| documents.sites.remove(site));
    Ok(site.map(|site| PushedCluster {
        generation: newest.number,
        cluster: site.cluster,
    }))
}

/// Compares the members of a site with those that were known; stores and records what changed.
pub(super) async fn note(
    store: &dyn Store,
    audit: &Audit,
    site: &SiteName,
    pushed: &PushedCluster,
    nodes: &[NodeInput],
) -> Result<(), StoreError> {
    let membership = Membership::of(&pushed.cluster, nodes);
    let key = keys::members(site);
    let before = records::read::<MembersRecord>(store, &key).await?;
    let before = before.map(|read| read.record).unwrap_or_default();
    let pending: BTreeSet<PendingMember> = membership
        .pending
        .iter()
        .take(KEPT)
        .map(|one| PendingMember {
            node: one.node.clone(),
            address: one.address,
            interface: one.interface.clone(),
            reason: one.reason.to_string(),
        })
        .collect();
    let members: BTreeMap<IpAddr, BTreeSet<NodeName>> =
        membership.members.into_iter().take(KEPT).collect();
    let differ = |a: &BTreeMap<IpAddr, BTreeSet<NodeName>>,
                  b: &BTreeMap<IpAddr, BTreeSet<NodeName>>| {
        let gone = a.iter().filter(|(address, _)| !b.contains_key(*address));
        gone.map(|(address, nodes)| (*address, nodes.clone()))
            .collect::<Vec<_>>()
    };
    let added = differ(&members, &before.members);
    let removed = differ(&before.members, &members);
    let news: Vec<PendingMember> = pending.difference(&before.pending).cloned().collect();
    let after = MembersRecord {
        more_pending: membership.pending.len().saturating_sub(KEPT) as u64,
        changes: before.changes + (added.len() + removed.len()) as u64,
        members,
        pending,
    };
    if after == before {
        return Ok(());
    }
    store
        .commit(Txn::new().put(key, records::to_json(&keys::members(site), &after)?))
        .await?;
    if !added.is_empty() || !removed.is_empty() {
        let total = after.members.len();
        let event = changed(site, &added, &removed, total);
        audit
            .note_some(&format!("ClusterChanged/{site}"), event)
            .await;
    }
    for (node, news) in by_node(&news) {
        let event = is_pending(site, node, &news);
        audit
            .note_some(&format!("ClusterPending/{site}"), event)
            .await;
    }
    Ok(())
}

fn changed(
    site: &SiteName,
    added: &[(IpAddr, BTreeSet<NodeName>)],
    removed: &[(IpAddr, BTreeSet<NodeName>)],
    total: usize,
) -> Event {
    let nodes: BTreeSet<&NodeName> = added.iter().chain(removed).flat_map(|(_, n)| n).collect();
    let mut detail = String::new();
    for (verb, all) in [("added", added), ("removed", removed)] {
        if all.is_empty() {
            continue;
        }
        let named = all.iter().take(NAMED).map(|(address, nodes)| {
            let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            format!("{address} ({})", nodes.join(", "))
        });
        let named: Vec<String> = named.collect();
        let _ = write!(detail, "{verb} {}", named.join(", "));
        let more = all.len().saturating_sub(NAMED);
        if more > 0 {
            let _ = write!(detail, " and {more} more");
        }
        detail.push_str("; ");
    }
    let _ = write!(detail, "{total} in all");
    let event = Event::new("ClusterChanged").site(site).detail(detail);
    let objects = nodes.into_iter().map(|node| format!("Node/{site}/{node}"));
    objects.fold(event, Event::object)
}

fn by_node(news: &[PendingMember]) -> BTreeMap<&NodeName, Vec<&PendingMember>> {
    let mut by_node: BTreeMap<&NodeName, Vec<&PendingMember>> = BTreeMap::new();
    for one in news {
        by_node.entry(&one.node).or_default().push(one);
    }
    by_node
}

fn is_pending(site: &SiteName, node: &NodeName, news: &[&PendingMember]) -> Event {
    let named = news.iter().take(NAMED).map(|one| {
        let PendingMember {
            address,
            interface,
            reason,
            ..
        } = one;
        format!("{address} on {interface}: {reason}")
    });
    let mut detail = named.collect::<Vec<_>>().join("; ");
    let more = news.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = write!(detail, "; and {more} more");
    }
    Event::new("ClusterPending")
        .site(site)
        .object(format!("Node/{site}/{node}"))
        .detail(detail)
}
