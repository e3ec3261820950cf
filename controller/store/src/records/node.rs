//! A node: what was decided when it enrolled, and what it says of itself.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use voipfleet_proto::v1::{InterfaceAddress, NodeFacts, NodeStatus};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;

/// A node's full name; shown as `site/node`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Its site.
    pub site: SiteName,
    /// Its name in the site.
    pub node: NodeName,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
    }
}

/// Made at enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// SHA-256 of its public key, hexadecimal: only this key may speak for it.
    pub key_hash: String,
    /// The serial number of its last certificate, hexadecimal.
    pub serial: String,
    /// When it enrolled, Unix time.
    pub enrolled_ms: u64,
    /// When its certificate ends, Unix time.
    pub expires_ms: u64,
    /// The token that it used.
    pub token: String,
}

/// What it last said of itself, and when. Every field is bounded by the session that wrote it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRecord {
    /// The last answer or change of drift state.
    #[prost(message, optional, tag = "1")]
    pub status: Option<NodeStatus>,
    /// Addresses, backend, warnings.
    #[prost(message, optional, tag = "2")]
    pub facts: Option<NodeFacts>,
    /// The agent's version.
    #[prost(string, tag = "3")]
    pub agent_version: String,
    /// The kernel's boot id.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// When it was last heard or seen connected, Unix time.
    #[prost(uint64, tag = "5")]
    pub last_seen_ms: u64,
    /// Where it last connected from.
    #[prost(string, tag = "6")]
    pub peer: String,
    /// Addresses that it no longer reports, for a while.
    #[prost(message, repeated, tag = "7")]
    pub lost: Vec<LostAddress>,
    /// Of the last run of its agent that was admitted.
    #[prost(string, tag = "8")]
    pub instance: String,
    /// The last other machine that came with its identity while it was there.
    #[prost(message, optional, tag = "9")]
    pub duplicate: Option<Duplicate>,
}

/// An address that a node had.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LostAddress {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub address: Option<InterfaceAddress>,
    /// When it was gone, Unix time.
    #[prost(uint64, tag = "2")]
    pub lost_ms: u64,
}

/// A machine with the identity of another one that is connected.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Duplicate {
    /// Where it connects from.
    #[prost(string, tag = "1")]
    pub peer: String,
    /// When it was last refused, Unix time.
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
}
