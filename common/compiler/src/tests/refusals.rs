//! Documents that must not compile, and those that do with a warning.

use voipfleet_policy::{
    AddressWord, CustomRule, PolicyTest, ServiceOverride, TestPacket, Traffic, Transport,
};
use voipfleet_ruleset::ruleset::{PortRange, Probe, ProbeCheck};

use super::*;
use crate::fixtures::word;

fn service(name: &str, changes: ServiceOverride) -> Documents {
    changed(|site| {
        site.services.insert(name.to_owned(), changes);
    })
}

fn from(words: Vec<AddressWord>) -> ServiceOverride {
    ServiceOverride {
        from: Some(words),
        ..ServiceOverride::default()
    }
}

#[test]
fn an_unknown_site_is_refused_and_a_site_without_nodes_is_not() {
    let error = compile(
        &"site-b".parse().unwrap(),
        &documents(),
        &[],
        &at_rest(&"site-b".parse().unwrap(), &documents(), &[]),
    )
    .unwrap_err();
    assert!(matches!(error, CompileError::UnknownSite(_)));
    let none = compiled(&documents(), &[]);
    assert!(none.rulesets.is_empty());
    assert!(warns(&none, "phones register was not run"));
}

#[test]
fn what_is_referred_to_must_be_there() {
    for missing in ["acme", "globex", "trunkco", "mail-relays", "voipbl"] {
        let mut documents = documents();
        documents.tenants.retain(|name, _| name.as_str() != missing);
        documents
            .providers
            .retain(|name, _| name.as_str() != missing);
        documents.lists.retain(|name, _| name.as_str() != missing);
        let error = refused(&documents).to_string();
        assert!(error.contains(missing), "{error}");
    }
}

#[test]
fn admins_must_be_some_addresses_and_not_the_world() {
    for (admins, expected) in [
        (vec![], "no one could reach its nodes"),
        (vec![AddressWord::Local], "no one could reach its nodes"),
        (vec![AddressWord::World], "SSH would be open to the world"),
        (vec![word("0.0.0.0/0")], "SSH would be open to the world"),
        (
            vec![word("0.0.0.0/1"), word("::1")],
            "SSH would be open to the world",
        ),
        (vec![AddressWord::Admins], "cannot refer to itself"),
        (
            (0..=255)
                .flat_map(|i| {
                    [
                        word(&format!("198.18.{i}.1")),
                        word(&format!("198.18.{i}.3")),
                    ]
                })
                .collect(),
            "512 is above the limit of 256",
        ),
    ] {
        let error = refused(&changed(|site| site.admins = admins)).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_back_end_is_never_open_to_the_world_unawares() {
    for name in ["sip-pbx", "hubring", "sql", "amqp", "es", "erlang", "nfs"] {
        for world in [
            vec![AddressWord::World],
            vec![word("0.0.0.0/0")],
            vec![word("::/0")],
            vec![word("0.0.0.0/1"), word("128.0.0.0/1")],
        ] {
            let error = refused(&service(name, from(world.clone()))).to_string();
            assert!(
                error.contains(&format!("opens {name} to the world")),
                "{error}"
            );
            let aware = ServiceOverride {
                dangerous: true,
                ..from(world)
            };
            compiled(&service(name, aware), &[all_roles()]);
        }
    }
    let aware = ServiceOverride {
        dangerous: true,
        ..from(vec![AddressWord::World])
    };
    assert!(warns(
        &compiled(&service("sql", aware), &[all_roles()]),
        "open to the world"
    ));
}

#[test]
fn nor_by_a_rule_of_the_site() {
    let rule = |proto, first, last, dangerous| {
        changed(|site| {
            site.rules = vec![CustomRule {
                name: "wide".to_owned(),
                traffic: Traffic::Ports(proto, vec![PortRange::new(first, last).unwrap()]),
                from: vec![AddressWord::World],
                interface: None,
                roles: Vec::new(),
                dangerous,
            }];
        })
    };
    let error = refused(&rule(Transport::Tcp, 3000, 4000, false)).to_string();
    assert!(
        error.contains("rules.wide.from opens sql to the world"),
        "{error}"
    );
    compiled(&rule(Transport::Tcp, 3000, 4000, true), &[all_roles()]);
    compiled(&rule(Transport::Udp, 3000, 3400, false), &[all_roles()]);
}

#[test]
fn the_world_cannot_be_denied() {
    for word in [AddressWord::World, AddressWord::Local] {
        let error = refused(&changed(|site| site.deny = vec![word])).to_string();
        assert!(error.starts_with("deny cannot be"), "{error}");
    }
}

#[test]
fn fields_without_a_meaning_are_refused() {
    let error = refused(&service("teleport", ServiceOverride::default())).to_string();
    assert!(error.contains("no service teleport"), "{error}");
    let notrack = ServiceOverride {
        notrack: true,
        ..ServiceOverride::default()
    };
    assert!(
        refused(&service("rtp", notrack))
            .to_string()
            .contains("services.rtp.notrack")
    );
    let ports = ServiceOverride {
        ports: Some(vec![PortRange::single(8)]),
        ..ServiceOverride::default()
    };
    assert!(
        refused(&service("icmp", ports))
            .to_string()
            .contains("services.icmp.ports")
    );
    let many = ServiceOverride {
        ports: Some(vec![PortRange::new(2200, 2215).unwrap()]),
        ..ServiceOverride::default()
    };
    assert!(
        refused(&service("ssh", many))
            .to_string()
            .contains("services.ssh.ports: 16")
    );
    let udp = ServiceOverride {
        proto: Some(vec![Transport::Udp]),
        ..ServiceOverride::default()
    };
    assert!(
        refused(&service("ssh", udp))
            .to_string()
            .contains("services.ssh")
    );
}

#[test]
fn two_rules_of_one_name_are_refused() {
    let error = refused(&changed(|site| site.rules.push(site.rules[0].clone())));
    assert!(matches!(error, CompileError::DuplicateRule(_)));
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let nodes = [all_roles(), all_roles()];
    let error = effective(&documents(), &nodes).unwrap_err();
    assert!(matches!(error, CompileError::DuplicateNode(_)));
}

#[test]
fn a_failing_test_of_the_site_names_the_rule_that_decided() {
    let test = |source: &str, port, accept| PolicyTest {
        name: format!("test of {port}"),
        from: address(source),
        role: Role::Sip,
        packet: TestPacket::Port(Transport::Udp, port),
        interface: None,
        accept,
    };
    let documents = changed(|site| {
        site.tests = vec![
            test("198.51.100.200", 5060, true),
            test("203.0.113.9", 5060, false),
            test("2001:db8:10::1", 5060, true),
            test("10.0.0.1", 9999, true),
        ];
    });
    let CompileError::Tests(failures) = refused(&documents) else {
        panic!("not refused for its tests");
    };
    assert_eq!(
        failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "test of 5060: udp 5060 from 198.51.100.200 on node all-1: expected accepted, dropped \
             by rule default",
            "test of 5060: udp 5060 from 203.0.113.9 on node all-1: expected refused, accepted by \
             rule sip:udp:clients",
        ]
    );
}

#[test]
fn a_back_end_that_moved_is_not_opened_by_another_service() {
    let moved = |nodes: &[NodeInput], dangerous| {
        let documents = changed(|site| {
            let ports = |port| Some(vec![PortRange::single(port)]);
            let sql = ServiceOverride {
                ports: ports(13_306),
                ..ServiceOverride::default()
            };
            let web = ServiceOverride {
                ports: ports(13_306),
                dangerous,
                ..from(vec![AddressWord::World])
            };
            site.services.insert("sql".to_owned(), sql);
            site.services.insert("web".to_owned(), web);
            site.tests.clear();
        });
        effective(&documents, nodes)
    };
    let error = moved(&[all_roles()], false).unwrap_err().to_string();
    assert!(error.contains("services.web.ports opens sql"), "{error}");
    assert!(moved(&[all_roles()], true).is_ok());
    // On nodes of their own both may have the port.
    let apart = [node("h-1", 1, &[Role::Http]), node("d-1", 2, &[Role::Sql])];
    assert!(moved(&apart, false).is_ok());
}

#[test]
fn admins_that_no_machine_can_be_are_none() {
    for admins in [
        vec![word("127.0.0.1")],
        vec![word("::1"), word("224.0.0.1")],
    ] {
        let error = refused(&changed(|site| site.admins = admins));
        assert!(matches!(error, CompileError::NoAdmins(_)), "{error}");
    }
}

#[test]
fn in_observe_mode_tests_are_of_the_policy() {
    let documents = changed(|site| {
        site.mode = voipfleet_ruleset::ruleset::Mode::Observe;
        site.tests[0].accept = true;
        let stranger = PolicyTest {
            name: "strangers do not".to_owned(),
            from: address("198.51.100.200"),
            accept: false,
            ..site.tests[0].clone()
        };
        site.tests.push(stranger);
    });
    compiled(&documents, &[all_roles()]);
}

#[test]
fn fields_without_effect_are_reported() {
    let documents = changed(|site| {
        site.services
            .insert("dns".to_owned(), ServiceOverride::default());
    });
    let compiled = compiled(&documents, &[all_roles()]);
    assert!(warns(&compiled, "services.dns: it leaves the node"));
}

#[test]
fn every_node_gets_the_probes_of_its_site() {
    let bare = compiled(&documents(), &[all_roles()]);
    let probe = |name: &str| Probe {
        name: name.parse().unwrap(),
        check: ProbeCheck::Tcp("10.0.0.53:53".parse().unwrap()),
    };
    let probes = vec![probe("b"), probe("a")];
    let with = compiled(
        &changed(|site| site.probes.clone_from(&probes)),
        &[all_roles()],
    );
    for (node, ruleset) in &with.rulesets {
        assert_eq!(ruleset.probes, probes, "in the order of the document");
        assert_ne!(ruleset.digest(), bare.rulesets[node].digest());
    }
    assert!(!warns(&with, "probe"));
}

#[test]
fn closing_the_web_warns_of_the_consequences() {
    let narrowed = compiled(
        &service("web", from(vec![AddressWord::Admins])),
        &[all_roles()],
    );
    assert!(warns(&narrowed, "provisioning"));
    assert!(!warns(
        &compiled(&documents(), &[all_roles()]),
        "provisioning"
    ));
    let open = compiled(
        &service("web", from(vec![AddressWord::World])),
        &[all_roles()],
    );
    assert!(!warns(&open, "provisioning"));
}
