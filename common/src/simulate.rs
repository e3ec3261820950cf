//! What a node would do with a packet, and which rule says so.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ruleset::{
    AddressSet, Chain, ConnectionState, Family, INPUT_CHAIN, Interface, Protocol, Rule, Ruleset,
    SetName, Verdict,
};

/// A packet that arrives at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// The interface that it comes by; none: one that no rule names.
    pub in_interface: Option<Interface>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source port, where the protocol has ports; 0: one that no rule names.
    pub source_port: u16,
    /// Its destination port, where the protocol has ports.
    pub destination_port: u16,
    /// Its type, if it is ICMP.
    pub icmp_type: Option<u8>,
    /// What connection tracking says of it; none: it is not tracked (neighbour discovery).
    pub state: Option<ConnectionState>,
}

impl Packet {
    /// The first packet of a connection to `port`.
    pub fn new(source: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self {
            source,
            in_interface: None,
            protocol,
            source_port: 0,
            destination_port: port,
            icmp_type: None,
            state: Some(ConnectionState::New),
        }
    }

    /// An ICMP packet of the family of `source`.
    pub fn icmp(source: IpAddr, icmp_type: u8) -> Self {
        let protocol = match source {
            IpAddr::V4(_) => Protocol::Icmp,
            IpAddr::V6(_) => Protocol::Icmpv6,
        };
        Self {
            icmp_type: Some(icmp_type),
            ..Self::new(source, protocol, 0)
        }
    }

    fn family(&self) -> Family {
        match self.source {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It gets through.
    Accept,
    /// It is dropped.
    Drop,
    /// It is answered with port unreachable.
    Reject,
    /// It leaves our chains undecided, for the rest of INPUT: `mode: observe`.
    Pass,
}

/// A decision and the rule that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// The chain of the rule.
    pub chain: String,
    /// The label of the rule.
    pub label: String,
}

/// What a node with `ruleset` does with `packet`.
///
/// The agent's own first rules that hang on nothing but the ruleset are taken into account:
/// loopback, the admins' SSH, neighbour discovery and DHCPv6. Rates are taken as not exceeded.
pub fn simulate(ruleset: &Ruleset, packet: &Packet) -> Outcome {
    if let Some(label) = failsafe(ruleset, packet) {
        return Outcome {
            decision: Decision::Accept,
            chain: crate::ruleset::FAILSAFE_CHAIN.to_owned(),
            label: label.to_owned(),
        };
    }
    // No path through chains without loops is longer than their number.
    walk(ruleset, INPUT_CHAIN, packet, ruleset.chains.len()).unwrap_or_else(|| Outcome {
        decision: Decision::Pass,
        chain: INPUT_CHAIN.to_owned(),
        label: "the end of the chain".to_owned(),
    })
}

/// Whether `address` is in `set`. What has an end is taken as not over yet.
pub fn contains(set: &AddressSet, address: IpAddr) -> bool {
    let bits = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    (0..=bits).any(|length| IpNet::new(address, length).is_ok_and(|net| set.holds(&net.trunc())))
}

fn failsafe(ruleset: &Ruleset, packet: &Packet) -> Option<&'static str> {
    if packet.in_interface.as_ref().map(Interface::as_str) == Some("lo") {
        return Some("failsafe:loopback");
    }
    let to_ssh =
        packet.protocol == Protocol::Tcp && ruleset.ssh_ports.contains(&packet.destination_port);
    let from_admin = ruleset
        .admins
        .iter()
        .any(|net| net.contains(&packet.source));
    if to_ssh && from_admin {
        return Some("failsafe:admin-ssh");
    }
    let link_local = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
    if link_local
        && packet.protocol == Protocol::Udp
        && packet.destination_port == crate::iptables::DHCPV6_CLIENT
    {
        return Some("failsafe:dhcpv6");
    }
    let neighbours = packet.protocol == Protocol::Icmpv6
        && packet
            .icmp_type
            .is_some_and(|kind| crate::iptables::NEIGHBOUR_DISCOVERY.contains(&kind));
    neighbours.then_some("failsafe:neighbour-discovery")
}

/// The decision of one chain; none: the packet comes back from its end.
fn walk(ruleset: &Ruleset, name: &str, packet: &Packet, depth: usize) -> Option<Outcome> {
    let chain: &Chain = ruleset.chains.iter().find(|c| c.name.as_str() == name)?;
    for rule in chain
        .rules
        .iter()
        .filter(|rule| matches(ruleset, rule, packet))
    {
        let decision = match &rule.verdict {
            Verdict::Accept => Decision::Accept,
            Verdict::Drop => Decision::Drop,
            Verdict::Reject => Decision::Reject,
            Verdict::Return if name == INPUT_CHAIN => Decision::Pass,
            Verdict::Return => return None,
            Verdict::Log(_) => continue,
            Verdict::Jump(target) => {
                let deeper = depth.checked_sub(1)?;
                match walk(ruleset, target.as_str(), packet, deeper) {
                    Some(outcome) => return Some(outcome),
                    None => continue,
                }
            }
        };
        return Some(Outcome {
            decision,
            chain: name.to_owned(),
            label: rule.label.to_string(),
        });
    }
    None
}

fn matches(ruleset: &Ruleset, rule: &Rule, packet: &Packet) -> bool {
    let has_ports = matches!(packet.protocol, Protocol::Tcp | Protocol::Udp);
    let port =
        |ports: &crate::ruleset::Ports, port| ports.is_any() || (has_ports && ports.contains(port));
    rule.scope.covers(packet.family())
        && (rule.in_interface.is_none() || rule.in_interface == packet.in_interface)
        && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && port(&rule.destination_ports, packet.destination_port)
        && port(&rule.source_ports, packet.source_port)
        && (rule.icmp_type.is_none() || rule.icmp_type == packet.icmp_type)
        && (rule.states.is_any()
            || packet.state.is_some_and(|state| rule.states.as_slice().contains(&state)))
        // It matches above its rate.
        && rule.source_limit.is_none()
        && rule.source.is_none_or(|net| net.contains(&packet.source))
        && rule.source_set.as_ref().is_none_or(|stem| {
            let name = SetName { stem: stem.clone(), family: packet.family() };
            let found = ruleset.sets.binary_search_by(|set| set.name.cmp(&name));
            found.is_ok_and(|index| {
                ruleset.sets.get(index).is_some_and(|set| contains(set, packet.source))
            })
        })
}
