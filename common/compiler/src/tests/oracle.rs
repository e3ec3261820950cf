//! The compiled rules against a reading of the documents that knows no chains and no sets.

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;
use voipfleet_policy::catalogue::{Direction, Group, Roles, SERVICES, Service};
use voipfleet_policy::{AddressWord, TestPacket, Traffic, Transport, Trust};
use voipfleet_ruleset::ruleset::{
    DnsName, DynamicSetName, DynamicSets, Interface, IpProtocol, PortRange,
};

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
    interface: &'a str,
    packet: TestPacket,
}

impl Reading<'_> {
    fn gets_through(&self) -> bool {
        let ssh = self.packet == TestPacket::Port(Transport::Tcp, 22);
        if ssh && self.is(&AddressWord::Admins, false) {
            return true;
        }
        if self.is_dynamic(&DynamicSetName::BlockForced) {
            return false;
        }
        let cluster = &self.site.cluster;
        let full = cluster.trust == Trust::Full && self.is_member_here();
        let by_protocol = match self.packet {
            TestPacket::Protocol(protocol) => {
                cluster.protocols.contains(&protocol) && self.is_member_for_protocols()
            }
            TestPacket::Port(..) => false,
        };
        if full || by_protocol {
            return !(cluster.is_by_interface_alone() && self.is_dynamic(&DynamicSetName::Block));
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
                let by = rule.interface.as_ref().map(Interface::as_str);
                let (of_it, anywhere) = match (&rule.traffic, self.packet) {
                    (Traffic::Ports(transport, ports), TestPacket::Port(sent, port)) => {
                        let inside = ports.iter().any(|range| range.contains(port));
                        (*transport == sent && inside, false)
                    }
                    (Traffic::Protocol(protocol), TestPacket::Protocol(sent)) => {
                        (*protocol == sent, true)
                    }
                    (Traffic::Any, _) => (true, false),
                    _ => (false, false),
                };
                let is = |word: &AddressWord| match word {
                    AddressWord::Cluster if by.is_some() => self.is_member(),
                    AddressWord::Cluster if anywhere => self.is_member_for_protocols(),
                    word => self.is(word, false),
                };
                here && of_it
                    && by.is_none_or(|by| by == self.interface)
                    && rule.from.iter().any(is)
            })
    }

    fn reaches(&self, service: &Service) -> bool {
        let has = |role| self.node.roles.contains(&role);
        let here = match service.roles {
            Roles::All | Roles::Unpublished => true,
            Roles::Of(roles) => roles.iter().any(|role| has(*role)),
        };
        let TestPacket::Port(transport, port) = self.packet else {
            return false;
        };
        if !here || !self.is_port_of(service, transport, port) {
            return false;
        }
        let media = matches!(service.group, Group::Rtp | Group::T38);
        if media && self.is_sip_port(port) {
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

    fn is_port_of(&self, service: &Service, transport: Transport, port: u16) -> bool {
        let inside = |ranges: &[PortRange]| ranges.iter().any(|range| range.contains(port));
        let changes = self
            .site
            .services
            .get(service.name)
            .cloned()
            .unwrap_or_default();
        let published = service.openings.iter().find(|o| o.transport == transport);
        let speaks = match &changes.proto {
            Some(transports) => transports.contains(&transport),
            None => published.is_some(),
        };
        speaks
            && match (&changes.ports, published) {
                (Some(ports), _) => inside(ports),
                (None, Some(opening)) => inside(opening.ports),
                (None, None) => service.openings.iter().any(|o| inside(o.ports)),
            }
    }

    fn is_sip_port(&self, port: u16) -> bool {
        let sip = SERVICES
            .iter()
            .filter(|service| service.group == Group::Sip);
        [5050, 5060, 5061].contains(&port)
            || sip.into_iter().any(|service| {
                let changes = self.site.services.get(service.name);
                let moved = changes.and_then(|changes| changes.ports.as_ref());
                moved.is_some_and(|ports| ports.iter().any(|range| range.contains(port)))
            })
    }

    fn is_denied_by(&self, word: &AddressWord) -> bool {
        let member = self.is_member() && !self.site.cluster.is_by_interface_alone();
        let spared = member || self.is(&AddressWord::Admins, false);
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
        let wanted = self.site.cluster.interface.as_ref();
        self.is_member() && wanted.is_none_or(|wanted| wanted.as_str() == self.interface)
    }

    /// Protocols come by any interface, where the document names the members.
    fn is_member_for_protocols(&self) -> bool {
        if self.site.cluster.is_by_interface_alone() {
            self.is_member_here()
        } else {
            self.is_member()
        }
    }

    fn is_member(&self) -> bool {
        let cluster = &self.site.cluster;
        if cluster.members.iter().any(|net| net.contains(&self.source)) {
            return true;
        }
        let mut reported = self.nodes.iter().flat_map(|node| &node.addresses);
        reported.any(|address| {
            let ip = address.net.addr();
            let named = if cluster.networks.is_empty() {
                // The fixture's nodes have their private addresses on eth1.
                cluster.interface.is_some() && address.interface == "eth1"
            } else {
                cluster.networks.iter().any(|net| net.contains(&ip))
            };
            named && ip == self.source
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
    let ranges =
        published
            .chain(own)
            .chain(site.rules.iter().flat_map(|rule| match &rule.traffic {
                Traffic::Ports(_, ports) => ports.as_slice(),
                Traffic::Protocol(_) | Traffic::Any => &[],
            }));
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
        packets in prop::collection::vec(any::<(Index, Index, Index, Index, bool)>(), 200),
    ) {
        let documents = enforced(documents);
        let site = documents.sites.values().next().unwrap();
        let mut dynamic = dynamic;
        for interface in [None, site.cluster.interface.clone()] {
            let claimed = cluster(&nodes, interface.as_ref());
            dynamic.insert(DynamicSetName::Cluster(interface), claimed);
        }
        let compiled = effective_with(&documents, &nodes, &dynamic).unwrap();
        let (addresses, ports) = (addresses(&documents, &nodes, &dynamic), ports(site));
        let others = ["vrrp", "esp", "ospf"].map(|name| name.parse::<IpProtocol>().unwrap());
        for (node, source, port, kind, on_eth1) in packets {
            let node = node.get(&nodes);
            let port = *port.get(&ports);
            let (sent, protocol) = match kind.index(5) {
                0 => {
                    let other = others[kind.index(others.len())];
                    (TestPacket::Protocol(other), Protocol::Other(other))
                }
                1 | 2 => (TestPacket::Port(Transport::Tcp, port), Protocol::Tcp),
                _ => (TestPacket::Port(Transport::Udp, port), Protocol::Udp),
            };
            let reading = Reading {
                documents: &documents,
                site,
                nodes: &nodes,
                node,
                dynamic: &dynamic,
                source: *source.get(&addresses),
                interface: if on_eth1 { "eth1" } else { "eth0" },
                packet: sent,
            };
            let mut packet = Packet::new(reading.source, protocol, port);
            packet.in_interface = Some(reading.interface.parse().unwrap());
            let outcome = simulate(&compiled.rulesets[&node.name], &packet);
            prop_assert_eq!(
                outcome.decision == Decision::Accept,
                reading.gets_through(),
                "{:?} from {} on {} by {}: {:?}",
                sent, reading.source, node.name, reading.interface, outcome
            );
        }
    }
}
