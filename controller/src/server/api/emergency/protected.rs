//! The addresses of those whom a site serves or cannot do without.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_compiler::NodeInput;
use voipfleet_policy::{AddressWord, Documents, Site};
use voipfleet_ruleset::identifiers::{ProviderName, TenantName};
use voipfleet_ruleset::ruleset::DnsName;

/// For whom a site has addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// Those who have SSH.
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

/// What the DNS names of documents stand for.
pub(super) type Resolved = BTreeMap<DnsName, Vec<IpNet>>;

/// Looks only at what touches one network: a site may have many more.
pub(super) struct Look<'a> {
    site: &'a Site,
    documents: &'a Documents,
    resolved: &'a Resolved,
    net: IpNet,
    found: Vec<Served>,
}

/// The DNS names of a site's clients.
pub(super) fn hosts(site: &Site, documents: &Documents) -> BTreeSet<DnsName> {
    let mut hosts = BTreeSet::new();
    let serves = site.serves();
    for tenant in serves
        .tenants
        .iter()
        .filter_map(|name| documents.tenants.get(*name))
    {
        hosts.extend(tenant.names.values().flatten().cloned());
    }
    for provider in serves
        .providers
        .iter()
        .filter_map(|name| documents.providers.get(*name))
    {
        hosts.extend(provider.signalling_names.iter().cloned());
        hosts.extend(provider.media_names.iter().cloned());
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
    let mut look = Look {
        site,
        documents,
        resolved,
        net,
        found: Vec::new(),
    };
    for word in &site.admins {
        look.admin(word);
    }
    for node in nodes {
        for (interface, address) in node.cluster_addresses(None) {
            let origin = format!("node {}: {interface}", node.name);
            look.add(Owner::Cluster, &[IpNet::from(address)], &origin);
        }
    }
    let serves = site.serves();
    for name in serves.providers {
        look.provider(Owner::Providers, name);
    }
    for name in serves.tenants {
        look.tenant(Owner::Tenants, name);
    }
    look.found
}

impl Look<'_> {
    fn add(&mut self, owner: Owner, nets: &[IpNet], origin: &str) {
        let touches = |own: &&IpNet| own.contains(&self.net) || self.net.contains(*own);
        let found = nets.iter().filter(touches).map(|net| Served {
            net: net.trunc(),
            owner,
            origin: origin.to_owned(),
        });
        let found: Vec<_> = found.collect();
        self.found.extend(found);
    }

    fn hosts(&mut self, owner: Owner, hosts: &[DnsName], place: &str) {
        let resolved = self.resolved;
        for host in hosts {
            if let Some(nets) = resolved.get(host) {
                self.add(owner, nets, &format!("{place}, {host}"));
            }
        }
    }

    fn tenant(&mut self, owner: Owner, name: &TenantName) {
        let documents = self.documents;
        let Some(tenant) = documents.tenants.get(name) else {
            return;
        };
        for (network, nets) in &tenant.networks {
            self.add(owner, nets, &format!("tenant {name}: {network}"));
        }
        for (network, hosts) in &tenant.names {
            self.hosts(owner, hosts, &format!("tenant {name}: {network}"));
        }
    }

    fn provider(&mut self, owner: Owner, name: &ProviderName) {
        let documents = self.documents;
        let Some(provider) = documents.providers.get(name) else {
            return;
        };
        let place = |part| format!("provider {name}: {part}");
        self.add(owner, &provider.signalling, &place("signalling"));
        self.hosts(owner, &provider.signalling_names, &place("signalling"));
        self.add(owner, &provider.media, &place("media"));
        self.hosts(owner, &provider.media_names, &place("media"));
    }

    /// What the agents keep open for SSH.
    fn admin(&mut self, word: &AddressWord) {
        let site = self.site;
        let documents = self.documents;
        match word {
            AddressWord::Net(net) => {
                self.add(
                    Owner::Admins,
                    &[*net],
                    &format!("site {}: admins", site.name),
                );
            }
            AddressWord::List(name) => {
                if let Some(list) = documents.lists.get(name) {
                    let origin = format!("site {}: admins, list {name}", site.name);
                    self.add(Owner::Admins, &list.addresses, &origin);
                }
            }
            AddressWord::Tenant(name) => self.tenant(Owner::Admins, name),
            AddressWord::Provider(name) => self.provider(Owner::Admins, name),
            AddressWord::Tenants => site
                .tenants
                .iter()
                .for_each(|name| self.tenant(Owner::Admins, name)),
            AddressWord::Providers => {
                site.providers
                    .iter()
                    .for_each(|name| self.provider(Owner::Admins, name));
            }
            AddressWord::Clients => {
                self.admin(&AddressWord::Tenants);
                self.admin(&AddressWord::Providers);
            }
            // The cluster is looked at by itself, and the others are no admins.
            AddressWord::Cluster
            | AddressWord::World
            | AddressWord::Local
            | AddressWord::Admins => {}
        }
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
        }];
        for (net, owner, origin) in [
            ("198.51.100.10", Owner::Admins, "site site-a: admins"),
            (
                "2001:db8::/32",
                Owner::Admins,
                "site site-a: admins, list office",
            ),
            ("10.0.0.1", Owner::Cluster, "node sip1: eth1"),
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
