//! The members of a site's cluster, as they were last known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::NodeName;

/// Who is a member, and who would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersRecord {
    /// Addresses with the nodes that report them.
    pub members: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    /// Addresses that nodes report and that are no members.
    pub pending: BTreeSet<PendingMember>,
    /// Further ones, which are not kept.
    pub more_pending: u64,
    /// How many addresses came or went so far.
    pub changes: u64,
}

/// An address of a node that is no member's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PendingMember {
    /// The node.
    pub node: NodeName,
    /// The address.
    pub address: IpAddr,
    /// The interface, as the node says.
    pub interface: String,
    /// Why, for people.
    pub reason: String,
}
