//! How the nodes of a site reach each other.

use ipnet::IpNet;
use voipfleet_policy::{
    AddressWord, Cluster, ClusterOverride, CustomRule, PolicyTest, ServiceOverride, TestPacket,
    Traffic, Trust,
};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName, Interface, Scope};

use super::*;
use crate::fixtures::effective_with;
use crate::{InterfaceAddress, Membership, PendingReason, Standing};

fn two_nodes() -> [NodeInput; 2] {
    [all_roles(), node("sql-2", 2, &[Role::Sql])]
}

fn by(interface: &str, source: &str, port: u16) -> Packet {
    let mut packet = Packet::new(address(source), Protocol::Tcp, port);
    packet.in_interface = Some(interface.parse::<Interface>().unwrap());
    packet
}

#[test]
fn members_reach_everything_by_the_clusters_interface() {
    let compiled = compiled(&documents(), &two_nodes());
    for name in ["all-1", "sql-2"] {
        let ruleset = ruleset(&compiled, name);
        assert_eq!(
            elements(ruleset, "vf-cluster-4"),
            ["10.0.0.1/32", "10.0.0.2/32"]
        );
        assert_eq!(
            elements(ruleset, "vf-cluster-6"),
            ["fd00:a::1/128", "fd00:a::2/128"]
        );
        for member in ["10.0.0.1", "fd00:a::2"] {
            let outcome = simulate(ruleset, &by("eth1", member, 9999));
            assert_eq!(outcome.label, "cluster", "{member}");
            let outcome = simulate(ruleset, &by("eth0", member, 9999));
            assert_eq!(
                outcome.decision,
                Decision::Drop,
                "{member} by another interface"
            );
        }
        assert_eq!(
            simulate(ruleset, &by("eth1", "10.0.0.3", 9999)).decision,
            Decision::Drop
        );
        assert_eq!(
            simulate(ruleset, &by("lo", "10.0.0.3", 9999)).decision,
            Decision::Accept
        );
    }
}

#[test]
fn a_node_is_a_member_by_what_lies_inside_the_networks_alone() {
    let documents = changed(|site| site.cluster.interface = None);
    let mut nodes = two_nodes();
    let address = |interface: &str, net: &str| InterfaceAddress {
        interface: interface.to_owned(),
        net: net.parse().unwrap(),
    };
    // A node that lies opens nothing.
    nodes[1].addresses.extend([
        address("eth1", "198.51.100.66/32"),
        address("eth1", "0.0.0.0/0"),
        address("eth0", "8.8.8.0/24"),
        address("eth9", "10.0.0.77/24"),
    ]);
    let compiled = compiled(&documents, &nodes);
    let ruleset = ruleset(&compiled, "all-1");
    assert_eq!(
        elements(ruleset, "vf-cluster-4"),
        ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.77/32"]
    );
    assert_eq!(elements(ruleset, "vf-cluster-6").len(), 2);
    assert!(gets_through(ruleset, "fd00:a::1", Protocol::Tcp, 9999));
    for stranger in ["198.51.100.66", "8.8.8.0", "198.18.0.2", "2001:db8:a::1"] {
        assert!(
            !gets_through(ruleset, stranger, Protocol::Tcp, 22),
            "{stranger}"
        );
    }
    let membership = Membership::of(&site_of(&documents).cluster, &nodes);
    let pending: Vec<String> = membership
        .pending
        .iter()
        .map(|one| one.address.to_string())
        .collect();
    assert!(pending.contains(&"198.51.100.66".to_owned()), "{pending:?}");
    assert_eq!(membership.members.len(), 5);
}

#[test]
fn no_node_is_a_member_before_it_was_pushed_to() {
    let mut nodes = two_nodes();
    for (standing, reason) in [
        (Standing::NotPushed, PendingReason::NotPushed),
        (Standing::NotConfirmed, PendingReason::NotConfirmed),
    ] {
        nodes[1].standing = standing;
        let compiled = compiled(&documents(), &nodes);
        let ruleset = ruleset(&compiled, "all-1");
        assert_eq!(elements(ruleset, "vf-cluster-4"), ["10.0.0.1/32"]);
        let membership = Membership::of(&site_of(&documents()).cluster, &nodes);
        let pending = membership.pending.iter();
        let own: Vec<_> = pending.filter(|one| one.node.as_str() == "sql-2").collect();
        assert_eq!(own.len(), 4);
        assert!(own.iter().all(|one| one.reason == reason), "{own:?}");
    }
}

#[test]
fn an_address_that_was_just_lost_still_counts_inside_the_networks() {
    let mut nodes = two_nodes();
    nodes[1].lost = ["10.0.0.200/24", "198.51.100.66/32"]
        .map(|net| InterfaceAddress {
            interface: "eth1".to_owned(),
            net: net.parse().unwrap(),
        })
        .to_vec();
    let compiled = compiled(&documents(), &nodes);
    let set = elements(ruleset(&compiled, "all-1"), "vf-cluster-4");
    assert_eq!(set, ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.200/32"]);
}

/// A site whose document names an interface and no networks.
fn by_interface_alone(change: impl FnOnce(&mut Site)) -> Documents {
    changed(|site| {
        site.cluster.networks.clear();
        change(site);
    })
}

#[test]
fn an_interface_alone_makes_private_addresses_members_below_blocks() {
    let documents = by_interface_alone(|site| {
        site.deny
            .push(AddressWord::Net("10.0.0.2/32".parse().unwrap()));
    });
    let mut nodes = two_nodes();
    nodes[1].addresses.push(InterfaceAddress {
        interface: "eth1".to_owned(),
        net: "198.51.100.66/24".parse().unwrap(),
    });
    let compiled = compiled(&documents, &nodes);
    let ruleset = ruleset(&compiled, "all-1");
    assert_eq!(
        elements(ruleset, "vf-cluster-4"),
        ["10.0.0.1/32", "10.0.0.2/32"]
    );
    let input = labels(ruleset, "VF-INPUT");
    let place = |label: &str| input.iter().position(|l| l == label).expect(label);
    assert!(
        place("block") < place("cluster"),
        "a claim outranks no block"
    );
    assert!(place("cluster") < place("deny"));
    // And exempts nobody from what is denied.
    assert!(!labels(ruleset, "VF-DENY").contains(&"deny:exempt:cluster".to_owned()));
    let outcome = simulate(ruleset, &by("eth0", "10.0.0.2", 9999));
    assert_eq!(outcome.label, "deny");
    let membership = Membership::of(&site_of(&documents).cluster, &nodes);
    let reasons: BTreeSet<_> = membership.pending.iter().map(|one| one.reason).collect();
    assert_eq!(
        reasons,
        BTreeSet::from([PendingReason::NotPrivate, PendingReason::OtherInterface])
    );
}

#[test]
fn a_node_without_the_interface_is_no_member_by_another_one() {
    let mut nodes = two_nodes();
    nodes[1]
        .addresses
        .retain(|address| address.interface != "eth1");
    let compiled = compiled(&by_interface_alone(|_| {}), &nodes);
    assert!(warns(&compiled, "node sql-2 has no address on eth1"));
    assert!(warns(
        &compiled,
        "node sql-2 has no private address on the cluster's interface"
    ));
    let set = elements(ruleset(&compiled, "all-1"), "vf-cluster-4");
    assert_eq!(set, ["10.0.0.1/32"]);
}

#[test]
fn a_renamed_interface_changes_no_members_where_networks_are_named() {
    let mut nodes = two_nodes();
    for address in &mut nodes[1].addresses {
        if address.interface == "eth1" {
            "ens224".clone_into(&mut address.interface);
        }
    }
    let renamed = compiled(&documents(), &nodes);
    let set = elements(ruleset(&renamed, "all-1"), "vf-cluster-4");
    assert_eq!(set, ["10.0.0.1/32", "10.0.0.2/32"]);
    assert!(warns(
        &renamed,
        "cluster: {nodes: {sql-2: {interface: NAME}}}"
    ));
    // With its name in the document, that node and no other lets members in by it.
    let documents = changed(|site| {
        let change = ClusterOverride {
            interface: Some("ens224".parse().unwrap()),
            protocols: None,
        };
        site.cluster.nodes.insert("sql-2".parse().unwrap(), change);
    });
    let compiled = compiled(&documents, &nodes);
    assert!(!warns(&compiled, "has no address on"));
    for (name, interface, other) in [("all-1", "eth1", "ens224"), ("sql-2", "ens224", "eth1")] {
        let ruleset = ruleset(&compiled, name);
        let by = |interface| simulate(ruleset, &by(interface, "10.0.0.1", 9999));
        assert_eq!(by(interface).label, "cluster", "{name}");
        assert_eq!(by(other).decision, Decision::Drop, "{name}");
    }
}

#[test]
fn roles_with_different_interfaces_are_refused_for_a_node_of_both() {
    let documents = changed(|site| {
        for (role, interface) in [(Role::Sip, "eth2"), (Role::Pbx, "eth3")] {
            let change = ClusterOverride {
                interface: Some(interface.parse().unwrap()),
                protocols: None,
            };
            site.cluster.roles.insert(role, change);
        }
    });
    let error = refused(&documents).to_string();
    assert!(error.contains("cluster.nodes.all-1"), "{error}");
    let apart = [
        node("sip-1", 1, &[Role::Sip]),
        node("pbx-2", 2, &[Role::Pbx]),
    ];
    let compiled = compiled(&documents, &apart);
    for (name, interface) in [("sip-1", "eth2"), ("pbx-2", "eth3")] {
        let outcome = simulate(ruleset(&compiled, name), &by(interface, "10.0.0.1", 9999));
        assert_eq!(outcome.label, "cluster");
    }
}

#[test]
fn members_that_no_node_reports_are_in_the_ruleset() {
    let documents = changed(|site| {
        site.cluster.interface = None;
        site.cluster.members = crate::fixtures::nets(&["192.0.2.201", "2001:db8:f::/64"]);
    });
    let emitted = emitted(&documents, &two_nodes());
    let sent = ruleset(&emitted, "all-1");
    assert_eq!(elements(sent, "vf-cluster-4"), ["192.0.2.201/32"]);
    let compiled = compiled(&documents, &two_nodes());
    let ruleset = ruleset(&compiled, "all-1");
    for member in ["192.0.2.201", "2001:db8:f::9", "10.0.0.2"] {
        assert_eq!(
            send(ruleset, member, Protocol::Tcp, 5672).label,
            "cluster",
            "{member}"
        );
    }
}

#[test]
fn a_site_that_names_nobody_lets_no_node_in() {
    let documents = changed(|site| site.cluster = Cluster::default());
    let compiled = compiled(&documents, &two_nodes());
    assert!(warns(
        &compiled,
        "write cluster: {networks: [10.0.0.0/24, fd00:a::/64]}"
    ));
    let ruleset = ruleset(&compiled, "all-1");
    assert!(!gets_through(ruleset, "10.0.0.2", Protocol::Tcp, 3306));
    assert!(!labels(ruleset, "VF-INPUT").contains(&"cluster".to_owned()));
}

fn protocol(name: &str) -> Protocol {
    Protocol::Other(name.parse().unwrap())
}

#[test]
fn protocols_of_the_cluster_come_by_any_interface() {
    let documents = changed(|site| {
        site.cluster.networks.push("198.18.0.0/24".parse().unwrap());
        site.cluster.protocols = vec!["ah".parse().unwrap()];
        let change = ClusterOverride {
            interface: None,
            protocols: Some(vec!["vrrp".parse().unwrap()]),
        };
        site.cluster.roles.insert(Role::Sip, change);
    });
    let nodes = [
        node("sip-1", 1, &[Role::Sip]),
        node("sip-2", 2, &[Role::Sip]),
        node("sql-3", 3, &[Role::Sql]),
    ];
    let compiled = compiled(&documents, &nodes);
    let sip = ruleset(&compiled, "sip-1");
    let mut advertisement = Packet::new(address("198.18.0.2"), protocol("vrrp"), 0);
    advertisement.in_interface = Some("eth0".parse().unwrap());
    assert_eq!(simulate(sip, &advertisement).label, "cluster:vrrp");
    let sql = ruleset(&compiled, "sql-3");
    assert_eq!(simulate(sql, &advertisement).decision, Decision::Drop);
    // Everything else is by the cluster's interface only.
    assert_eq!(
        simulate(sip, &by("eth0", "198.18.0.2", 3306)).decision,
        Decision::Drop
    );
    let stranger = Packet {
        source: address("198.18.0.99"),
        ..advertisement
    };
    assert_eq!(simulate(sip, &stranger).decision, Decision::Drop);
    let ah = rules(sql, "VF-INPUT")
        .iter()
        .find(|rule| rule.label.as_str() == "cluster:ah");
    assert_eq!(ah.unwrap().scope, Scope::V4, "IPv6 has no packets of it");
}

#[test]
fn rules_of_the_site_open_protocols_and_interfaces() {
    let rule = |name: &str, traffic, from: &str, interface: Option<&str>| CustomRule {
        name: name.to_owned(),
        traffic,
        from: vec![AddressWord::Net(from.parse().unwrap())],
        interface: interface.map(|name| name.parse().unwrap()),
        roles: Vec::new(),
        dangerous: false,
    };
    let vrrp = Traffic::Protocol("vrrp".parse().unwrap());
    let documents = changed(|site| {
        site.rules = vec![
            rule("keepalived", vrrp, "198.18.0.0/24", Some("eth0")),
            rule(
                "tailscale",
                Traffic::Any,
                "100.64.0.0/10",
                Some("tailscale0"),
            ),
        ];
        let mut from_members = rule(
            "pim",
            Traffic::Protocol("pim".parse().unwrap()),
            "192.0.2.1/32",
            None,
        );
        from_members.from = vec![AddressWord::Cluster];
        site.rules.push(from_members);
    });
    let single = single(&documents);
    let packet = |source: &str, protocol, interface: &str| Packet {
        in_interface: Some(interface.parse().unwrap()),
        ..Packet::new(address(source), protocol, 9999)
    };
    for (source, sent, interface, label) in [
        ("198.18.0.7", protocol("vrrp"), "eth0", "rule:keepalived"),
        ("198.18.0.7", protocol("vrrp"), "eth1", "default"),
        ("198.18.0.7", protocol("esp"), "eth0", "default"),
        ("100.64.0.9", Protocol::Tcp, "tailscale0", "rule:tailscale"),
        (
            "100.64.0.9",
            protocol("esp"),
            "tailscale0",
            "rule:tailscale",
        ),
        ("100.64.0.9", Protocol::Tcp, "eth0", "default"),
        // Members of a trusted cluster too, where they come by another interface.
        ("10.0.0.1", protocol("pim"), "eth0", "rule:pim:cluster"),
    ] {
        let outcome = simulate(&single, &packet(source, sent, interface));
        assert_eq!(outcome.label, label, "{source} {sent:?} by {interface}");
    }
}

#[test]
fn a_forced_block_outranks_the_cluster() {
    let nodes = two_nodes();
    let site = "site-a".parse().unwrap();
    let mut dynamic = at_rest(&site, &documents(), &nodes);
    let member: IpNet = "10.0.0.2/32".parse().unwrap();
    for (name, label) in [
        (DynamicSetName::Block, "cluster"),
        (DynamicSetName::BlockForced, "block:forced"),
    ] {
        dynamic.insert(name, DynamicSet::new([member], []));
        let compiled = effective_with(&documents(), &nodes, &dynamic).unwrap();
        let ruleset = ruleset(&compiled, "all-1");
        assert_eq!(
            simulate(ruleset, &by("eth1", "10.0.0.2", 3306)).label,
            label
        );
        assert_eq!(
            simulate(ruleset, &by("eth1", "10.0.0.1", 3306)).label,
            "cluster"
        );
    }
}

#[test]
fn tests_of_the_site_send_protocols_by_interfaces() {
    let test = |source: &str, interface: Option<&str>, accept| PolicyTest {
        name: format!("from {source}"),
        from: address(source),
        role: Role::Sip,
        packet: TestPacket::Protocol("vrrp".parse().unwrap()),
        interface: interface.map(|name| name.parse().unwrap()),
        accept,
    };
    let documents = changed(|site| {
        site.cluster.trust = Trust::Strict;
        site.rules = vec![CustomRule {
            name: "keepalived".to_owned(),
            traffic: Traffic::Protocol("vrrp".parse().unwrap()),
            from: vec![AddressWord::Cluster],
            interface: Some("eth1".parse().unwrap()),
            roles: vec![Role::Sip],
            dangerous: false,
        }];
        site.tests = vec![
            test("10.0.0.1", None, true),
            test("10.0.0.2", Some("eth1"), false),
            test("10.0.0.2", Some("eth0"), true),
        ];
    });
    let nodes = two_nodes();
    let error = effective(&documents, &nodes).unwrap_err();
    let CompileError::Tests(failures) = error else {
        panic!("not refused for its tests: {error}");
    };
    assert_eq!(
        failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "from 10.0.0.2: vrrp from 10.0.0.2 on node all-1: expected refused, accepted by rule \
             rule:keepalived:cluster",
            "from 10.0.0.2: vrrp from 10.0.0.2 on node all-1: expected accepted, dropped by rule \
             default",
        ]
    );
}

fn site_of(documents: &Documents) -> &Site {
    documents.sites.values().next().unwrap()
}

#[test]
fn a_site_whose_nodes_have_no_address_compiles() {
    let mut nodes = two_nodes();
    for node in &mut nodes {
        node.addresses.clear();
    }
    let compiled = compiled(&documents(), &nodes);
    assert!(warns(&compiled, "node all-1 has reported no address"));
    let ruleset = ruleset(&compiled, "all-1");
    // The rule waits for their addresses.
    assert!(labels(ruleset, "VF-INPUT").contains(&"cluster".to_owned()));
    assert!(elements(ruleset, "vf-cluster-4").is_empty());
    assert!(set_names(ruleset).contains("vf-cluster-4"));
}

#[test]
fn strict_members_reach_services_only() {
    let documents = changed(|site| site.cluster.trust = Trust::Strict);
    let nodes = [
        node("sip-1", 1, &[Role::Sip]),
        node("sql-2", 2, &[Role::Sql]),
    ];
    let strict = compiled(&documents, &nodes);
    let sql = ruleset(&strict, "sql-2");
    assert_eq!(
        simulate(sql, &by("eth1", "10.0.0.1", 3306)).label,
        "sql:tcp:cluster"
    );
    assert_eq!(
        simulate(sql, &by("eth0", "10.0.0.1", 3306)).decision,
        Decision::Drop
    );
    assert_eq!(
        simulate(sql, &by("eth1", "10.0.0.1", 5672)).decision,
        Decision::Drop
    );
    assert!(!labels(sql, "VF-INPUT").contains(&"cluster".to_owned()));
    // A service that the site opens to the cluster by hand.
    let documents = changed(|site| {
        site.cluster.trust = Trust::Strict;
        let nfs = ServiceOverride {
            from: Some(vec![AddressWord::Cluster]),
            ..ServiceOverride::default()
        };
        site.services.insert("nfs".to_owned(), nfs);
    });
    let strict = compiled(&documents, &nodes);
    let sql = ruleset(&strict, "sql-2");
    assert_eq!(
        simulate(sql, &by("eth1", "10.0.0.1", 2049)).label,
        "nfs:tcp:cluster"
    );
}

#[test]
fn strict_warns_when_pbx_cannot_reach_sip() {
    let mut documents = changed(|site| site.cluster.trust = Trust::Strict);
    let nodes = [
        node("sip-1", 1, &[Role::Sip]),
        node("pbx-2", 2, &[Role::Pbx]),
    ];
    assert!(warns(&compiled(&documents, &nodes), "do not reach 5060"));
    let site = documents.sites.values_mut().next().unwrap();
    let sip = site.services.get_mut("sip").unwrap();
    sip.from = Some(vec![AddressWord::Clients, AddressWord::Cluster]);
    let open = compiled(&documents, &nodes);
    assert!(!warns(&open, "do not reach 5060"));
    let packet = by("eth1", "10.0.0.2", 5060);
    assert_eq!(
        simulate(ruleset(&open, "sip-1"), &packet).decision,
        Decision::Accept
    );
}

#[test]
fn strict_warns_when_a_narrowed_service_shuts_members_out() {
    let nodes = [
        node("pbx-1", 1, &[Role::Pbx]),
        node("pbx-2", 2, &[Role::Pbx]),
    ];
    let narrowed = |trust, words: Vec<AddressWord>| {
        let documents = changed(|site| {
            site.cluster.trust = trust;
            let rtp = ServiceOverride {
                from: Some(words),
                ..ServiceOverride::default()
            };
            site.services.insert("rtp".to_owned(), rtp);
        });
        warns(
            &compiled(&documents, &nodes),
            "closes rtp between the nodes",
        )
    };
    let clients = vec![AddressWord::Clients];
    assert!(narrowed(Trust::Strict, clients.clone()));
    assert!(!narrowed(Trust::Full, clients.clone()));
    assert!(!narrowed(
        Trust::Strict,
        [clients, vec![AddressWord::Cluster]].concat()
    ));
    assert!(!narrowed(Trust::Strict, Vec::new()));
}
