//! What others may know of a connected node.

use std::net::SocketAddr;

use voipfleet_proto::v1::{NodeFacts, NodeStatus};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::ruleset::Digest;

use crate::records::Duplicate;

/// A connected node, as of now.
#[derive(Debug, Clone)]
pub struct View {
    /// Where it connected from.
    pub peer: SocketAddr,
    /// The agent's version.
    pub agent_version: String,
    /// What it has confirmed.
    pub confirmed: Option<Held>,
    /// The last offer of this session.
    pub offered: Option<Offered>,
    /// The last status of any kind.
    pub status: Option<NodeStatus>,
    /// Addresses, backend, warnings.
    pub facts: Option<NodeFacts>,
    /// The dynamic sets that it holds and enforces, as far as its ruleset names them.
    pub dynamic: Option<Digest>,
    /// How far the node's clock is ahead of the controller's, milliseconds; none: not said.
    pub clock_skew_ms: Option<i64>,
    /// The last other machine that came with its identity.
    pub duplicate: Option<Duplicate>,
}

/// An offer and the node's last answer to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered {
    /// Unique over all nodes and sessions.
    pub nonce: u64,
    /// What was offered.
    pub held: Held,
    /// The node's last word about it; none: nothing yet.
    pub answer: Option<NodeStatus>,
}
