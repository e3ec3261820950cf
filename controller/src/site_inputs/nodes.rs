//! A site's enrolled nodes, as the store knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_compiler::plan::{Listener, Missing};
use voipfleet_compiler::{InterfaceAddress, NodeInput};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Digest, Family, Protocol};

use crate::limits::MAX_NODES_PER_SITE;
use crate::records::{self, NodeRecord, StatusRecord};
use crate::store::{Store, StoreError, keys};

/// A node of the site.
#[derive(Debug, Clone)]
pub struct SiteNode {
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Its addresses, as it last reported them.
    pub addresses: Vec<InterfaceAddress>,
    /// When it enrolled, Unix time.
    pub enrolled_ms: u64,
    /// What it last reported as confirmed.
    pub confirmed: Option<Held>,
    /// What listens on it, as it last reported.
    pub listeners: Vec<Listener>,
    /// What its kernel lacks, as it last reported.
    pub missing_features: Vec<Missing>,
}

/// A site's nodes as the compiler sees them.
pub(crate) fn inputs(nodes: &BTreeMap<NodeName, SiteNode>) -> Vec<NodeInput> {
    nodes
        .iter()
        .map(|(name, node)| NodeInput {
            name: name.clone(),
            roles: node.roles.clone(),
            addresses: node.addresses.clone(),
        })
        .collect()
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
                enrolled_ms: record.enrolled_ms,
                confirmed: None,
                listeners: Vec::new(),
                missing_features: Vec::new(),
            };
            nodes.insert(name, node);
        }
    }
    for entry in store.all(&keys::statuses(site), MAX_NODES_PER_SITE).await? {
        let record: StatusRecord = records::from_protobuf(&entry.key, &entry.held)?;
        if let Some(node) = name(&entry.key).and_then(|name| nodes.get_mut(&name)) {
            node.addresses = record
                .facts
                .as_ref()
                .map(|facts| read_addresses(&facts.addresses))
                .unwrap_or_default();
            if let Some(facts) = &record.facts {
                node.listeners = facts.sockets.iter().filter_map(read_listener).collect();
                let missing = facts.missing_features.iter();
                node.missing_features = missing.filter_map(read_missing).collect();
            }
            node.confirmed = record
                .status
                .as_ref()
                .and_then(|status| held(status.confirmed_generation, &status.confirmed_digest));
        }
    }
    Ok(nodes)
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
