//! Warnings about documents that compile and may not do what they seem to.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_policy::catalogue::{Direction, Roles, service as of_catalogue};
use voipfleet_policy::{AddressWord, Documents, Ipv6, Site, Trust};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{DynamicSetName, DynamicSets, Interface, PortRange};

use super::NodeInput;
use super::address::private_ranges;
use super::membership::{Membership, Standing};
use super::service_ports::Effective;

/// Warnings about one service with the site's changes. `from` is who reaches it.
pub(super) fn service(effective: &Effective, from: &[AddressWord], warnings: &mut Vec<String>) {
    let service = effective.service;
    if !effective.gave_up.is_empty() && effective.changes.ports.is_some() {
        let ports: BTreeSet<&PortRange> = effective.gave_up.iter().collect();
        let ports: Vec<String> = ports.into_iter().map(PortRange::to_string).collect();
        warnings.push(format!(
            "services.{}.ports: it holds the ports of SIP ({}), which are left out",
            service.name,
            ports.join(", ")
        ));
    }
    if service.roles == Roles::Unpublished && !from.is_empty() {
        warnings.push(format!(
            "services.{}: the vendor does not publish which role runs it; it is open on every node",
            service.name
        ));
    }
    if service.never_world && from.contains(&AddressWord::World) {
        warnings.push(format!(
            "services.{}: open to the world, marked dangerous",
            service.name
        ));
    }
    let closes = effective.changes.from.is_some() && !from.contains(&AddressWord::World);
    if service.name == "web" && closes {
        warnings.push(
            "services.web.from: ports 80 and 443 are closed to all others; phones outside \
             these networks get no provisioning, and APIs and certificate renewal over HTTP fail"
                .to_owned(),
        );
    }
}

/// Warnings about the site as a whole.
pub(super) fn site(
    site: &Site,
    documents: &Documents,
    nodes: &BTreeMap<&NodeName, &NodeInput>,
    warnings: &mut Vec<String>,
) {
    for name in site.services.keys() {
        if of_catalogue(name).is_some_and(|service| service.direction == Direction::Egress) {
            warnings.push(format!(
                "services.{name}: it leaves the node, and only what comes in is filtered; the \
                 field changes nothing"
            ));
        }
    }
    for name in &site.tenants {
        let tenant = documents.tenants.get(name);
        if tenant.is_some_and(|tenant| {
            tenant.names.is_empty()
                && tenant.dated.is_empty()
                && tenant.networks.values().all(Vec::is_empty)
        }) {
            warnings.push(format!(
                "tenant {name} has no network: nothing is open to it"
            ));
        }
    }
    for name in &site.providers {
        let Some(provider) = documents.providers.get(name) else {
            continue;
        };
        if provider.signalling.is_empty()
            && provider.signalling_dated.is_empty()
            && provider.signalling_names.is_empty()
        {
            warnings.push(format!(
                "provider {name} has no signalling network: SIP is not open to it"
            ));
        }
    }
    cluster(site, nodes, warnings);
    ipv6(site, nodes, warnings);
}

/// Nodes that should have no IPv6 and have, and nodes that there are not.
fn ipv6(site: &Site, nodes: &BTreeMap<&NodeName, &NodeInput>, warnings: &mut Vec<String>) {
    for (name, node) in nodes {
        if !site.ipv6.is_none_on(name, &node.roles) {
            continue;
        }
        let addresses = node
            .reachable()
            .filter(|address| address.net.addr().is_ipv6());
        let addresses: Vec<String> = addresses
            .map(|address| format!("{} on {}", address.net.addr(), address.interface))
            .collect();
        if !addresses.is_empty() {
            warnings.push(format!(
                "DANGER: ipv6: node {name} has IPv6 ({}), and nothing filters it there: everything \
                 that listens is open by IPv6; take the node out of ipv6, or its addresses away",
                addresses.join(", ")
            ));
        }
    }
    if let Ipv6::NoneOn { nodes: named, .. } = &site.ipv6 {
        let unknown = named.iter().filter(|name| !nodes.contains_key(name));
        warnings.extend(unknown.map(|name| format!("ipv6.nodes: there is no node {name}")));
    }
}

fn cluster(site: &Site, nodes: &BTreeMap<&NodeName, &NodeInput>, warnings: &mut Vec<String>) {
    if nodes.len() < 2 {
        return;
    }
    if site.cluster.names_nobody() {
        warnings.push(format!(
            "cluster names no networks: the nodes do not let each other in; write cluster: \
             {{networks: [{}]}}",
            shared_networks(nodes).join(", ")
        ));
        return;
    }
    for (name, node) in nodes {
        let mut addresses = node.reachable().peekable();
        if addresses.peek().is_none() {
            warnings.push(format!(
                "node {name} has reported no address: the other nodes do not let it in as a \
                 member of the cluster"
            ));
            continue;
        }
        let of_node = site.cluster.of(name, &node.roles).ok();
        let interface = of_node.and_then(|of| of.interface.map(Interface::as_str));
        if let Some(interface) = interface
            && !addresses.any(|address| address.interface == interface)
        {
            warnings.push(format!(
                "node {name} has no address on {interface}, the cluster's interface: members of \
                 the cluster do not reach it by another one; if it has another name there, write \
                 cluster: {{nodes: {{{name}: {{interface: NAME}}}}}}"
            ));
        }
        let as_member = NodeInput {
            standing: Standing::Member,
            lost: Vec::new(),
            ..(*node).clone()
        };
        let reports = !site.cluster.networks.is_empty() || site.cluster.members.is_empty();
        if reports
            && Membership::of(&site.cluster, [&as_member])
                .members
                .is_empty()
        {
            let why = if site.cluster.networks.is_empty() {
                "no private address on the cluster's interface"
            } else {
                "no address inside cluster.networks"
            };
            warnings.push(format!(
                "node {name} has {why}: the other nodes do not let it in as a member of the cluster"
            ));
        }
    }
    if site.cluster.trust == Trust::Strict {
        strict(site, nodes, warnings);
    }
}

/// The networks that most nodes share, private ones first; an example where they share none.
fn shared_networks(nodes: &BTreeMap<&NodeName, &NodeInput>) -> Vec<String> {
    let mut counts: BTreeMap<IpNet, usize> = BTreeMap::new();
    for node in nodes.values() {
        let networks: BTreeSet<IpNet> = node
            .reachable()
            .map(|address| address.net.trunc())
            .filter(|net| net.prefix_len() < net.max_prefix_len())
            .collect();
        for network in networks {
            *counts.entry(network).or_default() += 1;
        }
    }
    let private = private_ranges();
    let is_private = |net: &IpNet| private.iter().any(|range| range.contains(net));
    let shared = counts
        .into_iter()
        .filter(|(_, count)| *count == nodes.len());
    let (own, public): (Vec<IpNet>, Vec<IpNet>) = shared.map(|(net, _)| net).partition(is_private);
    let best = if own.is_empty() { public } else { own };
    if best.is_empty() {
        return vec!["10.20.0.0/24".to_owned()];
    }
    best.iter().map(ToString::to_string).collect()
}

/// What the members of a strictly trusted cluster may miss.
fn strict(site: &Site, nodes: &BTreeMap<&NodeName, &NodeInput>, warnings: &mut Vec<String>) {
    let for_members = |words: &[AddressWord]| {
        words.contains(&AddressWord::Cluster) || words.contains(&AddressWord::World)
    };
    for (name, changes) in &site.services {
        let Some(service) = of_catalogue(name) else {
            continue;
        };
        let default: Vec<AddressWord> = service.default_from.iter().map(|e| (*e).into()).collect();
        let closed = changes
            .from
            .as_deref()
            .is_some_and(|words| !words.is_empty() && !for_members(words));
        if closed && for_members(&default) {
            warnings.push(format!(
                "services.{name}.from: with cluster.trust strict it closes {name} between the \
                 nodes too; add cluster if they need it"
            ));
        }
    }
    let has = |role| nodes.values().any(|node| node.roles.contains(&role));
    let sip_from = site.services.get("sip").and_then(|sip| sip.from.as_ref());
    let sip_is_open = sip_from.is_some_and(|words| for_members(words));
    if has(Role::Sip) && has(Role::Pbx) && !sip_is_open {
        warnings.push(
            "cluster.trust: strict lets members reach only what is open to `cluster`, and sip is \
             not: nodes of role pbx do not reach 5060 of nodes of role sip; add cluster to \
             services.sip.from"
                .to_owned(),
        );
    }
}

/// Names that resolve to nothing or are not resolved yet, and lists that are not fetched yet.
pub(super) fn unknown(
    needed: &BTreeSet<DynamicSetName>,
    dynamic: &DynamicSets,
    warnings: &mut Vec<String>,
) {
    for name in needed {
        let value = dynamic.get(name);
        let what = match (name, value) {
            (DynamicSetName::Name(host), None) => format!("{host} has not been resolved yet"),
            (DynamicSetName::Name(host), Some(value)) if value.is_empty() => {
                format!("{host} resolves to no address now")
            }
            (DynamicSetName::Feed(list), None) => format!("list:{list} has not been fetched yet"),
            (DynamicSetName::DenyFeed(list), None) => {
                warnings.push(format!(
                    "list:{list} has not been fetched yet: nothing of it is denied until then"
                ));
                continue;
            }
            _ => continue,
        };
        warnings.push(format!("{what}: nothing is open to it until then"));
    }
}

/// Words that name no address, with the fields that are closed by it.
pub(super) fn empty(words: &BTreeMap<String, BTreeSet<String>>, warnings: &mut Vec<String>) {
    for (word, fields) in words {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        warnings.push(format!(
            "{word} holds no address: nothing is opened by it in {}",
            fields.join(", ")
        ));
    }
}
