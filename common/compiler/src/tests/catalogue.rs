//! Every service of the catalogue: who gets through, and who does not, in both families.

use voipfleet_policy::catalogue::{Direction, SERVICES};
use voipfleet_policy::{AddressWord, ServiceOverride, Trust};
use voipfleet_ruleset::ruleset::Interface;

use super::*;

const TENANT: [&str; 2] = ["203.0.113.9", "2001:db8:10::5"];
const SIGNALLING: [&str; 2] = ["192.0.2.3", "2001:db8:71::3"];
const MEDIA: [&str; 2] = ["192.0.2.200", "2001:db8:72::3"];
const ADMIN: [&str; 2] = ["198.51.100.10", "2001:db8:ad::7"];
const MEMBER: [&str; 2] = ["10.0.0.2", "fd00:a::2"];
const STRANGER: [&str; 2] = ["198.51.100.200", "2001:db8:ffff::1"];
const ALL_SOURCES: [[&str; 2]; 6] = [TENANT, SIGNALLING, MEDIA, ADMIN, MEMBER, STRANGER];

/// The vendor's page and the domain's table, by hand: service, protocol, ports, who gets through.
type Row = (
    &'static str,
    Protocol,
    &'static [u16],
    &'static [[&'static str; 2]],
);
const EXPECTED: &[Row] = &[
    ("ssh", Protocol::Tcp, &[22], &[ADMIN, MEMBER]),
    ("sip", Protocol::Udp, &[5060], &[TENANT, SIGNALLING]),
    ("sip", Protocol::Tcp, &[5060], &[TENANT, SIGNALLING]),
    ("sip-tls", Protocol::Tcp, &[5061], &[TENANT, SIGNALLING]),
    ("sip-tls", Protocol::Udp, &[5061], &[]),
    (
        "sip-pbx",
        Protocol::Udp,
        &[5050],
        &[TENANT, SIGNALLING, MEMBER],
    ),
    (
        "sip-pbx",
        Protocol::Tcp,
        &[5050],
        &[TENANT, SIGNALLING, MEMBER],
    ),
    (
        "rtp",
        Protocol::Udp,
        &[10_000, 15_000, 20_000],
        &ALL_SOURCES,
    ),
    ("rtp", Protocol::Udp, &[9999, 20_001], &[]),
    ("rtp", Protocol::Tcp, &[10_000], &[]),
    (
        "t38",
        Protocol::Udp,
        &[4000, 5049, 5051, 5059, 5062, 5999],
        &ALL_SOURCES,
    ),
    ("t38", Protocol::Udp, &[3999, 6000], &[]),
    (
        "web",
        Protocol::Tcp,
        &[80, 443],
        &[TENANT, SIGNALLING, ADMIN],
    ),
    ("tftp", Protocol::Udp, &[69], &[TENANT, SIGNALLING]),
    ("xmpp-c2s", Protocol::Tcp, &[5222], &[TENANT, SIGNALLING]),
    ("xmpp-bosh", Protocol::Tcp, &[5280], &[TENANT, SIGNALLING]),
    ("xmpp-s2s", Protocol::Tcp, &[5269], &[]),
    ("hubring", Protocol::Tcp, &[11_211], &[MEMBER]),
    ("sql", Protocol::Tcp, &[3306], &[MEMBER]),
    ("amqp", Protocol::Tcp, &[5672], &[MEMBER]),
    ("es", Protocol::Tcp, &[9200, 9300], &[MEMBER]),
    ("erlang", Protocol::Tcp, &[4369, 25_672], &[MEMBER]),
    ("nfs", Protocol::Tcp, &[111, 2049], &[]),
    ("nfs", Protocol::Udp, &[111, 2049], &[]),
    ("dns", Protocol::Udp, &[53], &[]),
    ("dns", Protocol::Tcp, &[53], &[]),
    ("ntp", Protocol::Udp, &[123], &[]),
    ("smtp-out", Protocol::Tcp, &[465, 587], &[]),
];

fn from_its_interface(source: &str, protocol: Protocol, port: u16) -> Packet {
    let mut packet = Packet::new(address(source), protocol, port);
    if MEMBER.contains(&source) {
        packet.in_interface = Some("eth1".parse::<Interface>().unwrap());
    }
    packet
}

#[test]
fn each_service_is_open_as_the_catalogue_defines() {
    // Strict, so that cluster members too reach services and not everything.
    let documents = changed(|site| site.cluster.trust = Trust::Strict);
    let nodes = [all_roles(), node("sql-2", 2, &[Role::Sql])];
    let ruleset = ruleset(&compiled(&documents, &nodes), "all-1").clone();
    for (service, protocol, ports, allowed) in EXPECTED {
        for source in ALL_SOURCES {
            for (source, port) in source
                .iter()
                .flat_map(|s| ports.iter().map(move |p| (s, p)))
            {
                let outcome = simulate(&ruleset, &from_its_interface(source, *protocol, *port));
                let wanted = allowed.iter().any(|group| group.contains(source));
                assert_eq!(
                    outcome.decision,
                    if wanted {
                        Decision::Accept
                    } else {
                        Decision::Drop
                    },
                    "{service}: {protocol:?} {port} from {source}, by {}",
                    outcome.label
                );
                if wanted && !outcome.label.starts_with("failsafe") {
                    assert!(
                        outcome.label.starts_with(&format!("{service}:")),
                        "{service} {port} from {source} is decided by {}",
                        outcome.label
                    );
                }
            }
        }
    }
    let tested: BTreeSet<&str> = EXPECTED.iter().map(|row| row.0).collect();
    for service in SERVICES {
        let elsewhere = [
            "wss",
            "turn",
            "stun",
            "smtp",
            "icmp",
            "icmpv6",
            "sip-out",
            "rtp-out",
            "https-out",
        ];
        let name = service.name;
        assert!(
            tested.contains(name) || elsewhere.contains(&name),
            "{name} is not tested"
        );
    }
}

#[test]
fn smtp_is_open_to_the_relays_that_the_site_names() {
    let with_relays = compiled(&documents(), &[all_roles()]);
    assert!(warns(
        &with_relays,
        "services.smtp: the vendor does not publish which role"
    ));
    let ruleset = ruleset(&with_relays, "all-1");
    for relay in ["192.0.2.70", "2001:db8:25::25"] {
        assert!(gets_through(ruleset, relay, Protocol::Tcp, 25), "{relay}");
    }
    for other in TENANT.iter().chain(&STRANGER) {
        assert!(!gets_through(ruleset, other, Protocol::Tcp, 25), "{other}");
    }
    let without = single(&changed(|site| {
        site.services.remove("smtp");
    }));
    assert!(!gets_through(&without, "192.0.2.70", Protocol::Tcp, 25));
}

#[test]
fn icmp_that_paths_and_neighbours_need_is_open_to_all() {
    let closed = ServiceOverride {
        from: Some(Vec::new()),
        ..ServiceOverride::default()
    };
    let mut quiet = changed(|site| {
        site.services.insert("icmp".to_owned(), closed.clone());
        site.services.insert("icmpv6".to_owned(), closed.clone());
    });
    for list in quiet.lists.values_mut() {
        list.addresses.clear();
    }
    for (documents, echo) in [(documents(), Decision::Accept), (quiet, Decision::Drop)] {
        let ruleset = single(&documents);
        for (source, types, echo_type, unwanted) in [
            (STRANGER[0], &[3, 11, 12][..], 8, [5, 13]),
            (
                STRANGER[1],
                &[1, 2, 3, 4, 130, 133, 134, 135, 136, 143][..],
                128,
                [138, 139],
            ),
        ] {
            for icmp_type in types {
                let mut packet = Packet::icmp(address(source), *icmp_type);
                packet.state = None;
                assert_eq!(
                    simulate(&ruleset, &packet).decision,
                    Decision::Accept,
                    "{icmp_type}"
                );
            }
            let packet = Packet::icmp(address(source), echo_type);
            assert_eq!(simulate(&ruleset, &packet).decision, echo);
            for icmp_type in unwanted {
                let packet = Packet::icmp(address(source), icmp_type);
                assert_eq!(
                    simulate(&ruleset, &packet).decision,
                    Decision::Drop,
                    "{icmp_type}"
                );
            }
        }
    }
}

#[test]
fn a_node_opens_only_what_its_roles_run() {
    let nodes: Vec<NodeInput> = (1..)
        .zip(Role::ALL)
        .map(|(number, role)| node(&format!("{role}-{number}"), number, &[role]))
        .collect();
    let compiled = compiled(&documents(), &nodes);
    assert_eq!(compiled.rulesets.len(), 10);
    let open = |role: Role, source: &str, protocol, port| {
        let node = nodes
            .iter()
            .find(|node| node.roles.contains(&role))
            .unwrap();
        gets_through(&compiled.rulesets[&node.name], source, protocol, port)
    };
    for role in Role::ALL {
        let tenant = |protocol, port| open(role, TENANT[0], protocol, port);
        assert_eq!(
            tenant(Protocol::Udp, 5060),
            role == Role::Sip,
            "{role} 5060"
        );
        assert_eq!(
            tenant(Protocol::Udp, 5050),
            matches!(role, Role::Sip | Role::Pbx),
            "{role} 5050"
        );
        assert_eq!(
            tenant(Protocol::Udp, 12_000),
            role == Role::Pbx,
            "{role} rtp"
        );
        assert_eq!(tenant(Protocol::Udp, 4500), role == Role::Pbx, "{role} t38");
        assert_eq!(tenant(Protocol::Tcp, 443), role == Role::Http, "{role} 443");
        assert_eq!(
            tenant(Protocol::Tcp, 5222),
            role == Role::Jabber,
            "{role} 5222"
        );
        assert!(open(role, ADMIN[1], Protocol::Tcp, 22), "{role} ssh");
        assert_eq!(
            open(role, ADMIN[0], Protocol::Tcp, 443),
            matches!(role, Role::Http | Role::Ic),
            "{role} 443 of admins"
        );
        assert_eq!(
            open(role, "10.20.1.1", Protocol::Tcp, 9100),
            matches!(role, Role::Sip | Role::Pbx),
            "{role} monitoring"
        );
    }
}

#[test]
fn the_controllers_web_interface_is_always_for_admins() {
    let documents = changed(|site| {
        let web = ServiceOverride {
            from: Some(vec![AddressWord::World]),
            ..ServiceOverride::default()
        };
        site.services.insert("web".to_owned(), web);
    });
    let nodes = [
        node("ic-1", 1, &[Role::Ic, Role::Wk]),
        node("http-2", 2, &[Role::Http]),
        node("both-3", 3, &[Role::Http, Role::Ic]),
    ];
    let compiled = compiled(&documents, &nodes);
    for (name, stranger) in [("ic-1", false), ("http-2", true), ("both-3", true)] {
        let ruleset = ruleset(&compiled, name);
        assert_eq!(
            gets_through(ruleset, STRANGER[0], Protocol::Tcp, 443),
            stranger,
            "{name}"
        );
        assert!(
            gets_through(ruleset, ADMIN[0], Protocol::Tcp, 443),
            "{name}"
        );
    }
}

#[test]
fn nothing_inbound_is_made_of_egress() {
    let ruleset = single(&documents());
    let egress = SERVICES
        .iter()
        .filter(|service| service.direction == Direction::Egress);
    for service in egress {
        let prefix = format!("{}:", service.name);
        let labels = labels(&ruleset, "VF-INPUT");
        assert!(
            !labels.iter().any(|label| label.starts_with(&prefix)),
            "{}",
            service.name
        );
    }
}

#[test]
fn dhcp_servers_reach_a_node_from_any_address() {
    let compiled = compiled(&documents(), &[all_roles(), node("sql-2", 2, &[Role::Sql])]);
    for ruleset in compiled.rulesets.values() {
        let label = |source: &str, port| {
            let packet = Packet::new(address(source), Protocol::Udp, port);
            simulate(ruleset, &packet).label
        };
        assert_eq!(label("fe80::1", 546), "failsafe:dhcpv6");
        assert_eq!(label("fe80::1", 547), "default");
        assert_eq!(label("2001:db8:ffff::1", 546), "failsafe:dhcpv6");
        let answer = |source_port| {
            let packet = Packet {
                source_port: Some(source_port),
                ..Packet::new(address("198.18.0.1"), Protocol::Udp, 68)
            };
            simulate(ruleset, &packet).label
        };
        assert_eq!(answer(67), "failsafe:dhcp");
        assert_eq!(answer(4000), "default");
    }
}

#[test]
fn browsers_and_relays_are_let_in_where_the_site_says_so() {
    for (service, protocol, port) in [
        ("wss", Protocol::Tcp, 8089),
        ("turn", Protocol::Udp, 3478),
        ("stun", Protocol::Udp, 3478),
    ] {
        let plain = single(&documents());
        assert!(
            !gets_through(&plain, "203.0.113.9", protocol, port),
            "{service}"
        );
        let opened = |from, dangerous| {
            changed(|site| {
                let changes = ServiceOverride {
                    from: Some(vec![from]),
                    dangerous,
                    ..ServiceOverride::default()
                };
                site.services.insert(service.to_owned(), changes);
            })
        };
        let clients = single(&opened(AddressWord::Clients, false));
        assert!(
            gets_through(&clients, "203.0.113.9", protocol, port),
            "{service}"
        );
        let error = refused(&opened(AddressWord::World, false)).to_string();
        assert!(error.contains("dangerous: true"), "{error}");
        let world = single(&opened(AddressWord::World, true));
        assert!(
            gets_through(&world, STRANGER[0], protocol, port),
            "{service}"
        );
    }
}
