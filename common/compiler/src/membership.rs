//! The addresses by which the nodes of a site reach each other: what nodes claim, and what of it
//! counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use voipfleet_policy::Cluster;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{DynamicSetName, Interface};

use super::address::is_reachable;
use super::{InterfaceAddress, NodeInput};

/// The addresses of private networks (RFC 1918, 6598, 4193): all that an interface alone makes
/// members of. A public address that a node claims to have on it is the operator's to name.
const PRIVATE_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];
const PRIVATE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Whether the addresses that a node reports may count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// An operator pushed to it, and it did not refuse that.
    #[default]
    Member,
    /// It enrolled, and nothing was pushed to it since.
    NotPushed,
    /// It was pushed to, and has kept nothing of it.
    NotConfirmed,
}

/// Why an address that a node reports is no member's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PendingReason {
    /// Of its node, see [`Standing::NotPushed`].
    NotPushed,
    /// Of its node, see [`Standing::NotConfirmed`].
    NotConfirmed,
    /// It lies outside the networks that the document names.
    OutsideNetworks,
    /// The document names an interface alone, and this is none of its private addresses.
    NotPrivate,
    /// The document names an interface alone, and it is on another one.
    OtherInterface,
    /// The document names nothing by which nodes become members.
    NothingNamed,
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotPushed => "nothing was pushed to the node yet",
            Self::NotConfirmed => "its node has not confirmed a push",
            Self::OutsideNetworks => "outside cluster.networks",
            Self::NotPrivate => "not a private address, and cluster.networks names none",
            Self::OtherInterface => "not on cluster.interface",
            Self::NothingNamed => "cluster names no networks",
        })
    }
}

/// An address that a node reports and that does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingAddress {
    /// The node.
    pub node: NodeName,
    /// The interface, as the node says.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub reason: PendingReason,
}

/// What the nodes of a site claim, judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Addresses that are members', with their nodes.
    pub members: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    /// Those that are not, ascending.
    pub pending: Vec<PendingAddress>,
}

impl Membership {
    /// Judges what `nodes` report by a site's document.
    pub fn of<'n>(cluster: &Cluster, nodes: impl IntoIterator<Item = &'n NodeInput>) -> Self {
        let mut membership = Self::default();
        let bounds = bounds(cluster);
        for node in nodes {
            // What a member has just lost counts for a while, and is no news.
            for address in node.lost.iter().filter(|one| is_reachable(one.net.addr())) {
                if judge(cluster, &bounds, node, address).is_none() {
                    membership.add(node, address);
                }
            }
            for address in node.reachable() {
                match judge(cluster, &bounds, node, address) {
                    None => membership.add(node, address),
                    Some(reason) => membership.pending.push(PendingAddress {
                        node: node.name.clone(),
                        interface: address.interface.clone(),
                        address: address.net.addr(),
                        reason,
                    }),
                }
            }
        }
        membership.pending.sort_unstable();
        membership.pending.dedup();
        membership
    }

    fn add(&mut self, node: &NodeInput, address: &InterfaceAddress) {
        let nodes = self.members.entry(address.net.addr()).or_default();
        nodes.insert(node.name.clone());
    }
}

/// Why an address does not count; none: it does.
fn judge(
    cluster: &Cluster,
    bounds: &[IpNet],
    node: &NodeInput,
    address: &InterfaceAddress,
) -> Option<PendingReason> {
    match node.standing {
        Standing::NotPushed => return Some(PendingReason::NotPushed),
        Standing::NotConfirmed => return Some(PendingReason::NotConfirmed),
        Standing::Member => {}
    }
    let ip = address.net.addr();
    let inside = bounds.iter().any(|net| net.contains(&ip));
    if !cluster.networks.is_empty() {
        return (!inside).then_some(PendingReason::OutsideNetworks);
    }
    let interfaces = cluster.interfaces();
    if interfaces.is_empty() {
        return Some(PendingReason::NothingNamed);
    }
    if !interfaces
        .iter()
        .any(|name| name.as_str() == address.interface)
    {
        return Some(PendingReason::OtherInterface);
    }
    (!inside).then_some(PendingReason::NotPrivate)
}

/// Where the addresses that nodes report must lie, whatever they report.
pub(super) fn bounds(cluster: &Cluster) -> Vec<IpNet> {
    if !cluster.is_by_interface_alone() {
        return cluster.networks.clone();
    }
    let v4 = PRIVATE_V4.into_iter().map(IpNet::V4);
    v4.chain([IpNet::V6(PRIVATE_V6)]).collect()
}

/// The dynamic sets that hold what nodes report; none where the document names nobody by it.
pub(super) fn dynamic_names(cluster: &Cluster) -> BTreeSet<DynamicSetName> {
    if !cluster.networks.is_empty() {
        return BTreeSet::from([DynamicSetName::Cluster(None)]);
    }
    let interfaces = cluster.interfaces().into_iter().cloned();
    interfaces
        .map(|interface| DynamicSetName::Cluster(Some(interface)))
        .collect()
}

impl NodeInput {
    /// The addresses by which it may be a member: on an interface, or on any. Nothing of a node
    /// that is none.
    pub fn candidates(&self, interface: Option<&Interface>) -> impl Iterator<Item = IpAddr> {
        let wanted = interface.map(Interface::as_str);
        let all = self.addresses.iter().chain(&self.lost);
        let is_member = self.standing == Standing::Member;
        all.filter(move |_| is_member)
            .filter(move |address| wanted.is_none_or(|wanted| address.interface == wanted))
            .map(|address| address.net.addr())
            .filter(|address| is_reachable(*address))
    }

    /// Its addresses that other machines can reach.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &InterfaceAddress> {
        let addresses = self.addresses.iter();
        addresses.filter(|address| is_reachable(address.net.addr()))
    }
}
