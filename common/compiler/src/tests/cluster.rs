//! How the nodes of a site reach each other.

use voipfleet_policy::{AddressWord, ServiceOverride, Trust};
use voipfleet_ruleset::ruleset::Interface;

use super::*;

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
fn without_an_interface_all_addresses_that_others_can_reach_are_members() {
    let documents = changed(|site| site.cluster.interface = None);
    let compiled = compiled(&documents, &two_nodes());
    let ruleset = ruleset(&compiled, "sql-2");
    assert_eq!(
        elements(ruleset, "vf-cluster-4"),
        [
            "10.0.0.1/32",
            "10.0.0.2/32",
            "198.18.0.1/32",
            "198.18.0.2/32"
        ]
    );
    assert_eq!(elements(ruleset, "vf-cluster-6").len(), 4);
    assert!(gets_through(ruleset, "2001:db8:a::1", Protocol::Tcp, 9999));
}

#[test]
fn a_node_without_the_interface_is_reported() {
    let mut nodes = two_nodes();
    nodes[1]
        .addresses
        .retain(|address| address.interface != "eth1");
    let compiled = compiled(&documents(), &nodes);
    assert!(warns(&compiled, "node sql-2 has no address on eth1"));
    let set = elements(ruleset(&compiled, "all-1"), "vf-cluster-4");
    assert_eq!(set, ["10.0.0.1/32", "198.18.0.2/32"]);
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
