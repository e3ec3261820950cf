//! A site's enrolled nodes, as the store knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_compiler::{InterfaceAddress, NodeInput};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::Digest;

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

/// Addresses from the wire; what is no address is left out.
pub fn read_addresses(addresses: &[pb::InterfaceAddress]) -> Vec<InterfaceAddress> {
    addresses
        .iter()
        .filter_map(|address| {
            let ip: IpAddr = match address.address.len() {
                4 => <[u8; 4]>::try_from(address.address.as_slice()).ok()?.into(),
                _ => <[u8; 16]>::try_from(address.address.as_slice())
                    .ok()?
                    .into(),
            };
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
