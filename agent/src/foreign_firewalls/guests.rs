//! Rules of others that let guests of this machine in, and that our rules overrule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use voipfleet_ruleset::foreign::{Action, Condition, ForeignTable, Ports, Value};
use voipfleet_ruleset::ruleset::{Family, Protocol, Ruleset};
use voipfleet_ruleset::simulate::{Decision, Packet, Simulator};

use super::known_names::kind_of_interface;
use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall};

/// Interfaces that are reported.
const MAX_INTERFACES: usize = 8;
/// Ports of a server of DNS (RFC 1035) and DHCP (RFC 2131).
const DNS: u16 = 53;
const DHCP: u16 = 67;
/// The source of a guest that has no address yet: what it asks for by DHCP.
const NO_ADDRESS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Guests' interfaces on which foreign rules accept what the policy does not open.
pub(super) fn find(filter: &[ForeignTable], ruleset: &Ruleset, now: u64) -> Vec<ForeignFirewall> {
    let simulator = Simulator::new(ruleset, now);
    let mut closed: BTreeMap<(ForeignFirewallKind, String), BTreeSet<Ports>> = BTreeMap::new();
    for table in filter {
        let family = table.family.unwrap_or(Family::V4);
        for (interface, ports) in accepted(table) {
            let Some(kind) = kind_of_interface(&interface) else {
                continue;
            };
            let source = NO_ADDRESS
                .into_iter()
                .find(|source| source.is_ipv4() == (family == Family::V4));
            let packet = source.map(|source| Packet {
                in_interface: interface.parse().ok(),
                ..Packet::new(source, ports.protocol, ports.range.first)
            });
            let is_open = packet.is_some_and(|packet| {
                !matches!(simulator.decide(&packet), Decision::Drop | Decision::Reject)
            });
            if !is_open {
                closed.entry((kind, interface)).or_default().insert(ports);
            }
        }
    }
    let closed = closed.into_iter().take(MAX_INTERFACES);
    closed
        .map(|((kind, interface), ports)| report(kind, &interface, &ports))
        .collect()
}

fn report(kind: ForeignFirewallKind, interface: &str, ports: &BTreeSet<Ports>) -> ForeignFirewall {
    let listed: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let listed = listed.join(", ");
    let openings = [(Protocol::Udp, "udp"), (Protocol::Tcp, "tcp")];
    let openings = openings.map(|(protocol, word)| opening(interface, ports, protocol, word));
    let openings: Vec<String> = openings.into_iter().flatten().collect();
    foreign_firewall(
        kind,
        format!(
            "guests on {interface} do not reach this machine's {listed}: the policy decides before \
             the rule that accepts them{}",
            service(ports)
        ),
        &format!(
            "where guests need it, add to the `rules` of the site: {}",
            openings.join(", ")
        ),
    )
}

/// A rule of a document that opens the ports of one protocol. A guest that asks for an address has none.
fn opening(
    interface: &str,
    ports: &BTreeSet<Ports>,
    protocol: Protocol,
    word: &str,
) -> Option<String> {
    let ports = ports.iter().filter(|one| one.protocol == protocol);
    let ports: Vec<String> = ports.map(|one| one.range.to_string()).collect();
    (!ports.is_empty()).then(|| {
        format!(
            "{{name: {interface}-{word}, accept: {{proto: {word}, ports: [{}], from: [world], \
             interface: {interface}}}}}",
            ports.join(", ")
        )
    })
}

/// What stops working, where the ports say it.
fn service(ports: &BTreeSet<Ports>) -> &'static str {
    let has = |port: u16| ports.iter().any(|one| one.range.contains(port));
    match (has(DNS), has(DHCP)) {
        (true, true) => "; they get no DHCP and no DNS from it",
        (true, false) => "; they get no DNS from it",
        (false, true) => "; they get no DHCP from it",
        (false, false) => "",
    }
}

/// The interfaces and ports of rules that accept.
fn accepted(table: &ForeignTable) -> Vec<(String, Ports)> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    let mut accepted = Vec::new();
    for rule in rules.filter(|rule| rule.action == Action::Accept) {
        let mut interfaces: &[String] = &[];
        let mut protocols: Vec<Protocol> = Vec::new();
        let mut ranges = &[][..];
        for Condition { value, negated } in &rule.conditions {
            match value {
                Value::InInterface(names) if !negated => interfaces = names,
                Value::Protocol(of) if !negated => {
                    protocols = of.iter().flatten().copied().collect();
                }
                Value::DestinationPorts(of) if !negated => ranges = of,
                _ => {}
            }
        }
        for interface in interfaces {
            for protocol in &protocols {
                let ports = ranges.iter().map(|range| Ports {
                    protocol: *protocol,
                    range: *range,
                });
                accepted.extend(ports.map(|ports| (interface.clone(), ports)));
            }
        }
    }
    accepted
}
