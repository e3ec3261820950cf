//! The names of those whom foreign firewalls cut off. A node knows addresses by the sets of its ruleset,
//! of which one may hold all tenants; the documents know whose they are.

use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_policy::{AddressSource, AddressWord, Documents, Site};
use voipfleet_proto::v1::{CutOff, CutOffKind, InterfaceAddress, SiteStatus};
use voipfleet_ruleset::ruleset::ProviderPart;

use crate::site_inputs::read_addresses;

/// Fills in the names of tenants, providers and nodes.
pub(super) fn name(documents: &Documents, status: &mut SiteStatus) {
    let is_cut_off = status.nodes.iter().filter_map(|node| node.facts.as_ref());
    let mut reported = is_cut_off.flat_map(|facts| &facts.neighbours);
    if reported.all(|neighbour| neighbour.cut_off.is_empty()) {
        return;
    }
    let site = status.site.parse().ok();
    let site = site.and_then(|name| documents.sites.get(&name));
    let known = site.map(|site| known(site, documents)).unwrap_or_default();
    let members: Vec<(IpAddr, String)> = status
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.facts.as_ref()?)))
        .flat_map(|(node, facts)| {
            let own = read_addresses(&facts.addresses).into_iter();
            own.map(|address| (address.net.addr(), node.node.clone()))
        })
        .collect();
    let facts = status
        .nodes
        .iter_mut()
        .filter_map(|node| node.facts.as_mut());
    for one in facts
        .flat_map(|facts| &mut facts.neighbours)
        .flat_map(|n| &mut n.cut_off)
    {
        name_one(one, &known, &members);
    }
}

fn name_one(one: &mut CutOff, known: &[Known], members: &[(IpAddr, String)]) {
    let Some(net) = network(one) else {
        return;
    };
    match one.kind() {
        CutOffKind::Cluster => {
            let node = members.iter().find(|(address, _)| net.contains(address));
            if let Some((_, node)) = node {
                one.name.clone_from(node);
            }
        }
        CutOffKind::Client | CutOffKind::Tenant | CutOffKind::Provider if one.name.is_empty() => {
            // The narrowest network, where one lies in another.
            let holders = known.iter().filter(|known| known.net.contains(&net));
            if let Some(known) = holders.max_by_key(|known| known.net.prefix_len()) {
                one.kind = known.kind.into();
                one.name.clone_from(&known.name);
            }
        }
        _ => {}
    }
}

/// A network of the documents.
struct Known {
    net: IpNet,
    kind: CutOffKind,
    name: String,
}

fn known(site: &Site, documents: &Documents) -> Vec<Known> {
    let expansion = site.expand(documents, &AddressWord::Clients, &ProviderPart::BOTH);
    let of = |source: AddressSource<'_>| match source {
        AddressSource::Tenant(name, _) => Some((CutOffKind::Tenant, name.to_string())),
        AddressSource::Provider(name, _) => Some((CutOffKind::Provider, name.to_string())),
        _ => None,
    };
    let addresses = expansion.addresses.iter();
    let named = addresses.filter_map(|addresses| Some((of(addresses.source)?, addresses)));
    named
        .flat_map(|((kind, name), addresses)| {
            addresses.all_nets().map(move |net| Known {
                net: *net,
                kind,
                name: name.clone(),
            })
        })
        .collect()
}

fn network(one: &CutOff) -> Option<IpNet> {
    let network = one.network.as_ref()?;
    let address = InterfaceAddress {
        interface: String::new(),
        address: network.address.clone(),
        prefix_length: network.prefix_length,
    };
    Some(read_addresses(&[address]).first()?.net.trunc())
}

#[cfg(test)]
mod tests {
    use voipfleet_policy::{Source, check};
    use voipfleet_proto::v1::{Neighbour, Network, NodeFacts, NodeReport};

    use super::*;

    const POLICY: &str = "
kind: Site
name: site-a
tenants: [acme]
providers: [trunkco]
admins: [198.51.100.0/24]
mode: enforce
default: drop
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/25]}
---
kind: Provider
name: trunkco
signalling: [192.0.2.0/28]
media: [192.0.2.128/25]
";

    fn cut_off(kind: CutOffKind, address: [u8; 4]) -> CutOff {
        CutOff {
            kind: kind.into(),
            network: Some(Network {
                address: address.to_vec(),
                prefix_length: 32,
            }),
            ..CutOff::default()
        }
    }

    #[test]
    fn addresses_get_the_names_of_tenants_providers_and_nodes() {
        let source = Source {
            path: "policy.yaml".to_owned(),
            text: POLICY.to_owned(),
        };
        let documents = check(&[source], &Documents::default()).documents;
        let documents: Documents = documents.into_iter().collect();
        let neighbour = Neighbour {
            cut_off: vec![
                cut_off(CutOffKind::Client, [203, 0, 113, 9]),
                cut_off(CutOffKind::Client, [192, 0, 2, 5]),
                cut_off(CutOffKind::Cluster, [10, 20, 0, 11]),
                cut_off(CutOffKind::Admin, [198, 51, 100, 10]),
                cut_off(CutOffKind::Client, [9, 9, 9, 9]),
            ],
            ..Neighbour::default()
        };
        let mut status = SiteStatus {
            site: "site-a".to_owned(),
            nodes: vec![NodeReport {
                node: "sip1".to_owned(),
                facts: Some(NodeFacts {
                    addresses: vec![InterfaceAddress {
                        interface: "eth1".to_owned(),
                        address: vec![10, 20, 0, 11],
                        prefix_length: 24,
                    }],
                    neighbours: vec![neighbour],
                    ..NodeFacts::default()
                }),
                ..NodeReport::default()
            }],
            ..SiteStatus::default()
        };
        name(&documents, &mut status);
        let facts = status.nodes[0].facts.as_ref().unwrap();
        let named: Vec<(CutOffKind, &str)> = facts.neighbours[0]
            .cut_off
            .iter()
            .map(|one| (one.kind(), one.name.as_str()))
            .collect();
        assert_eq!(
            named,
            [
                (CutOffKind::Tenant, "acme"),
                (CutOffKind::Provider, "trunkco"),
                (CutOffKind::Cluster, "sip1"),
                (CutOffKind::Admin, ""),
                (CutOffKind::Client, ""),
            ]
        );
    }
}
