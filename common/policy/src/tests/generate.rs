//! Documents of every shape, with every field.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    DnsName, Expiring, Interface, IpProtocol, Mode, PortRange, Probe, ProbeCheck, Rate, RateUnit,
    Scheduled, Until,
};

use super::super::*;
use crate::catalogue::{Direction, SERVICES};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9][a-z0-9._-]{0,12}",
        prop::sample::select(vec![
            "null",
            "true",
            "on",
            "1e3",
            "0x1f",
            "12",
            "2026-11-23",
            "no"
        ])
        .prop_map(str::to_owned),
    ]
}

/// Ordinary networks: neither the world nor multicast.
fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 8_u8..=32).prop_map(|(bits, length)| {
        IpNet::new(
            Ipv4Addr::from_bits((bits | 1 << 31) & !(1 << 30)).into(),
            length,
        )
        .unwrap()
    });
    let v6 = (any::<u128>(), 16_u8..=128).prop_map(|(bits, length)| {
        IpNet::new(
            Ipv6Addr::from_bits((bits | 1 << 127) & !(1 << 126)).into(),
            length,
        )
        .unwrap()
    });
    prop_oneof![v4, v6].prop_map(|net| net.trunc())
}

fn word() -> impl Strategy<Value = AddressWord> {
    prop_oneof![
        Just(AddressWord::World),
        Just(AddressWord::Clients),
        Just(AddressWord::Providers),
        Just(AddressWord::Tenants),
        Just(AddressWord::Admins),
        Just(AddressWord::Cluster),
        Just(AddressWord::Local),
        owned_word(),
    ]
}

/// A word that `admins` and `deny` take as well.
fn owned_word() -> impl Strategy<Value = AddressWord> {
    prop_oneof![
        name().prop_map(|name| AddressWord::Tenant(name.parse().unwrap())),
        name().prop_map(|name| AddressWord::Provider(name.parse().unwrap())),
        name().prop_map(|name| AddressWord::List(name.parse().unwrap())),
        net().prop_map(AddressWord::Net),
    ]
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (6000_u16.., 0_u16..500)
        .prop_map(|(first, width)| PortRange::new(first, first.saturating_add(width)).unwrap());
    vec(range, 1..4)
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(Role::ALL.to_vec())
}

fn distinct<T: Ord + Clone + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
    size: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<T>> {
    vec(item, size).prop_map(|items| {
        let mut seen = BTreeSet::new();
        items
            .into_iter()
            .filter(|item| seen.insert(item.clone()))
            .collect()
    })
}

fn services() -> impl Strategy<Value = BTreeMap<String, ServiceOverride>> {
    let names: Vec<&str> = SERVICES
        .iter()
        // What ssh may be is bounded: it has a test of its own.
        .filter(|s| s.direction == Direction::Inbound && !s.openings.is_empty() && s.name != "ssh")
        .map(|s| s.name)
        .collect();
    let unit = prop_oneof![
        Just(RateUnit::Second),
        Just(RateUnit::Minute),
        Just(RateUnit::Hour)
    ];
    let limit = (1_u32..=10_000, unit, 1_u32..=10_000)
        .prop_map(|(count, unit, burst)| Rate::new(count, unit, burst).unwrap());
    let service = (
        option::of(vec(word(), 0..4)),
        option::of(ports()),
        option::of(distinct(transport(), 1..3)),
        option::of(limit),
    )
        .prop_map(|(from, ports, proto, limit)| ServiceOverride {
            from,
            ports,
            proto,
            limit,
            notrack: false,
            dangerous: true,
        });
    btree_map(
        prop::sample::select(names).prop_map(str::to_owned),
        service,
        0..5,
    )
}

fn rules() -> impl Strategy<Value = Vec<CustomRule>> {
    let traffic = prop_oneof![
        (transport(), ports()).prop_map(|(transport, ports)| Traffic::Ports(transport, ports)),
        protocol().prop_map(Traffic::Protocol),
        Just(Traffic::Any),
    ];
    let rule = (
        (traffic, interface(), any::<bool>()),
        vec(word(), 1..4),
        distinct(role(), 0..4),
        any::<bool>(),
    );
    btree_map(name(), rule, 0..3).prop_map(|rules| {
        rules
            .into_iter()
            .map(
                |(name, ((traffic, interface, has), from, roles, narrow))| CustomRule {
                    name,
                    interface: (has || traffic == Traffic::Any).then_some(interface),
                    traffic,
                    // The world reaches back-end ports only with `dangerous`.
                    dangerous: !narrow,
                    from: if narrow {
                        vec![AddressWord::Cluster]
                    } else {
                        from
                    },
                    roles,
                },
            )
            .collect()
    })
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let target = prop_oneof![
        Just("10.0.0.53:53"),
        Just("[2001:db8::53]:53"),
        Just("dns.example.com:5353"),
    ]
    .prop_map(|target| target.parse().unwrap());
    let check = prop_oneof![
        target.clone().prop_map(ProbeCheck::Tcp),
        target.clone().prop_map(ProbeCheck::UdpSip),
        target.prop_map(ProbeCheck::Dns),
        Just(ProbeCheck::Icmp("2001:db8::1".parse().unwrap())),
    ];
    btree_map(name(), check, 0..3).prop_map(|probes| {
        probes
            .into_iter()
            .map(|(name, check)| Probe {
                name: name.parse().unwrap(),
                check,
            })
            .collect()
    })
}

fn rollout() -> impl Strategy<Value = Rollout> {
    let batch = prop_oneof![
        (1_u32..=10_000).prop_map(Batch::Count),
        (1_u8..=100).prop_map(Batch::Percent)
    ];
    let on_failure = prop_oneof![Just(OnFailure::Halt), Just(OnFailure::Rollback)];
    (
        (0_u32..=10_000, batch, 0_u32..=10_000),
        (0_u64..=3_600_000, on_failure, 100_u64..=3_600_000),
    )
        .prop_map(
            |((canary, batch, max_failures), (pause_ms, on_failure, confirm_within_ms))| Rollout {
                canary,
                batch,
                max_failures,
                pause_ms,
                on_failure,
                confirm_within_ms,
            },
        )
}

fn tests() -> impl Strategy<Value = Vec<PolicyTest>> {
    let from = prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from)
    ];
    let packet = prop_oneof![
        (transport(), 1_u16..).prop_map(|(proto, port)| TestPacket::Port(proto, port)),
        protocol().prop_map(TestPacket::Protocol),
    ];
    let test = (from, role(), packet, option::of(interface()), any::<bool>());
    let name = prop_oneof![name(), "[ -~é\u{2028}]{1,20}"]
        .prop_filter("no text", |text| text.trim() == text && !text.is_empty());
    btree_map(name, test, 0..3).prop_map(|tests| {
        tests
            .into_iter()
            .map(
                |(name, (from, role, packet, interface, accept))| PolicyTest {
                    name,
                    from,
                    role,
                    packet,
                    interface,
                    accept,
                },
            )
            .collect()
    })
}

fn interface() -> impl Strategy<Value = Interface> {
    "[a-z][a-z0-9.]{0,10}".prop_map(|text| text.parse().unwrap())
}

fn protocol() -> impl Strategy<Value = IpProtocol> {
    any::<u8>().prop_filter_map("another form", IpProtocol::new)
}

fn ascending<T: Ord>(values: Vec<T>) -> Vec<T> {
    let distinct: BTreeSet<T> = values.into_iter().collect();
    distinct.into_iter().collect()
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let nets = || {
        let net = (0_u32..1 << 16, 24_u8..=32).prop_map(|(bits, length)| {
            IpNet::new(Ipv4Addr::from(0x0a00_0000 + bits).into(), length)
                .unwrap()
                .trunc()
        });
        vec(net, 0..3).prop_map(ascending)
    };
    let change = || {
        let protocols = option::of(vec(protocol(), 0..3).prop_map(ascending));
        (interface(), protocols).prop_map(|(interface, protocols)| ClusterOverride {
            interface: Some(interface),
            protocols,
        })
    };
    (
        (nets(), option::of(interface()), nets()),
        vec(protocol(), 0..3).prop_map(ascending),
        any::<bool>(),
        btree_map(role(), change(), 0..3),
        btree_map(
            name().prop_map(|name| name.parse().unwrap()),
            change(),
            0..3,
        ),
    )
        .prop_map(
            |((networks, interface, members), protocols, full, roles, nodes)| {
                let named = Cluster {
                    networks,
                    interface,
                    members,
                    protocols,
                    trust: if full { Trust::Full } else { Trust::Strict },
                    roles,
                    nodes,
                };
                // Without either only some nodes would have an interface.
                if named.networks.is_empty() && named.interface.is_none() {
                    return Cluster::default();
                }
                named
            },
        )
}

fn site() -> impl Strategy<Value = Site> {
    let head = (
        name(),
        distinct(name(), 0..4),
        distinct(name(), 0..3),
        vec(owned_word(), 1..20),
        cluster(),
        (any::<bool>(), any::<bool>()),
        ipv6(),
    );
    let body = (
        services(),
        rules(),
        vec(owned_word(), 0..3),
        probes(),
        rollout(),
        tests(),
    );
    (head, body).prop_map(|(head, body)| Site {
        name: head.0.parse().unwrap(),
        tenants: head.1.iter().map(|name| name.parse().unwrap()).collect(),
        providers: head.2.iter().map(|name| name.parse().unwrap()).collect(),
        admins: head.3,
        cluster: head.4,
        ipv6: head.6,
        mode: if head.5.0 {
            Mode::Enforce
        } else {
            Mode::Observe
        },
        default: if head.5.1 {
            DefaultVerdict::Drop
        } else {
            DefaultVerdict::Reject
        },
        services: body.0,
        rules: body.1,
        deny: body.2,
        probes: body.3,
        rollout: body.4,
        tests: body.5,
    })
}

fn ipv6() -> impl Strategy<Value = Ipv6> {
    let nodes = btree_set(name().prop_map(|name| name.parse().unwrap()), 0..3);
    let roles = btree_set(role(), 0..3);
    prop_oneof![
        1 => Just(Ipv6::None),
        3 => (nodes, roles).prop_map(|(nodes, roles)| Ipv6::NoneOn { nodes, roles }),
    ]
}

/// Networks that end or begin, none of `lasting`.
fn dated(lasting: Vec<IpNet>) -> impl Strategy<Value = Dated> {
    let moment = || (1_u64..=200_000_000_000).prop_map(|at| Until::from_unix(at).unwrap());
    let expiring = btree_map(net(), moment(), 0..4);
    let scheduled = vec((net(), moment(), option::of(1_u64..1_000_000)), 0..4);
    (expiring, scheduled).prop_map(move |(expiring, scheduled)| {
        let lasts = |net: &IpNet| lasting.contains(net);
        let expiring = expiring.into_iter().filter(|(net, _)| !lasts(net));
        let scheduled = scheduled.into_iter().filter(|(net, ..)| !lasts(net));
        let mut scheduled: Vec<Scheduled> = scheduled
            .map(|(net, from, length)| Scheduled {
                net,
                from,
                until: length.and_then(|length| Until::from_unix(from.unix() + length)),
            })
            .collect();
        scheduled.sort_unstable();
        scheduled.dedup();
        Dated {
            expiring: expiring
                .map(|(net, until)| Expiring { net, until })
                .collect(),
            scheduled,
        }
    })
}

/// Networks with and without dates.
fn networks() -> impl Strategy<Value = (Vec<IpNet>, Dated)> {
    vec(net(), 0..8).prop_flat_map(|nets| (Just(nets.clone()), dated(nets)))
}

fn hosts() -> impl Strategy<Value = Vec<DnsName>> {
    let host = "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?\\.[a-z]{2,5}"
        .prop_filter("half an address", |text| text.parse::<DnsName>().is_ok())
        .prop_map(|text| text.parse().unwrap());
    distinct(host, 0..3)
}

fn feed() -> impl Strategy<Value = Feed> {
    let source = prop_oneof![
        Just("https://lists.example.net/voipbl.txt?a=1&b=2#top"),
        Just("http://[2001:db8::7]:8080/x"),
    ]
    .prop_map(|url| FeedSource::Url(url.parse().unwrap()));
    let file = "(/[a-zA-Z0-9_ :#-]{1,9}){1,3}"
        .prop_filter("reported with its spaces", |path| path.trim() == path)
        .prop_map(|path| FeedSource::File(path.parse().unwrap()));
    (
        prop_oneof![source, file],
        Feed::REFRESH_MS,
        1..=Feed::MOST_ENTRIES,
    )
        .prop_map(|(source, refresh_ms, max_entries)| Feed {
            source,
            refresh_ms,
            max_entries,
        })
}

pub(crate) fn document() -> impl Strategy<Value = Document> {
    let tenants = btree_map(name(), (networks(), hosts()), 0..4);
    let tenant = (name(), tenants).prop_map(|(name, networks)| {
        let names = networks.iter().filter(|(_, (_, hosts))| !hosts.is_empty());
        let with_dates = networks
            .iter()
            .filter(|(_, ((_, dated), _))| !dated.is_empty());
        let dated = with_dates.map(|(name, ((_, dated), _))| (name.clone(), dated.clone()));
        Document::Tenant(Tenant {
            name: name.parse().unwrap(),
            names: names
                .map(|(name, (_, hosts))| (name.clone(), hosts.clone()))
                .collect(),
            dated: dated.collect(),
            networks: networks
                .into_iter()
                .map(|(name, ((nets, _), _))| (name, nets))
                .collect(),
        })
    });
    let part = || (networks(), hosts());
    let provider = (name(), part(), part()).prop_map(|(name, signalling, media)| {
        Document::Provider(Provider {
            name: name.parse().unwrap(),
            signalling: signalling.0.0,
            media: media.0.0,
            signalling_dated: signalling.0.1,
            media_dated: media.0.1,
            signalling_names: signalling.1,
            media_names: media.1,
        })
    });
    let addresses = btree_set(net(), 0..40).prop_flat_map(|addresses| {
        let addresses: Vec<IpNet> = addresses.into_iter().collect();
        (Just(addresses.clone()), dated(addresses))
    });
    let list =
        (name(), addresses, option::of(feed())).prop_map(|(name, (addresses, dated), feed)| {
            Document::List(List {
                name: name.parse().unwrap(),
                addresses,
                dated,
                feed,
            })
        });
    prop_oneof![
        3 => site().prop_map(|site| Document::Site(Box::new(site))),
        1 => tenant,
        1 => provider,
        1 => list,
    ]
}
