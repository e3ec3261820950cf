//! Documents and nodes for tests: fixed ones, and strategies for any.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use voipfleet_policy::catalogue::{Direction, SERVICES};
use voipfleet_policy::{
    AddressWord, Cluster, CustomRule, Dated, DefaultVerdict, Documents, Feed, FeedSource, Ipv6,
    List, PolicyTest, Provider, Rollout, ServiceOverride, Site, Tenant, TestPacket, Traffic,
    Transport, Trust,
};
use voipfleet_ruleset::identifiers::ListName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    DnsName, DynamicSet, DynamicSets, Expiring, Mode, PortRange, Rate, RateUnit, Until, distinct,
};

use super::{CompileError, Compiled, InterfaceAddress, NodeInput, Standing, compile, dynamic_sets};

/// Prefixes from text.
pub(crate) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

/// A prefix or address from text.
pub(crate) fn net(text: &str) -> IpNet {
    text.parse()
        .unwrap_or_else(|_| IpNet::from(text.parse::<std::net::IpAddr>().unwrap()))
}

/// An address word.
pub(crate) fn word(text: &str) -> AddressWord {
    AddressWord::Net(net(text))
}

/// A site that leaves everything to the catalogue.
pub(crate) fn plain_site(name: &str) -> Site {
    Site {
        name: name.parse().unwrap(),
        tenants: Vec::new(),
        providers: Vec::new(),
        admins: vec![word("198.51.100.10"), word("2001:db8:ad::/64")],
        cluster: Cluster::default(),
        ipv6: Ipv6::default(),
        mode: Mode::Enforce,
        default: DefaultVerdict::Drop,
        services: BTreeMap::new(),
        rules: Vec::new(),
        deny: Vec::new(),
        probes: Vec::new(),
        rollout: Rollout::default(),
        tests: Vec::new(),
    }
}

/// Site `site-a` with two tenants, a provider and a deny list, as in the design.
pub(crate) fn documents() -> Documents {
    let mut site = plain_site("site-a");
    site.tenants = vec!["acme".parse().unwrap(), "globex".parse().unwrap()];
    site.providers = vec!["trunkco".parse().unwrap()];
    site.cluster.interface = Some("eth1".parse().unwrap());
    site.cluster.networks = nets(&["10.0.0.0/24", "fd00:a::/64"]);
    site.services = BTreeMap::from([
        (
            "sip".to_owned(),
            ServiceOverride {
                limit: Rate::new(20, RateUnit::Second, 60),
                ..ServiceOverride::default()
            },
        ),
        (
            "smtp".to_owned(),
            ServiceOverride {
                from: Some(vec![AddressWord::List("mail-relays".parse().unwrap())]),
                ..ServiceOverride::default()
            },
        ),
    ]);
    site.rules = vec![CustomRule {
        name: "monitoring".to_owned(),
        traffic: Traffic::Ports(Transport::Tcp, vec![PortRange::single(9100)]),
        from: vec![word("10.20.0.0/16")],
        interface: None,
        roles: vec![Role::Sip, Role::Pbx],
        dangerous: false,
    }];
    site.deny = vec![AddressWord::List("voipbl".parse().unwrap())];
    site.tests = vec![PolicyTest {
        name: "phones register".to_owned(),
        from: "203.0.113.9".parse().unwrap(),
        role: Role::Sip,
        packet: TestPacket::Port(Transport::Udp, 5060),
        interface: None,
        accept: true,
    }];
    let mut documents = Documents::default();
    for (name, network, prefixes) in [
        ("acme", "offices", &["203.0.113.0/24", "2001:db8:10::/48"]),
        ("globex", "hq", &["203.0.113.128/25", "198.18.7.0/24"]),
    ] {
        let tenant = Tenant {
            name: name.parse().unwrap(),
            networks: BTreeMap::from([(network.to_owned(), nets(prefixes))]),
            names: BTreeMap::new(),
            dated: BTreeMap::new(),
        };
        documents.tenants.insert(tenant.name.clone(), tenant);
    }
    let provider = Provider {
        name: "trunkco".parse().unwrap(),
        signalling: nets(&["192.0.2.0/28", "2001:db8:71::/64"]),
        media: nets(&["192.0.2.128/25", "2001:db8:72::/64"]),
        signalling_names: Vec::new(),
        media_names: Vec::new(),
        signalling_dated: Dated::default(),
        media_dated: Dated::default(),
    };
    documents.providers.insert(provider.name.clone(), provider);
    for (name, addresses) in [
        ("mail-relays", nets(&["192.0.2.70", "2001:db8:25::25"])),
        (
            "voipbl",
            nets(&[
                "198.51.100.66",
                "203.0.113.7",
                "10.0.0.0/8",
                "2001:db8:bad::/48",
            ]),
        ),
    ] {
        let list = List {
            name: name.parse().unwrap(),
            addresses,
            dated: Dated::default(),
            feed: None,
        };
        documents.lists.insert(list.name.clone(), list);
    }
    documents.sites.insert(site.name.clone(), site);
    documents
}

/// The effective rulesets of `documents` for `site-a` while operators block and open nothing and
/// no name resolves.
pub(crate) fn effective(
    documents: &Documents,
    nodes: &[NodeInput],
) -> Result<Compiled, CompileError> {
    let site = "site-a".parse().unwrap();
    let dynamic = dynamic_sets::at_rest(&site, documents, nodes);
    effective_with(documents, nodes, &dynamic)
}

/// The same with these dynamic sets; what is not in them is empty.
pub(crate) fn effective_with(
    documents: &Documents,
    nodes: &[NodeInput],
    dynamic: &DynamicSets,
) -> Result<Compiled, CompileError> {
    let site = "site-a".parse().unwrap();
    let mut compiled = compile(&site, documents, nodes, dynamic)?;
    let dynamic = dynamic.only(&dynamic_sets::needed(&site, documents));
    for ruleset in compiled.rulesets.values_mut() {
        *ruleset = ruleset.with_dynamic(&dynamic).unwrap();
    }
    Ok(compiled)
}

/// Node number `number` with a public and a private address in both families.
pub(crate) fn node(name: &str, number: u8, roles: &[Role]) -> NodeInput {
    let address = |interface: &str, text: String| InterfaceAddress {
        interface: interface.to_owned(),
        net: text.parse().unwrap(),
    };
    NodeInput {
        name: name.parse().unwrap(),
        roles: roles.iter().copied().collect(),
        addresses: vec![
            address("lo", "127.0.0.1/8".to_owned()),
            address("lo", "::1/128".to_owned()),
            address("eth0", format!("198.18.0.{number}/24")),
            address("eth0", format!("2001:db8:a::{number:x}/64")),
            address("eth0", format!("fe80::{number:x}/64")),
            address("eth1", format!("10.0.0.{number}/24")),
            address("eth1", format!("fd00:a::{number:x}/64")),
        ],
        lost: Vec::new(),
        standing: Standing::Member,
    }
}

/// Any prefix, the shortest ones rare.
pub(crate) fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0_u8..=32)
        .prop_map(|(bits, length)| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bits), length)));
    let v6 = (any::<u128>(), 0_u8..=128)
        .prop_map(|(bits, length)| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), length)));
    prop_oneof![v4, v6].prop_map(|net| net.trunc())
}

/// A prefix such as people give to an office: from few, so that they overlap.
pub(crate) fn small_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0_u32..1 << 12, 20_u8..=32).prop_map(|(bits, length)| {
        IpNet::V4(Ipv4Net::new_assert(
            Ipv4Addr::from(0xCB00_0000 + bits),
            length,
        ))
    });
    let v6 = (0_u128..1 << 12, 116_u8..=128).prop_map(|(bits, length)| {
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::from((0x2001_0db8 << 96) + bits),
            length,
        ))
    });
    prop_oneof![v4, v6].prop_map(|net| net.trunc())
}

const TENANTS: [&str; 4] = [
    "acme",
    "globex",
    "a-tenant-with-a-name-that-no-set-can-hold",
    "a-tenant-with-a-name-that-no-set-can-hold-either",
];
const PROVIDERS: [&str; 2] = ["trunkco", "a-provider-with-a-very-long-name-indeed"];
const LISTS: [&str; 2] = ["voipbl", "a-list-with-a-name-of-more-than-26"];

const HOSTS: [&str; 3] = ["sip.example.net", "media.example.net", "home.example.org"];

fn any_hosts() -> impl Strategy<Value = Vec<DnsName>> {
    let parse = |names: Vec<&str>| names.iter().map(|name| name.parse().unwrap()).collect();
    subsequence(HOSTS.to_vec(), 0..=2).prop_map(parse)
}

/// What the dynamic sets of any documents for `site-a` hold, but for the cluster.
pub(crate) fn any_dynamic() -> impl Strategy<Value = DynamicSets> {
    let names = ["allow", "block", "block-forced", "open"]
        .map(str::to_owned)
        .into_iter();
    let names = names.chain(HOSTS.map(|host| format!("name:{host}")));
    let lists = LISTS.map(|list| [format!("feed:{list}"), format!("deny-feed:{list}")]);
    let names: Vec<String> = names.chain(lists.into_iter().flatten()).collect();
    let value = || prop::collection::vec(small_net(), 0..4);
    let values = prop::collection::vec(value(), names.len());
    values.prop_map(move |values| {
        let mut dynamic = DynamicSets::new("site-a".parse().unwrap());
        for (name, nets) in names.iter().zip(values) {
            dynamic.insert(name.parse().unwrap(), DynamicSet::new(nets, []));
        }
        dynamic
    })
}

/// Any word that `from` may have.
pub(crate) fn any_word() -> impl Strategy<Value = AddressWord> {
    prop_oneof![
        Just(AddressWord::World),
        Just(AddressWord::Local),
        narrow_word(),
        any_net().prop_map(AddressWord::Net),
    ]
}

/// Any word but those for the whole world.
pub(crate) fn narrow_word() -> impl Strategy<Value = AddressWord> {
    prop_oneof![
        Just(AddressWord::Clients),
        Just(AddressWord::Providers),
        Just(AddressWord::Tenants),
        Just(AddressWord::Admins),
        Just(AddressWord::Cluster),
        select(&TENANTS).prop_map(|name| AddressWord::Tenant(name.parse().unwrap())),
        select(&PROVIDERS).prop_map(|name| AddressWord::Provider(name.parse().unwrap())),
        select(&LISTS).prop_map(|name| AddressWord::List(name.parse().unwrap())),
        small_net().prop_map(AddressWord::Net),
    ]
}

fn any_ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (1_u16.., 0_u16..3000).prop_map(|(first, width)| PortRange {
        first,
        last: first.saturating_add(width),
    });
    prop::collection::vec(range, 1..12)
}

fn any_service() -> impl Strategy<Value = (String, ServiceOverride)> {
    let inbound: Vec<&'static str> = SERVICES
        .iter()
        .filter(|service| service.direction == Direction::Inbound)
        .map(|service| service.name)
        .collect();
    let transports = subsequence(vec![Transport::Tcp, Transport::Udp], 1..=2);
    let rate = (1..=Rate::MAX, 1..=Rate::MAX)
        .prop_map(|(count, burst)| Rate::new(count, RateUnit::Second, burst).unwrap());
    (
        select(inbound),
        prop::option::of(prop::collection::vec(any_word(), 0..6)),
        prop::option::of(any_ports()),
        prop::option::of(transports),
        prop::option::of(rate),
    )
        .prop_map(|(name, from, ports, proto, limit)| {
            let listens = !name.starts_with("icmp") && name != "ssh";
            let changes = ServiceOverride {
                from,
                ports: ports.filter(|_| listens),
                proto: proto.filter(|_| listens),
                limit,
                notrack: false,
                dangerous: true,
            };
            (name.to_owned(), changes)
        })
}

fn any_rules() -> impl Strategy<Value = Vec<CustomRule>> {
    let ports = (select(vec![Transport::Tcp, Transport::Udp]), any_ports());
    let ports = ports.prop_map(|(transport, ports)| Traffic::Ports(transport, ports));
    let interface = prop::option::of(select(vec!["eth0", "eth1"]));
    let other = select(vec!["vrrp", "esp", "gre", "200"])
        .prop_map(|name| Traffic::Protocol(name.parse().unwrap()));
    let traffic = prop_oneof![6 => ports, 2 => other, 1 => Just(Traffic::Any)];
    let rule = (
        (traffic, interface),
        prop::collection::vec(any_word(), 1..5),
        subsequence(Role::ALL.to_vec(), 0..4),
    );
    prop::collection::vec(rule, 0..4).prop_map(|rules| {
        let named = rules.into_iter().enumerate();
        named
            .map(|(index, ((traffic, interface), from, roles))| CustomRule {
                name: format!("rule-{index}"),
                // Everything is only ever opened by an interface.
                interface: match traffic {
                    Traffic::Any => Some(interface.unwrap_or("eth1").parse().unwrap()),
                    _ => interface.map(|name| name.parse().unwrap()),
                },
                traffic,
                from,
                roles,
                dangerous: true,
            })
            .collect()
    })
}

/// Any cluster; the interface is the same on all nodes.
fn any_cluster() -> impl Strategy<Value = Cluster> {
    let networks = vec![
        net("10.0.0.0/24"),
        net("10.0.0.2/31"),
        net("198.18.0.0/24"),
        net("fd00:a::/64"),
        net("2001:db8:a::/64"),
    ];
    let members = vec![
        net("192.0.2.201"),
        net("203.0.113.32/30"),
        net("2001:db8:f::1"),
    ];
    let protocols = vec!["vrrp".parse().unwrap(), "esp".parse().unwrap()];
    (
        subsequence(networks, 0..=3),
        prop::option::of(Just("eth1".parse().unwrap())),
        subsequence(members, 0..=2),
        subsequence(protocols, 0..=2),
        any::<bool>(),
    )
        .prop_map(|(networks, interface, members, protocols, full)| Cluster {
            networks,
            interface,
            members,
            protocols,
            trust: if full { Trust::Full } else { Trust::Strict },
            ..Cluster::default()
        })
}

fn any_site() -> impl Strategy<Value = Site> {
    (
        (
            subsequence(TENANTS.to_vec(), 0..=TENANTS.len()),
            subsequence(PROVIDERS.to_vec(), 0..=PROVIDERS.len()),
            prop::collection::vec(small_net().prop_map(AddressWord::Net), 1..4),
        ),
        any_cluster(),
        any::<[bool; 2]>(),
        prop::collection::vec(any_service(), 0..6),
        any_rules(),
        prop::collection::vec(narrow_word(), 0..4),
    )
        .prop_map(
            |((tenants, providers, admins), cluster, flags, services, rules, deny)| {
                let [enforce, drop] = flags;
                let mut services: BTreeMap<String, ServiceOverride> =
                    services.into_iter().collect();
                // Open to the world by default, and back ends may be moved onto their ports.
                for name in ["rtp", "t38"] {
                    services.entry(name.to_owned()).or_default().dangerous = true;
                }
                Site {
                    tenants: tenants
                        .into_iter()
                        .map(|name| name.parse().unwrap())
                        .collect(),
                    providers: providers
                        .into_iter()
                        .map(|name| name.parse().unwrap())
                        .collect(),
                    admins,
                    cluster,
                    mode: if enforce {
                        Mode::Enforce
                    } else {
                        Mode::Observe
                    },
                    default: if drop {
                        DefaultVerdict::Drop
                    } else {
                        DefaultVerdict::Reject
                    },
                    services,
                    rules,
                    deny,
                    ..plain_site("site-a")
                }
            },
        )
}

/// Any documents that compile for `site-a`.
pub(crate) fn any_documents() -> impl Strategy<Value = Documents> {
    let networks = || prop::collection::vec(small_net(), 0..5);
    (
        any_site(),
        prop::collection::vec((networks(), any_hosts()), TENANTS.len()),
        prop::collection::vec(
            ((networks(), any_hosts()), (networks(), any_hosts())),
            PROVIDERS.len(),
        ),
        prop::collection::vec((any_addresses(), any::<bool>()), LISTS.len()),
    )
        .prop_map(|(site, tenants, providers, lists)| {
            let mut documents = Documents::default();
            documents.sites.insert(site.name.clone(), site);
            for (name, (nets, hosts)) in TENANTS.into_iter().zip(tenants) {
                let tenant = Tenant {
                    name: name.parse().unwrap(),
                    networks: BTreeMap::from([("offices".to_owned(), nets)]),
                    names: Some(("homes".to_owned(), hosts))
                        .into_iter()
                        .filter(|(_, hosts)| !hosts.is_empty())
                        .collect(),
                    dated: BTreeMap::new(),
                };
                documents.tenants.insert(tenant.name.clone(), tenant);
            }
            for (name, (signalling, media)) in PROVIDERS.into_iter().zip(providers) {
                let provider = Provider {
                    name: name.parse().unwrap(),
                    signalling: signalling.0,
                    media: media.0,
                    signalling_names: signalling.1,
                    media_names: media.1,
                    signalling_dated: Dated::default(),
                    media_dated: Dated::default(),
                };
                documents.providers.insert(provider.name.clone(), provider);
            }
            // What admins are made of must not end.
            let site = documents.sites.values().next().unwrap();
            let admins = site.admins.clone();
            for (name, ((addresses, expiring), fetched)) in LISTS.into_iter().zip(lists) {
                let name: ListName = name.parse().unwrap();
                let ends = !admins.contains(&AddressWord::List(name.clone()));
                let list = List {
                    name,
                    dated: Dated {
                        expiring: distinct(expiring, &addresses)
                            .into_iter()
                            .filter(|_| ends)
                            .collect(),
                        scheduled: Vec::new(),
                    },
                    addresses,
                    feed: fetched.then(|| feed("https://lists.example.net/x")),
                };
                documents.lists.insert(list.name.clone(), list);
            }
            documents
        })
}

/// A feed with the usual bounds.
pub(crate) fn feed(url: &str) -> Feed {
    Feed {
        source: FeedSource::Url(url.parse().unwrap()),
        refresh_ms: Feed::DEFAULT_REFRESH_MS,
        max_entries: Feed::DEFAULT_MAX_ENTRIES,
    }
}

/// What a list holds: addresses that stay, ascending, and some that end.
fn any_addresses() -> impl Strategy<Value = (Vec<IpNet>, Vec<Expiring>)> {
    let expiring = (any_net(), 1_u64..9).prop_map(|(net, until)| Expiring {
        net,
        until: Until::from_unix(until).unwrap(),
    });
    (
        prop::collection::btree_set(any_net(), 0..20),
        prop::collection::vec(expiring, 0..6),
    )
        .prop_map(|(addresses, expiring)| (addresses.into_iter().collect(), expiring))
}

/// Any nodes of a site.
pub(crate) fn any_nodes() -> impl Strategy<Value = Vec<NodeInput>> {
    prop::collection::vec(subsequence(Role::ALL.to_vec(), 0..=Role::ALL.len()), 0..6).prop_map(
        |nodes| {
            let numbered = (1_u8..).zip(nodes);
            numbered
                .map(|(number, roles)| node(&format!("node-{number}"), number, &roles))
                .collect()
        },
    )
}
