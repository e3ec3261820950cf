//! The VoipNow configuration that machines report, compared with documents and enrolment.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tonic::Status;
use voipfleet_policy::catalogue::{self, Direction, Exposure, SERVICES, Service};
use voipfleet_policy::{AddressWord, Addresses, Documents, Site, Transport};
use voipfleet_proto::v1::{
    Difference, DifferenceKind, InterfaceAddress, NodeReport, SiteStatus, StatusResponse, VoipNow,
};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{PortRange, ProviderPart};

use super::{FleetApi, failed};
use crate::site_inputs::read_addresses;

/// Roles without a daemon of their own: `ic` is served by the web server of `http`.
const SILENT: [Role; 1] = [Role::Ic];

impl FleetApi {
    /// Fills in where the nodes of an answer differ from the documents.
    pub(super) async fn compare(&self, answer: &mut StatusResponse) -> Result<(), Status> {
        let stored = self.documents.read().await.map_err(failed)?;
        let documents = &stored.documents;
        for status in &mut answer.sites {
            // A site that has nodes and no document has nothing to compare them with.
            let name = status.site.parse().ok();
            if let Some(site) = name.and_then(|name| documents.sites.get(&name)) {
                compare_site(site, documents, status);
            }
        }
        Ok(())
    }
}

fn compare_site(site: &Site, documents: &Documents, status: &mut SiteStatus) {
    let known = known_networks(site, documents, &status.nodes);
    for node in &mut status.nodes {
        let differences = compare_node(site, &known, node);
        node.differences = differences;
    }
}

fn compare_node(site: &Site, known: &[IpNet], node: &NodeReport) -> Vec<Difference> {
    let Some(facts) = &node.facts else {
        return Vec::new();
    };
    let roles: BTreeSet<Role> = node.roles.iter().filter_map(|r| r.parse().ok()).collect();
    let mut differences = Vec::new();
    if let Some(voipnow) = &facts.voipnow {
        compare_roles(&roles, voipnow, &mut differences);
        compare_ports(site, voipnow, &mut differences);
        compare_networks(known, voipnow, &mut differences);
    }
    for listener in &facts.listeners {
        let port = u16::try_from(listener.port).unwrap_or_default();
        if let Some(service) = opened_to_world(site, &roles, port) {
            let process = match listener.process.as_str() {
                "" => "a socket of the kernel or of a hidden process",
                process => process,
            };
            differences.push(difference(
                DifferenceKind::OpenListener,
                format!("{process} on udp {port}"),
                service.name,
            ));
        }
    }
    differences
}

fn difference(
    kind: DifferenceKind,
    found: impl Into<String>,
    documented: impl Into<String>,
) -> Difference {
    Difference {
        kind: kind.into(),
        found: found.into(),
        documented: documented.into(),
    }
}

fn compare_roles(enrolled: &BTreeSet<Role>, voipnow: &VoipNow, into: &mut Vec<Difference>) {
    let found: BTreeSet<Role> = voipnow
        .roles
        .iter()
        .filter_map(|r| r.parse().ok())
        .collect();
    if found.is_empty() {
        return; // VoipNow is stopped, or its daemons have other names here
    }
    for role in found.difference(enrolled) {
        // The infrastructure controller brings a web server of its own.
        if *role != Role::Http || !enrolled.contains(&Role::Ic) {
            into.push(difference(DifferenceKind::RoleNotEnrolled, role.code(), ""));
        }
    }
    for role in enrolled.difference(&found) {
        if !SILENT.contains(role) {
            into.push(difference(DifferenceKind::RoleNotRunning, "", role.code()));
        }
    }
}

fn compare_ports(site: &Site, voipnow: &VoipNow, into: &mut Vec<Difference>) {
    for back_end in &voipnow.back_ends {
        let Some(service) = catalogue::service(&back_end.service) else {
            continue;
        };
        let ranges = ports(site, service, Transport::Tcp);
        let port = u16::try_from(back_end.port).unwrap_or_default();
        if ranges.iter().any(|range| range.contains(port)) {
            continue;
        }
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        into.push(difference(
            DifferenceKind::Port,
            format!("{} on {}:{}", service.name, back_end.host, back_end.port),
            format!("{} on tcp {}", service.name, ranges.join(", ")),
        ));
    }
}

fn compare_networks(known: &[IpNet], voipnow: &VoipNow, into: &mut Vec<Difference>) {
    for network in &voipnow.trusted_networks {
        let as_address = InterfaceAddress {
            interface: String::new(),
            address: network.address.clone(),
            prefix_length: network.prefix_length,
        };
        for address in read_addresses(&[as_address]) {
            if !known.iter().any(|known| known.contains(&address.net)) {
                let found = address.net.to_string();
                into.push(difference(DifferenceKind::TrustedNetwork, found, ""));
            }
        }
    }
}

/// The ports of a service at a site.
fn ports(site: &Site, service: &Service, transport: Transport) -> Vec<PortRange> {
    let own = site.services.get(service.name);
    if let Some(ports) = own.and_then(|own| own.ports.as_ref()) {
        return ports.clone();
    }
    let openings = service.openings.iter();
    openings
        .filter(|opening| opening.transport == transport)
        .flat_map(|opening| opening.ports.iter().copied())
        .collect()
}

/// The service through which the world reaches a UDP port of a node, if there is one.
fn opened_to_world(site: &Site, roles: &BTreeSet<Role>, port: u16) -> Option<&'static Service> {
    SERVICES.iter().find(|service| {
        let own = site.services.get(service.name);
        let to_world = match own.and_then(|own| own.from.as_ref()) {
            Some(from) => from.contains(&AddressWord::World),
            None => service.default_from.contains(&Exposure::World),
        };
        let by_udp = match own.and_then(|own| own.proto.as_ref()) {
            Some(proto) => proto.contains(&Transport::Udp),
            None => service
                .openings
                .iter()
                .any(|o| o.transport == Transport::Udp),
        };
        let ranges = ports(site, service, Transport::Udp);
        service.direction == Direction::Inbound
            && to_world
            && by_udp
            && service.roles.meet(roles)
            && ranges.iter().any(|range| range.contains(port))
    })
}

/// The networks that the documents know: of tenants, providers, admins and the cluster, and the
/// networks that the nodes are on by the cluster's interface. Neighbours are joined.
fn known_networks(site: &Site, documents: &Documents, nodes: &[NodeReport]) -> Vec<IpNet> {
    let mut known = Vec::new();
    for word in &[AddressWord::Clients, AddressWord::Admins] {
        let expansion = site.expand(documents, word, &ProviderPart::BOTH);
        known.extend(expansion.addresses.iter().flat_map(Addresses::all_nets));
    }
    known.extend(&site.cluster.networks);
    known.extend(&site.cluster.members);
    let interfaces = site.cluster.interfaces();
    for facts in nodes.iter().filter_map(|node| node.facts.as_ref()) {
        for address in read_addresses(&facts.addresses) {
            if interfaces.is_empty()
                || interfaces
                    .iter()
                    .any(|name| name.as_str() == address.interface)
            {
                known.push(address.net.trunc());
            }
        }
    }
    IpNet::aggregate(&known)
}

#[cfg(test)]
#[path = "host_audit_tests.rs"]
mod tests;
