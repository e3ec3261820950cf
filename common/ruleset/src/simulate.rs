//! What a node would do with a packet, and which rule decides.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::iptables::{DHCP_CLIENT, DHCP_SERVER, DHCPV6_CLIENT, NEIGHBOUR_DISCOVERY};
use crate::ruleset::{
    AddressSet, Chain, ConnectionState, FAILSAFE_CHAIN, Family, INPUT_CHAIN, Interface, Ports,
    Protocol, Rule, Ruleset, SetStem, Verdict,
};

/// A packet that arrives at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// The interface that it arrives on; `None` for one that no rule names.
    pub in_interface: Option<Interface>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source port, where the protocol has ports; `None` for one that no rule names.
    pub source_port: Option<u16>,
    /// Its destination port, where the protocol has ports.
    pub destination_port: u16,
    /// Its type, if it is ICMP.
    pub icmp_type: Option<u8>,
    /// Its connection tracking state; `None` if it is not tracked (neighbour discovery).
    pub state: Option<ConnectionState>,
}

impl Packet {
    /// The first packet of a connection to `port`.
    pub fn new(source: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self {
            source,
            in_interface: None,
            protocol,
            source_port: None,
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

/// A decision and the rule that made it.
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
/// loopback, the admins' SSH, neighbour discovery and DHCP. Rates are taken as not exceeded.
pub fn simulate(ruleset: &Ruleset, packet: &Packet) -> Outcome {
    let ranges = None;
    let reached = Simulator { ruleset, ranges }.reach(packet);
    Outcome {
        decision: reached.decision,
        chain: reached.chain.to_owned(),
        label: reached.label.to_owned(),
    }
}

/// The same for many packets: looking an address up takes one search, whatever the number of
/// prefix lengths in the set.
#[derive(Debug)]
pub struct Simulator<'r> {
    ruleset: &'r Ruleset,
    /// Of each set of the ruleset, in its order; none where the sets are searched as they are.
    ranges: Option<Vec<Ranges>>,
}

/// First and last address of every element, ascending and apart from each other.
type Ranges = Vec<(u128, u128)>;

/// A decision and the rule that gave it, of the ruleset itself.
struct Reached<'r> {
    decision: Decision,
    chain: &'r str,
    label: &'r str,
}

impl<'r> Simulator<'r> {
    /// Prepares the sets of `ruleset` as they are at `now`, Unix time in seconds: 32 bytes of
    /// memory an element.
    pub fn new(ruleset: &'r Ruleset, now: u64) -> Self {
        let ranges = ruleset.sets.iter().map(|set| ranges(set, now)).collect();
        Self {
            ruleset,
            ranges: Some(ranges),
        }
    }

    /// What [`simulate`] decides; but what has an end may be over.
    pub fn decide(&self, packet: &Packet) -> Decision {
        self.reach(packet).decision
    }

    fn reach(&self, packet: &Packet) -> Reached<'r> {
        if let Some(label) = failsafe(self.ruleset, packet) {
            return Reached {
                decision: Decision::Accept,
                chain: FAILSAFE_CHAIN,
                label,
            };
        }
        // No path through chains without loops is longer than their number.
        let depth = self.ruleset.chains.len();
        self.walk(INPUT_CHAIN, packet, depth).unwrap_or(Reached {
            decision: Decision::Pass,
            chain: INPUT_CHAIN,
            label: "the end of the chain",
        })
    }

    /// The decision of one chain; `None`: the packet comes back from its end.
    fn walk(&self, name: &str, packet: &Packet, depth: usize) -> Option<Reached<'r>> {
        let mut chains = self.ruleset.chains.iter();
        let chain: &'r Chain = chains.find(|chain| chain.name.as_str() == name)?;
        for rule in chain.rules.iter().filter(|rule| self.matches(rule, packet)) {
            let decision = match &rule.verdict {
                Verdict::Accept => Decision::Accept,
                Verdict::Drop => Decision::Drop,
                Verdict::Reject => Decision::Reject,
                Verdict::Return if name == INPUT_CHAIN => Decision::Pass,
                Verdict::Return => return None,
                Verdict::Log(_) => continue,
                Verdict::Jump(target) => {
                    let deeper = depth.checked_sub(1)?;
                    match self.walk(target.as_str(), packet, deeper) {
                        Some(reached) => return Some(reached),
                        None => continue,
                    }
                }
            };
            return Some(Reached {
                decision,
                chain: chain.name.as_str(),
                label: rule.label.as_str(),
            });
        }
        None
    }

    fn matches(&self, rule: &Rule, packet: &Packet) -> bool {
        let has_ports = matches!(packet.protocol, Protocol::Tcp | Protocol::Udp);
        let port = |ports: &Ports, port: Option<u16>| {
            ports.is_any() || (has_ports && port.is_some_and(|port| ports.contains(port)))
        };
        rule.scope.covers(packet.family())
            && (rule.in_interface.is_none() || rule.in_interface == packet.in_interface)
            && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && port(&rule.destination_ports, Some(packet.destination_port))
            && port(&rule.source_ports, packet.source_port)
            && (rule.icmp_type.is_none() || rule.icmp_type == packet.icmp_type)
            && (rule.states.is_any()
                || packet.state.is_some_and(|state| rule.states.as_slice().contains(&state)))
            // It matches above its rate.
            && rule.source_limit.is_none()
            && rule.source.is_none_or(|net| net.contains(&packet.source))
            && rule.source_set.as_ref().is_none_or(|stem| self.holds(stem, packet))
    }

    /// Whether the set of the packet's family holds its source.
    fn holds(&self, stem: &SetStem, packet: &Packet) -> bool {
        let key = (stem, packet.family());
        let sets = &self.ruleset.sets;
        let found = sets.binary_search_by(|set| (&set.name.stem, set.name.family).cmp(&key));
        let Ok(index) = found else {
            return false;
        };
        match &self.ranges {
            Some(ranges) => ranges.get(index).is_some_and(|ranges| {
                let address = number(packet.source);
                let after = ranges.partition_point(|(first, _)| *first <= address);
                let before = after.checked_sub(1).and_then(|index| ranges.get(index));
                before.is_some_and(|(_, last)| address <= *last)
            }),
            None => sets
                .get(index)
                .is_some_and(|set| contains(set, packet.source)),
        }
    }
}

/// Whether `address` is in `set`. What has an end is taken as not over yet, and what has a
/// beginning as begun.
pub fn contains(set: &AddressSet, address: IpAddr) -> bool {
    let bits = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    (0..=bits).any(|length| IpNet::new(address, length).is_ok_and(|net| set.holds(&net.trunc())))
}

/// Of one family only: a set holds no other.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// An element may lie inside another; two are never only partly the same.
fn ranges(set: &AddressSet, now: u64) -> Ranges {
    let set = set.at(now);
    let lasting = set.expiring.iter().filter(|one| one.until.left(now) > 0);
    let mut nets: Vec<&IpNet> = lasting.map(|one| &one.net).collect();
    nets.extend(&set.elements);
    nets.sort_unstable();
    let mut ranges = Ranges::with_capacity(nets.len());
    for net in nets {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        match ranges.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => ranges.push((first, last)),
        }
    }
    ranges
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
    if packet.protocol == Protocol::Udp {
        let ports = (packet.source_port, packet.destination_port);
        match packet.family() {
            Family::V4 if ports == (Some(DHCP_SERVER), DHCP_CLIENT) => {
                return Some("failsafe:dhcp");
            }
            Family::V6 if packet.destination_port == DHCPV6_CLIENT => {
                return Some("failsafe:dhcpv6");
            }
            _ => {}
        }
    }
    let neighbours = packet.protocol == Protocol::Icmpv6
        && packet
            .icmp_type
            .is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(&kind));
    neighbours.then_some("failsafe:neighbour-discovery")
}
