//! Random rulesets that use all that a rule can say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::option::weighted;
use proptest::prelude::*;
use voipfleet_ruleset::ruleset::{
    AddressSet, Chain, ChainName, ConnectionState, ConnectionStates, Family, INPUT_CHAIN,
    IpProtocol, Mode, PortRange, Ports, Protocol, Rate, RateUnit, Rule, Ruleset, Scope, SetName,
    SourceLimit, Verdict,
};

const STEMS: [&str; 3] = ["clients", "deny.voip_bl-2", "abcdefghijklmnopqrstuvwxyz"];
const CHAINS: [&str; 3] = ["VF-SIP", "VF-A-1", "VF-ABCDEFGHIJKLMNOPQRSTUVWXY"];

/// All that [`features`] can tell.
pub(crate) const FEATURES: [&str; 23] = [
    "interface",
    "set",
    "source",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "another protocol",
    "icmp type",
    "destination ports",
    "source ports",
    "states",
    "limit",
    "source limit",
    "v4",
    "v6",
    "both",
    "accept",
    "drop",
    "reject",
    "return",
    "jump",
    "log",
];

/// What a rule uses.
pub(crate) fn features(rule: &Rule) -> Vec<&'static str> {
    let mut used = vec![
        match rule.verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Reject => "reject",
            Verdict::Return => "return",
            Verdict::Jump(_) => "jump",
            Verdict::Log(_) => "log",
        },
        match rule.scope {
            Scope::V4 => "v4",
            Scope::V6 => "v6",
            Scope::Both => "both",
        },
    ];
    used.extend(rule.protocol.map(|protocol| match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
        Protocol::Icmpv6 => "icmpv6",
        Protocol::Other(_) => "another protocol",
    }));
    for (name, is_used) in [
        ("interface", rule.in_interface.is_some()),
        ("set", rule.source_set.is_some()),
        ("source", rule.source.is_some()),
        ("icmp type", rule.icmp_type.is_some()),
        ("destination ports", !rule.destination_ports.is_any()),
        ("source ports", !rule.source_ports.is_any()),
        ("states", !rule.states.is_any()),
        ("limit", rule.limit.is_some()),
        ("source limit", rule.source_limit.is_some()),
    ] {
        used.extend(is_used.then_some(name));
    }
    used
}

/// A valid ruleset of four chains, with the sets that its rules name.
pub(crate) fn ruleset() -> impl Strategy<Value = Ruleset> {
    let chain =
        |jumps: &'static [&'static str], least: usize| prop::collection::vec(rule(jumps), least..7);
    let chains = (
        chain(&CHAINS, 1),
        chain(&CHAINS[1..], 0),
        chain(&CHAINS[2..], 0),
        chain(&[], 0),
    );
    let elements = prop::collection::vec(prop_oneof![net(Family::V4), net(Family::V6)], 0..40);
    (chains, elements).prop_map(|((input, first, second, third), elements)| {
        let chains: Vec<Chain> = [INPUT_CHAIN]
            .into_iter()
            .chain(CHAINS)
            .zip([input, first, second, third])
            .map(|(name, rules)| Chain {
                name: name.parse().unwrap(),
                rules,
            })
            .collect();
        Ruleset {
            site: "site-a".parse().unwrap(),
            node: "sip-1".parse().unwrap(),
            mode: Mode::Enforce,
            admins: vec![
                "198.51.100.10/32".parse().unwrap(),
                "2001:db8:ad::/64".parse().unwrap(),
            ],
            ssh_ports: vec![22, 2222],
            sets: sets(&chains, &elements),
            chains,
            probes: Vec::new(),
            without_ipv6: false,
        }
    })
}

fn sets(chains: &[Chain], elements: &[IpNet]) -> Vec<AddressSet> {
    let mut names = BTreeSet::new();
    for rule in chains.iter().flat_map(|chain| &chain.rules) {
        for family in Family::BOTH
            .into_iter()
            .filter(|family| rule.scope.covers(*family))
        {
            let name = |stem: &_| SetName {
                stem: Clone::clone(stem),
                family,
            };
            names.extend(rule.source_set.as_ref().map(name));
        }
    }
    let sets: BTreeMap<SetName, AddressSet> = names
        .into_iter()
        .map(|name| {
            (
                name.clone(),
                AddressSet::new(name, elements.iter().copied()),
            )
        })
        .collect();
    sets.into_values().collect()
}

fn net(family: Family) -> BoxedStrategy<IpNet> {
    let net = |address: IpAddr, length: u8| IpNet::new(address, length).unwrap().trunc();
    match family {
        Family::V4 => (any::<u32>(), 0..=32_u8)
            .prop_map(move |(bits, length)| net(Ipv4Addr::from_bits(bits).into(), length))
            .boxed(),
        Family::V6 => {
            let address = prop_oneof![
                any::<u128>(),
                // Forms that are printed in ways of their own: mapped, embedded, short.
                any::<u32>().prop_map(|bits| 0xffff_0000_0000 | u128::from(bits)),
                any::<u32>().prop_map(u128::from),
                any::<u16>().prop_map(|bits| (0x2001_0db8 << 96) | u128::from(bits)),
            ];
            (address, 0..=128_u8)
                .prop_map(move |(bits, length)| net(Ipv6Addr::from_bits(bits).into(), length))
                .boxed()
        }
    }
}

fn rule(jumps: &'static [&'static str]) -> impl Strategy<Value = Rule> {
    let head = ("[a-z0-9_.:/-]{1,80}", verdict(jumps), scope());
    let place = (
        weighted(
            0.3,
            "[a-zA-Z0-9_][a-zA-Z0-9_.:-]{0,14}".prop_filter("a name", |name| name != "."),
        )
        .prop_map(|name| name.map(|name| name.parse().unwrap())),
        weighted(0.3, prop::sample::select(&STEMS[..]))
            .prop_map(|stem| stem.map(|stem| stem.parse().unwrap())),
        (any::<bool>(), net(Family::V4), net(Family::V6)),
    );
    let other = (2..=255_u8).prop_filter_map("a protocol of another form", IpProtocol::new);
    let transport = (0..7_u8, weighted(0.5, 0..255_u8), ports(), ports(), other);
    let counted = (
        weighted(0.3, rate().prop_filter("what the kernel can count", fits)),
        weighted(0.3, ("[a-z0-9-]{1,12}", rate())).prop_map(|limit| {
            limit.map(|(name, above)| SourceLimit {
                name: name.parse().unwrap(),
                above,
            })
        }),
    );
    (head, place, transport, states(), counted).prop_map(
        |((label, verdict, scope), (interface, set, source), transport, states, counted)| {
            let mut rule = Rule::new(label.parse().unwrap(), verdict);
            rule.scope = scope;
            rule.in_interface = interface;
            rule.source_set = set;
            rule.source = match (source.0, scope) {
                (true, Scope::V4) => Some(source.1),
                (true, Scope::V6) => Some(source.2),
                _ => None,
            };
            let (protocol, kind, destinations, sources, other) = transport;
            rule.protocol = match (protocol, scope) {
                (0, _) => None,
                (1 | 2, Scope::V4) => Some(Protocol::Icmp),
                (1 | 2, Scope::V6) => Some(Protocol::Icmpv6),
                (1 | 3, _) => Some(Protocol::Tcp),
                (5 | 6, scope) if scope == Scope::V4 || !other.is_v4_only() => {
                    Some(Protocol::Other(other))
                }
                _ => Some(Protocol::Udp),
            };
            match rule.protocol {
                Some(Protocol::Icmp | Protocol::Icmpv6) => rule.icmp_type = kind,
                Some(Protocol::Tcp | Protocol::Udp) => {
                    rule.destination_ports = destinations;
                    rule.source_ports = sources;
                }
                Some(Protocol::Other(_)) | None => {}
            }
            rule.states = states;
            (rule.limit, rule.source_limit) = counted;
            rule
        },
    )
}

fn verdict(jumps: &'static [&'static str]) -> BoxedStrategy<Verdict> {
    let plain = prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Reject),
        Just(Verdict::Return),
        "[a-zA-Z0-9:][a-zA-Z0-9: -]{0,28}".prop_map(|prefix| Verdict::Log(prefix.parse().unwrap())),
    ];
    if jumps.is_empty() {
        return plain.boxed();
    }
    let jump = prop::sample::select(jumps).prop_map(|name| {
        let name: ChainName = name.parse().unwrap();
        Verdict::Jump(name)
    });
    prop_oneof![3 => plain, 1 => jump].boxed()
}

fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(vec![Scope::Both, Scope::V4, Scope::V6])
}

fn ports() -> impl Strategy<Value = Ports> {
    let range =
        (1_u16.., prop_oneof![Just(0_u16), 0..2000_u16]).prop_map(|(first, width)| PortRange {
            first,
            last: first.saturating_add(width),
        });
    prop::collection::vec(range, 0..18)
        .prop_map(|ranges| Ports::split(ranges).into_iter().next().unwrap_or_default())
}

fn states() -> impl Strategy<Value = ConnectionStates> {
    let all = vec![
        ConnectionState::New,
        ConnectionState::Established,
        ConnectionState::Related,
        ConnectionState::Invalid,
    ];
    weighted(0.4, prop::sample::subsequence(all, 1..=4))
        .prop_map(|states| ConnectionStates::new(states.unwrap_or_default()))
}

fn rate() -> impl Strategy<Value = Rate> {
    let unit = prop::sample::select(vec![RateUnit::Second, RateUnit::Minute, RateUnit::Hour]);
    (1..=Rate::MAX, unit, 1..=Rate::MAX)
        .prop_map(|(count, unit, burst)| Rate::new(count, unit, burst).unwrap())
}

/// Whether the time to refill the burst fits 32 bits of 1/10,000 s, as `xt_limit` keeps it.
fn fits(rate: &Rate) -> bool {
    let seconds = match rate.unit {
        RateUnit::Second => 1,
        RateUnit::Minute => 60,
        RateUnit::Hour => 3600,
    };
    let period = seconds * 10_000 / u64::from(rate.count);
    u32::try_from(period * u64::from(rate.burst)).is_ok()
}
