//! A site's enrolled nodes, as the store knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use voipfleet_compiler::plan::{Listener, Missing};
use voipfleet_compiler::{InterfaceAddress, NodeInput, Standing};
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::NodeState;
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Digest, Family, Protocol};

use super::targets::current;
use crate::limits::MAX_NODES_PER_SITE;
use crate::records::{self, GenerationRecord, NodeRecord, StatusRecord};
use crate::store::{Store, StoreError, keys};

/// For how long an address counts that a member no longer reports: a floating address moves to
/// another node, and whichever node says so first, it is never gone in between.
pub(crate) const LOST_GRACE: Duration = Duration::from_mins(1);

/// A node of the site.
#[derive(Debug, Clone)]
pub struct SiteNode {
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Its addresses, as it last reported them.
    pub addresses: Vec<InterfaceAddress>,
    /// Those that it reported before, with the moment when they were gone, Unix time.
    pub lost: Vec<(InterfaceAddress, u64)>,
    /// When it enrolled, Unix time.
    pub enrolled_ms: u64,
    /// What it last reported as confirmed.
    pub confirmed: Option<Held>,
    /// What listens on it, as it last reported.
    pub listeners: Vec<Listener>,
    /// What its kernel lacks, as it last reported.
    pub missing_features: Vec<Missing>,
    /// The generation that it refused, or went back from.
    pub refused: Option<Generation>,
    /// Whether its addresses may be members'.
    pub standing: Standing,
}

/// What of a node's status others depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    addresses: Vec<InterfaceAddress>,
    lost: Vec<(InterfaceAddress, u64)>,
    confirmed: Option<Held>,
    /// The generation that it refused, or went back from.
    refused: Option<Generation>,
}

impl Reported {
    pub(crate) fn of(record: &StatusRecord) -> Self {
        let facts = record.facts.as_ref();
        let lost = record.lost.iter().filter_map(|lost| {
            let address = read_addresses(lost.address.as_slice()).pop()?;
            Some((address, lost.lost_ms))
        });
        let status = record.status.as_ref();
        let refused = status.filter(|status| {
            let state = status.state();
            matches!(
                state,
                NodeState::Rejected | NodeState::Failed | NodeState::RolledBack
            )
        });
        Self {
            addresses: facts
                .map(|facts| read_addresses(&facts.addresses))
                .unwrap_or_default(),
            lost: lost.collect(),
            confirmed: status
                .and_then(|status| held(status.confirmed_generation, &status.confirmed_digest)),
            refused: refused.map(|status| status.generation),
        }
    }
}

impl SiteNode {
    pub(crate) fn reported(&self) -> Reported {
        Reported {
            addresses: self.addresses.clone(),
            lost: self.lost.clone(),
            confirmed: self.confirmed,
            refused: self.refused,
        }
    }
}

/// A site's nodes as the compiler sees them at `now_ms`.
pub(crate) fn inputs(nodes: &BTreeMap<NodeName, SiteNode>, now_ms: u64) -> Vec<NodeInput> {
    nodes
        .iter()
        .map(|(name, node)| NodeInput {
            name: name.clone(),
            roles: node.roles.clone(),
            addresses: node.addresses.clone(),
            lost: node
                .lost
                .iter()
                .filter(|(_, lost_ms)| now_ms < counts_until(*lost_ms))
                .map(|(address, _)| address.clone())
                .collect(),
            standing: node.standing,
        })
        .collect()
}

/// Until when an address counts that was gone at `lost_ms`, Unix time.
pub(crate) fn counts_until(lost_ms: u64) -> u64 {
    lost_ms.saturating_add(u64::try_from(LOST_GRACE.as_millis()).unwrap_or(u64::MAX))
}

/// A site's nodes.
pub(crate) async fn nodes(
    store: &dyn Store,
    site: &SiteName,
) -> Result<BTreeMap<NodeName, SiteNode>, StoreError> {
    let mut nodes = BTreeMap::new();
    for entry in store.all(&keys::nodes(site), MAX_NODES_PER_SITE).await? {
        let record: NodeRecord = records::from_json(&entry.key, &entry.held)?;
        if let Some(name) = name(&entry.key) {
            let node = SiteNode {
                roles: record.roles,
                addresses: Vec::new(),
                lost: Vec::new(),
                enrolled_ms: record.enrolled_ms,
                confirmed: None,
                listeners: Vec::new(),
                missing_features: Vec::new(),
                refused: None,
                standing: Standing::NotPushed,
            };
            nodes.insert(name, node);
        }
    }
    for entry in store.all(&keys::statuses(site), MAX_NODES_PER_SITE).await? {
        let record: StatusRecord = records::from_protobuf(&entry.key, &entry.held)?;
        if let Some(node) = name(&entry.key).and_then(|name| nodes.get_mut(&name)) {
            if let Some(facts) = &record.facts {
                node.listeners = facts.sockets.iter().filter_map(read_listener).collect();
                let missing = facts.missing_features.iter();
                node.missing_features = missing.filter_map(read_missing).collect();
            }
            let reported = Reported::of(&record);
            node.addresses = reported.addresses;
            node.lost = reported.lost;
            node.confirmed = reported.confirmed;
            node.refused = reported.refused;
        }
    }
    let mut pushed = Pushed::read(store, site).await?;
    for (name, node) in &mut nodes {
        node.standing = pushed.standing(store, name, node).await?;
    }
    Ok(nodes)
}

/// What operators pushed to a site: it decides whose addresses count. A node's own word about it
/// does not.
struct Pushed<'s> {
    site: &'s SiteName,
    newest: Option<Arc<GenerationRecord>>,
    /// Generations that nodes say they have confirmed.
    others: BTreeMap<Generation, Option<Arc<GenerationRecord>>>,
}

impl<'s> Pushed<'s> {
    async fn read(store: &dyn Store, site: &'s SiteName) -> Result<Self, StoreError> {
        let newest = current(store, site).await?.map(Arc::new);
        let others = newest
            .iter()
            .map(|newest| (newest.number, Some(Arc::clone(newest))));
        Ok(Self {
            site,
            others: others.collect(),
            newest,
        })
    }

    async fn standing(
        &mut self,
        store: &dyn Store,
        name: &NodeName,
        node: &SiteNode,
    ) -> Result<Standing, StoreError> {
        // Of a generation before it enrolled, the name was another machine's.
        let of_node = |generation: &GenerationRecord| {
            let held = generation.held(name)?;
            generation.knows(name, node.enrolled_ms).then_some(held)
        };
        if let Some(confirmed) = node.confirmed {
            let number = confirmed.generation;
            if !self.others.contains_key(&number) {
                let key = keys::generation(self.site, number);
                let read = records::read::<GenerationRecord>(store, &key).await?;
                self.others
                    .insert(number, read.map(|read| Arc::new(read.record)));
            }
            let generation = self.others.get(&number).cloned().flatten();
            if generation.and_then(|generation| of_node(&generation)) == Some(confirmed) {
                return Ok(Standing::Member);
            }
        }
        let newest = self.newest.as_ref();
        let Some(wanted) = newest.and_then(|newest| of_node(newest)) else {
            return Ok(Standing::NotPushed);
        };
        // The nodes of a first push must not shut each other out while it goes through them. One that
        // was given the generation since it came late must have confirmed it.
        let came_late = newest.is_some_and(|newest| newest.at_ms < node.enrolled_ms);
        Ok(if came_late || node.refused == Some(wanted.generation) {
            Standing::NotConfirmed
        } else {
            Standing::Member
        })
    }
}

fn name(key: &str) -> Option<NodeName> {
    keys::site_and_node(key).and_then(|(_, node)| node.parse().ok())
}

/// A socket from the wire; none: it is neither TCP nor UDP, or has no port.
fn read_listener(socket: &pb::ListeningSocket) -> Option<Listener> {
    let protocol = match socket.protocol() {
        pb::Protocol::Tcp => Protocol::Tcp,
        pb::Protocol::Udp => Protocol::Udp,
        _ => return None,
    };
    Some(Listener {
        protocol,
        port: u16::try_from(socket.port).ok().filter(|port| *port > 0)?,
        process: socket.process.clone(),
        users: socket
            .users
            .iter()
            .filter_map(|user| address(user))
            .collect(),
        more_users: usize::try_from(socket.more_users).unwrap_or(usize::MAX),
        users_known: socket.users_known,
        is_ssh: socket.is_ssh,
    })
}

/// A missing feature from the wire; none: this controller does not know it.
fn read_missing(missing: &pb::MissingFeature) -> Option<Missing> {
    let family = match missing.family() {
        pb::Family::V4 => Family::V4,
        pb::Family::V6 => Family::V6,
        pb::Family::Unspecified => return None,
    };
    Some((
        missing.feature.parse().ok()?,
        family,
        missing.module.clone(),
    ))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
    }
}

/// Addresses from the wire; what is no address is left out.
pub fn read_addresses(addresses: &[pb::InterfaceAddress]) -> Vec<InterfaceAddress> {
    addresses
        .iter()
        .filter_map(|address| {
            let ip = self::address(&address.address)?;
            let prefix = u8::try_from(address.prefix_length).ok()?;
            Some(InterfaceAddress {
                interface: address.interface.clone(),
                net: IpNet::new(ip, prefix).ok()?,
            })
        })
        .collect()
}

/// A generation with its digest; none where either is missing or no such thing.
pub(crate) fn held(generation: u64, digest: &[u8]) -> Option<Held> {
    let digest = Digest::try_from(digest).ok()?;
    (generation != 0).then_some(Held { generation, digest })
}
