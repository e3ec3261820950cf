//! What packets a rule or a test of a site is about.

use serde::{Deserialize, Serialize};
use voipfleet_ruleset::ruleset::{IpProtocol, PortRange};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a rule lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traffic {
    /// To ports; never empty.
    Ports(Transport, Vec<PortRange>),
    /// All of an IP protocol: `proto: vrrp`.
    Protocol(IpProtocol),
    /// All that comes by the rule's interface: `proto: any`.
    Any,
}

/// The packet of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestPacket {
    /// To a port.
    Port(Transport, u16),
    /// Of an IP protocol.
    Protocol(IpProtocol),
}
