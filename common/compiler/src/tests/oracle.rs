//! The compiled rules against a reading of the documents that knows no chains and no sets.

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;
use voipfleet_policy::catalogue::{Direction, Group, Roles, SERVICES, Service};
use voipfleet_policy::{AddressWord, Transport, Trust};
use voipfleet_ruleset::ruleset::{DnsName, DynamicSetName, DynamicSets, Interface, PortRange};

use super::*;
use crate::dynamic_sets::cluster;
use crate::fixtures::{any_documents, any_dynamic, any_nodes, effective_with};

/// A first packet, and everything that decides whether it should get through.
struct Reading<'a> {
    documents: &'a Documents,
    site: &'a Site,
    nodes: &'a [NodeInput],
    node: &'a NodeInput,
    dynamic: &'a DynamicSets,
    source: IpAddr,
    on_cluster_interface: bool,
    transport: Transport,
    port: u16,
}

impl Reading<'_> {
    fn gets_through(&self) -> bool {
        let ssh = self.transport == Transport::Tcp && self.port == 22;
        if ssh && self.is(&AddressWord::Admins, false) {
            return true;
        }
        if self.site.cluster.trust == Trust::Full && self.is_member_here() {
            return true;
        }
        if self.is_dynamic(&DynamicSetName::Block) || self.is_dynamic(&DynamicSetName::Open) {
            return !self.is_dynamic(&DynamicSetName::Block);
        }
        if self.site.deny.iter().any(|word| self.is_denied_by(word)) {
            return false;
        }
        let services = SERVICES
            .iter()
            .filter(|s| s.direction == Direction::Inbound);
        services.into_iter().any(|service| self.reaches(service))
            || self.site.rules.iter().any(|rule| {
                let here = rule.roles.is_empty()
                    || rule.roles.iter().any(|role| self.node.roles.contains(role));
                here && rule.proto == self.transport
                    && rule.ports.iter().any(|range| range.contains(self.port))
                    && rule.from.iter().any(|word| self.is(word, false))
            })
    }

    fn reaches(&self, service: &Service) -> bool {
        let has = |role| self.node.roles.contains(&role);
        let here = match service.roles {
            Roles::All | Roles::Unpublished => true,
            Roles::Of(roles) => roles.iter().any(|role| has(*role)),
        };
        if !here || !self.is_port_of(service) {
            return false;
        }
        let media = matches!(service.group, Group::Rtp | Group::T38);
        if media && self.is_sip_port() {
            return false;
        }
        let changes = self.site.services.get(service.name);
        let from: Vec<AddressWord> = match changes.and_then(|changes| changes.from.as_ref()) {
            Some(words) => words.clone(),
            None => service.default_from.iter().map(|e| (*e).into()).collect(),
        };
        if service.name == "web" && !has(Role::Http) {
            return !from.is_empty() && self.is(&AddressWord::Admins, false);
        }
        from.iter().any(|word| self.is(word, media))
    }

    fn is_port_of(&self, service: &Service) -> bool {
        let inside = |ranges: &[PortRange]| ranges.iter().any(|range| range.contains(self.port));
        let changes = self
            .site
            .services
            .get(service.name)
            .cloned()
            .unwrap_or_default();
        let published = service
            .openings
            .iter()
            .find(|o| o.transport == self.transport);
        let speaks = match &changes.proto {
            Some(transports) => transports.contains(&self.transport),
            None => published.is_some(),
        };
        speaks
            && match (&changes.ports, published) {
                (Some(ports), _) => inside(ports),
                (None, Some(opening)) => inside(opening.ports),
                (None, None) => service.openings.iter().any(|o| inside(o.ports)),
            }
    }

    fn is_sip_port(&self) -> bool {
        let sip = SERVICES
            .iter()
            .filter(|service| service.group == Group::Sip);
        [5050, 5060, 5061].contains(&self.port)
            || sip.into_iter().any(|service| {
                let changes = self.site.services.get(service.name);
                let moved = changes.and_then(|changes| changes.ports.as_ref());
                moved.is_some_and(|ports| ports.iter().any(|range| range.contains(self.port)))
            })
    }

    fn is_denied_by(&self, word: &AddressWord) -> bool {
        let spared = self.is_member() || self.is(&AddressWord::Admins, false);
        match word {
            AddressWord::List(name) => {
                let list = &self.documents.lists[name];
                let inside = |net: &IpNet| net.contains(&self.source);
                let fetched =
                    list.feed.is_some() && self.is_dynamic(&DynamicSetName::DenyFeed(name.clone()));
                let own = self.is_own(&AddressWord::Clients) || self.is_named();
                let own_entry = list.nets().any(inside) && !self.is_private();
                (own_entry || fetched) && !spared && !own
            }
            AddressWord::Cluster => false,
            // Whom an operator let in is no client who could be denied.
            AddressWord::Clients => [AddressWord::Tenants, AddressWord::Providers]
                .iter()
                .any(|word| self.is_denied_by(word)),
            word => (self.is(word, false) || self.is(word, true)) && !spared,
        }
    }

    fn is_own(&self, word: &AddressWord) -> bool {
        self.is(word, false) || self.is(word, true)
    }

    /// Whether something names the tenant or the provider that it is of, to let it in.
    fn is_named(&self) -> bool {
        let services = self.site.services.values();
        let services = services.flat_map(|service| service.from.iter().flatten());
        let rules = self.site.rules.iter().flat_map(|rule| &rule.from);
        let mut words = services.chain(rules).chain(&self.site.admins);
        words.any(|word| {
            matches!(word, AddressWord::Tenant(_) | AddressWord::Provider(_)) && self.is_own(word)
        })
    }

    fn is_private(&self) -> bool {
        match self.source {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                v4.is_private()
                    || v4.is_loopback()
                    || v4.is_link_local()
                    || a == 0
                    || a >= 224
                    || (a == 100 && (64..128).contains(&b))
            }
            IpAddr::V6(v6) => {
                v6.is_unique_local()
                    || v6.is_unicast_link_local()
                    || v6.is_multicast()
                    || v6.is_loopback()
                    || v6.is_unspecified()
            }
        }
    }

    /// Whether the source is a member that came by the right interface.
    fn is_member_here(&self) -> bool {
        self.is_member() && (self.site.cluster.interface.is_none() || self.on_cluster_interface)
    }

    fn is_member(&self) -> bool {
        // The fixture's nodes all have eth0 and eth1.
        let wanted = self
            .site
            .cluster
            .interface
            .as_ref()
            .map_or(&["eth0", "eth1"][..], |_: &Interface| &["eth1"]);
        self.nodes
            .iter()
            .flat_map(|node| &node.addresses)
            .any(|address| {
                let link_local =
                    matches!(address.net, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
                wanted.contains(&address.interface.as_str())
                    && !link_local
                    && address.net.addr() == self.source
            })
    }

    fn is_dynamic(&self, name: &DynamicSetName) -> bool {
        let held = self.dynamic.get(name).into_iter();
        let mut nets = held.flat_map(|value| &value.elements);
        nets.any(|net| net.contains(&self.source))
    }

    fn is_host(&self, names: &[DnsName]) -> bool {
        let mut names = names.iter();
        names.any(|name| self.is_dynamic(&DynamicSetName::Name(name.clone())))
    }

    /// Whether the source is among those that `word` names.
    fn is(&self, word: &AddressWord, media: bool) -> bool {
        let inside = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&self.source));
        match word {
            AddressWord::World => true,
            AddressWord::Local => false,
            AddressWord::Clients => {
                self.is(&AddressWord::Tenants, media)
                    || self.is(&AddressWord::Providers, media)
                    || self.is_dynamic(&DynamicSetName::Allow)
            }
            AddressWord::Tenants => {
                let mut names = self.site.tenants.iter();
                names.any(|name| self.is(&AddressWord::Tenant(name.clone()), media))
            }
            AddressWord::Providers => {
                let mut names = self.site.providers.iter();
                names.any(|name| self.is(&AddressWord::Provider(name.clone()), media))
            }
            AddressWord::Admins => self.site.admins.iter().any(|word| self.is(word, false)),
            AddressWord::Cluster => self.is_member_here(),
            AddressWord::Tenant(name) => {
                let tenant = &self.documents.tenants[name];
                tenant.networks.values().any(|nets| inside(nets))
                    || tenant.names.values().any(|names| self.is_host(names))
            }
            AddressWord::Provider(name) => {
                let provider = &self.documents.providers[name];
                if media {
                    inside(&provider.media) || self.is_host(&provider.media_names)
                } else {
                    inside(&provider.signalling) || self.is_host(&provider.signalling_names)
                }
            }
            AddressWord::List(name) => {
                let list = &self.documents.lists[name];
                list.nets().any(|net| net.contains(&self.source))
                    || (list.feed.is_some() && self.is_dynamic(&DynamicSetName::Feed(name.clone())))
            }
            AddressWord::Net(net) => net.contains(&self.source),
        }
    }
}

/// Addresses on both sides of every edge in the documents.
fn addresses(documents: &Documents, nodes: &[NodeInput], dynamic: &DynamicSets) -> Vec<IpAddr> {
    let site = documents.sites.values().next().unwrap();
    let mut nets: Vec<IpNet> = Vec::new();
    let words = site.admins.iter().chain(&site.deny);
    let words = words.chain(site.services.values().flat_map(|s| s.from.iter().flatten()));
    for word in words.chain(site.rules.iter().flat_map(|rule| &rule.from)) {
        if let AddressWord::Net(net) = word {
            nets.push(*net);
        }
    }
    nets.extend(
        documents
            .tenants
            .values()
            .flat_map(|t| t.networks.values().flatten()),
    );
    nets.extend(
        documents
            .providers
            .values()
            .flat_map(|p| p.signalling.iter().chain(&p.media)),
    );
    nets.extend(
        documents
            .lists
            .values()
            .flat_map(voipfleet_policy::List::nets),
    );
    nets.extend(dynamic.sources.values().flat_map(|value| &value.elements));
    nets.extend(
        nodes
            .iter()
            .flat_map(|node| &node.addresses)
            .map(|a| IpNet::from(a.net.addr())),
    );
    let step = |address: IpAddr, by: i8| match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add_signed(by.into()).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add_signed(by.into()).into()),
    };
    let edges = |net: &IpNet| {
        let (first, last) = (net.network(), net.broadcast());
        [step(first, -1), first, last, step(last, 1)]
    };
    nets.iter().flat_map(edges).collect()
}

/// Ports on both sides of every edge in the catalogue and the documents.
fn ports(site: &Site) -> Vec<u16> {
    let published = SERVICES
        .iter()
        .flat_map(|s| s.openings)
        .flat_map(|o| o.ports);
    let own = site
        .services
        .values()
        .flat_map(|s| s.ports.iter().flatten());
    let ranges = published
        .chain(own)
        .chain(site.rules.iter().flat_map(|rule| &rule.ports));
    ranges
        .flat_map(|range| {
            [
                range.first.saturating_sub(1).max(1),
                range.first,
                range.last,
                range.last.saturating_add(1),
            ]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_rules_do_what_the_documents_say(
        documents in any_documents(),
        nodes in any_nodes().prop_filter("needs a node", |nodes| !nodes.is_empty()),
        dynamic in any_dynamic(),
        packets in prop::collection::vec(any::<(Index, Index, Index, bool, bool)>(), 200),
    ) {
        let documents = enforced(documents);
        let site = documents.sites.values().next().unwrap();
        let mut dynamic = dynamic;
        let interface = site.cluster.interface.clone();
        let members = cluster(&nodes, interface.as_ref());
        dynamic.insert(DynamicSetName::Cluster(interface), members);
        let compiled = effective_with(&documents, &nodes, &dynamic).unwrap();
        let (addresses, ports) = (addresses(&documents, &nodes, &dynamic), ports(site));
        for (node, source, port, tcp, on_cluster_interface) in packets {
            let node = node.get(&nodes);
            let reading = Reading {
                documents: &documents,
                site,
                nodes: &nodes,
                node,
                dynamic: &dynamic,
                source: *source.get(&addresses),
                on_cluster_interface,
                transport: if tcp { Transport::Tcp } else { Transport::Udp },
                port: *port.get(&ports),
            };
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mut packet = Packet::new(reading.source, protocol, reading.port);
            let interface = if on_cluster_interface { "eth1" } else { "eth0" };
            packet.in_interface = Some(interface.parse().unwrap());
            let outcome = simulate(&compiled.rulesets[&node.name], &packet);
            prop_assert_eq!(
                outcome.decision == Decision::Accept,
                reading.gets_through(),
                "{:?} {} from {} on {} by {}: {:?}",
                protocol, reading.port, reading.source, node.name, interface, outcome
            );
        }
    }
}
