//! Addresses that a site serves or depends on.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_compiler::{Membership, NodeInput};
use voipfleet_policy::{AddressSource, AddressWord, Documents, Site};
use voipfleet_ruleset::ruleset::{DnsName, ProviderPart};

/// The kind of owner of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// Sources with SSH access.
    Admins,
    /// Its nodes.
    Cluster,
    /// Its carriers.
    Providers,
    /// Its customers.
    Tenants,
}

/// A prefix and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) net: IpNet,
    pub(super) owner: Owner,
    /// `tenant acme: offices`.
    pub(super) origin: String,
}

/// The addresses of DNS names in documents.
pub(super) type Resolved = BTreeMap<DnsName, Vec<IpNet>>;

/// The address words of a site's clients, including those that only a service or a rule names.
fn client_words(site: &Site) -> impl Iterator<Item = (Owner, AddressWord)> {
    let serves = site.serves();
    let providers = serves.providers.into_iter().cloned();
    let tenants = serves.tenants.into_iter().cloned();
    let providers = providers.map(|name| (Owner::Providers, AddressWord::Provider(name)));
    providers.chain(tenants.map(|name| (Owner::Tenants, AddressWord::Tenant(name))))
}

/// The DNS names of a site's clients.
pub(super) fn hosts(site: &Site, documents: &Documents) -> BTreeSet<DnsName> {
    let mut hosts = BTreeSet::new();
    for (_, word) in client_words(site) {
        let expansion = site.expand(documents, &word, &ProviderPart::BOTH);
        let names = expansion.addresses.iter().flat_map(|one| one.hosts);
        hosts.extend(names.cloned());
    }
    hosts
}

/// What of a site's own overlaps `net`.
pub(super) fn touched(
    site: &Site,
    documents: &Documents,
    nodes: &[NodeInput],
    resolved: &Resolved,
    net: IpNet,
) -> Vec<Served> {
    let mut found = Vec::new();
    let mut add = |owner, nets: &[IpNet], origin: &str| {
        let touches = |own: &&IpNet| own.contains(&net) || net.contains(*own);
        found.extend(nets.iter().filter(touches).map(|net| Served {
            net: net.trunc(),
            owner,
            origin: origin.to_owned(),
        }));
    };
    let admins = (Owner::Admins, AddressWord::Admins);
    let (admins, clients) = (std::iter::once(admins), client_words(site));
    for (owner, word) in admins.chain(clients) {
        let expansion = site.expand(documents, &word, &ProviderPart::BOTH);
        for addresses in expansion.addresses {
            let Some(origin) = origin(site, addresses.source) else {
                continue;
            };
            add(owner, addresses.nets, &origin);
            for host in addresses.hosts {
                if let Some(nets) = resolved.get(host) {
                    add(owner, nets, &format!("{origin}, {host}"));
                }
            }
        }
    }
    // What a node claims beyond the document's networks protects no address from a block.
    let membership = Membership::of(&site.cluster, nodes);
    for (address, names) in &membership.members {
        for name in names {
            add(
                Owner::Cluster,
                &[IpNet::from(*address)],
                &format!("node {name}"),
            );
        }
    }
    let members = format!("site {}: cluster.members", site.name);
    add(Owner::Cluster, &site.cluster.members, &members);
    found.sort_by_key(|one: &Served| one.owner);
    found
}

/// Where addresses are written; `None` for the nodes, which are looked at by themselves.
fn origin(site: &Site, source: AddressSource<'_>) -> Option<String> {
    match source {
        AddressSource::Tenant(name, network) => Some(format!("tenant {name}: {network}")),
        AddressSource::Provider(name, part) => Some(format!("provider {name}: {}", part.as_str())),
        AddressSource::List(name) => Some(format!("site {}: admins, list {name}", site.name)),
        AddressSource::Literal => Some(format!("site {}: admins", site.name)),
        AddressSource::Cluster => None,
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_policy::{Source, check};

    use super::*;

    const DOCUMENTS: &str = "
kind: Site
name: site-a
admins: [198.51.100.10, list:office]
cluster: {networks: [10.0.0.0/24], members: [198.18.0.200]}
tenants: [acme]
providers: [trunkco]
rules:
  - {name: monitoring, accept: {proto: tcp, ports: [9100], from: [tenant:watcher]}}
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/24, pbx.acme.example.net]}
---
kind: Tenant
name: watcher
networks: {all: [192.0.2.64/26]}
---
kind: Tenant
name: elsewhere
networks: {all: [198.51.100.64/26]}
---
kind: Provider
name: trunkco
signalling: [192.0.2.0/28]
media: [192.0.2.128/25]
---
kind: List
name: office
addresses: [\"2001:db8:ad::/64\"]
";

    #[test]
    fn everybody_whom_a_site_serves_is_found() {
        let source = Source {
            path: "a.yaml".to_owned(),
            text: DOCUMENTS.to_owned(),
        };
        let checked = check(&[source], &Documents::default());
        assert!(checked.diagnostics.is_empty(), "{:?}", checked.diagnostics);
        let documents = Documents::from_iter(checked.documents);
        let site = documents.sites.values().next().unwrap();
        let host: DnsName = "pbx.acme.example.net".parse().unwrap();
        assert_eq!(hosts(site, &documents), BTreeSet::from([host.clone()]));
        let resolved = Resolved::from([(host, vec!["100.0.0.7/32".parse().unwrap()])]);
        let nodes = [NodeInput {
            name: "sip1".parse().unwrap(),
            roles: BTreeSet::new(),
            addresses: vec![voipfleet_compiler::InterfaceAddress {
                interface: "eth1".to_owned(),
                net: "10.0.0.1/24".parse().unwrap(),
            }],
            lost: Vec::new(),
            standing: voipfleet_compiler::Standing::Member,
        }];
        for (net, owner, origin) in [
            ("198.51.100.10", Owner::Admins, "site site-a: admins"),
            (
                "2001:db8::/32",
                Owner::Admins,
                "site site-a: admins, list office",
            ),
            ("10.0.0.1", Owner::Cluster, "node sip1"),
            (
                "198.18.0.200",
                Owner::Cluster,
                "site site-a: cluster.members",
            ),
            ("203.0.113.7", Owner::Tenants, "tenant acme: offices"),
            ("203.0.0.0/16", Owner::Tenants, "tenant acme: offices"),
            (
                "100.0.0.7",
                Owner::Tenants,
                "tenant acme: offices, pbx.acme.example.net",
            ),
            ("192.0.2.65", Owner::Tenants, "tenant watcher: all"),
            (
                "192.0.2.1",
                Owner::Providers,
                "provider trunkco: signalling",
            ),
            ("192.0.2.130", Owner::Providers, "provider trunkco: media"),
        ] {
            let net = voipfleet_policy::parse_network(net).unwrap();
            let found = touched(site, &documents, &nodes, &resolved, net);
            let found: Vec<_> = found
                .iter()
                .map(|one| (one.owner, one.origin.as_str()))
                .collect();
            assert_eq!(found, [(owner, origin)], "{net}");
        }
        for net in ["198.51.100.66", "192.0.2.16", "10.0.0.2"] {
            let net = voipfleet_policy::parse_network(net).unwrap();
            assert!(
                touched(site, &documents, &nodes, &resolved, net).is_empty(),
                "{net}"
            );
        }
    }
}
