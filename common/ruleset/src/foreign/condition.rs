//! One condition of a foreign rule.

use std::net::IpAddr;

use super::{NetSet, Passage, Sets};
use crate::ruleset::{ConnectionState, Family, PortRange, Protocol};

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Source(NetSet),
    Destination(NetSet),
    /// A set by its name.
    SourceSet(String),
    DestinationSet(String),
    /// `None` for a protocol that no probe of a policy has.
    Protocol(Vec<Option<Protocol>>),
    SourcePorts(Vec<PortRange>),
    DestinationPorts(Vec<PortRange>),
    InInterface(Vec<String>),
    OutInterface(Vec<String>),
    States(Vec<ConnectionState>),
    Family(Family),
    /// The first packet of a TCP connection.
    Syn,
    /// What cannot be known of a packet that is only thought of: its content, a rate, a mark.
    Unknown,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub value: Value,
    pub negated: bool,
}

/// Interfaces of guests and tunnels: what clients send does not come in by them.
const INNER: [&str; 14] = [
    "lo",
    "docker",
    "br-",
    "virbr",
    "veth",
    "lxdbr",
    "lxcbr",
    "podman",
    "cni",
    "tailscale",
    "wg",
    "tun",
    "tap",
    "incusbr",
];

fn is_inner(interface: &str) -> bool {
    let name = interface.trim_end_matches(['+', '*']);
    INNER.iter().any(|inner| {
        let exact = *inner == "lo";
        if exact {
            name == *inner
        } else {
            name.starts_with(inner)
        }
    })
}

impl Condition {
    /// One that cannot be evaluated.
    pub const UNKNOWN: Condition = Condition {
        value: Value::Unknown,
        negated: false,
    };

    pub fn new(value: Value, negated: bool) -> Self {
        Self { value, negated }
    }

    /// The name of the set that it looks addresses up in.
    pub fn set(&self) -> Option<&str> {
        match &self.value {
            Value::SourceSet(name) | Value::DestinationSet(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it picks sources, so that what it refuses is refused to some only.
    pub(super) fn picks_sources(&self) -> bool {
        !self.negated && matches!(self.value, Value::Source(_) | Value::SourceSet(_))
    }

    /// Whether a packet matches; `None` where that cannot be known.
    pub(super) fn matches(&self, packet: &Passage, sets: &Sets) -> Option<bool> {
        let looked_up = |name: &str, address: Option<IpAddr>| {
            address.and_then(|address| Some(sets.get(name)?.contains(address)))
        };
        let port = |ranges: &[PortRange], port: Option<u16>| {
            let has_ports = matches!(packet.protocol, Protocol::Tcp | Protocol::Udp);
            match port {
                _ if !has_ports => Some(false),
                Some(port) => Some(ranges.iter().any(|range| range.contains(port))),
                None => None,
            }
        };
        let matches = match &self.value {
            Value::Source(nets) => packet.source.map(|source| nets.contains(source)),
            Value::Destination(nets) => packet.destination.map(|to| nets.contains(to)),
            Value::SourceSet(name) => looked_up(name, packet.source),
            Value::DestinationSet(name) => looked_up(name, packet.destination),
            Value::Protocol(protocols) => Some(protocols.contains(&Some(packet.protocol))),
            Value::SourcePorts(ranges) => port(ranges, packet.source_port),
            Value::DestinationPorts(ranges) => port(ranges, packet.destination_port),
            // By which of the others a client comes in is not known: any of them may be meant.
            Value::InInterface(names) if self.negated => {
                return Some(names.iter().all(|name| is_inner(name))).filter(|outer| *outer);
            }
            Value::InInterface(names) => Some(names.iter().any(|name| !is_inner(name))),
            Value::OutInterface(names) => Some(names.iter().any(|name| !is_inner(name))),
            Value::States(states) => Some(states.contains(&packet.state)),
            Value::Family(family) => Some(*family == packet.family),
            Value::Syn => {
                let is_new = packet.state == ConnectionState::New;
                Some(packet.protocol == Protocol::Tcp && is_new)
            }
            Value::Unknown => return None,
        };
        matches.map(|matches| matches != self.negated)
    }
}
