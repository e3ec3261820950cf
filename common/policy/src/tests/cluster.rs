//! What a document may say of a cluster, of protocols and of interfaces.

use super::checked;
use crate::{Document, Traffic, Trust};

/// The first message of a site with these lines, and its help; empty where there is none.
fn message(lines: &str) -> String {
    let text = format!("kind: Site\nname: a\nadmins: [192.0.2.1]\n{lines}");
    let found = checked(&[("a.yaml", &text)]).diagnostics;
    let first = found.into_iter().next();
    first.map_or_else(String::new, |one| format!("{}; {}", one.message, one.help))
}

fn site(lines: &str) -> crate::Site {
    let text = format!("kind: Site\nname: a\nadmins: [192.0.2.1]\n{lines}");
    let checked = checked(&[("a.yaml", &text)]);
    assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
    match checked.documents.into_iter().next() {
        Some(Document::Site(site)) => *site,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_says_whom_it_trusts() {
    for refused in [
        "cluster: {trust: full}",
        "cluster: {trust: full, roles: {sip: {protocols: [vrrp]}}}",
        "cluster: {protocols: [vrrp]}",
    ] {
        let message = message(refused);
        assert!(
            message.contains("networks: [10.20.0.0/24]"),
            "{refused}: {message}"
        );
        assert!(message.contains("interface: eth1"), "{refused}: {message}");
    }
    for taken in [
        "",
        "cluster: {}",
        "cluster: {trust: strict}",
        "cluster: {networks: 10.20.0.0/24}",
        "cluster: {networks: [10.20.0.0/24, \"fd00:20::/64\"], trust: full}",
        "cluster: {interface: eth1, trust: full}",
        "cluster: {members: [192.0.2.201], trust: full}",
        "cluster: {networks: [10.20.0.0/24], nodes: {pbx1: {interface: ens224}}}",
    ] {
        assert_eq!(message(taken), "", "{taken}");
    }
    assert_eq!(site("").cluster.trust, Trust::Full);
    assert!(site("cluster: {}").cluster.names_nobody());
}

#[test]
fn a_cluster_is_not_everybody() {
    for (refused, told) in [
        (
            "cluster: {networks: [0.0.0.0/0]}",
            "a sixteenth of all addresses",
        ),
        (
            "cluster: {networks: [\"::/0\"]}",
            "a sixteenth of all addresses",
        ),
        (
            "cluster: {members: [0.0.0.0/1]}",
            "a sixteenth of all addresses",
        ),
        (
            "cluster: {networks: [224.0.0.0/24]}",
            "no other machine has an address",
        ),
        (
            "cluster: {networks: [sip.example.net]}",
            "is not an address",
        ),
        (
            "cluster: {nodes: {pbx1: {interface: ens224}}}",
            "only some nodes have an interface",
        ),
        (
            "cluster: {interface: \"eth0; reboot\"}",
            "is not a network interface",
        ),
        (
            "cluster: {networks: [10.0.0.0/8], roles: {proxy: {}}}",
            "is not a role",
        ),
        (
            "cluster: {networks: [10.0.0.0/8], nodes: {PBX: {}}}",
            "is not a name",
        ),
        (
            "cluster: {networks: [10.0.0.0/8], protocols: [tcp]}",
            "open ports with",
        ),
        (
            "cluster: {networks: [10.0.0.0/8], protocols: [vrpp]}",
            "did you mean `vrrp`?",
        ),
        (
            "cluster: {networks: [10.0.0.0/8], protocols: [256]}",
            "not an IP protocol",
        ),
    ] {
        let message = message(refused);
        assert!(message.contains(told), "{refused}: {message}");
    }
}

#[test]
fn a_rule_is_for_ports_a_protocol_or_an_interface() {
    let rule = |accept: &str| format!("rules: [{{name: x, accept: {{{accept}}}}}]");
    for (refused, told) in [
        ("proto: tcp, from: [192.0.2.7]", "needs the field `ports`"),
        (
            "proto: vrrp, ports: [112], from: [192.0.2.7]",
            "has no ports here",
        ),
        ("proto: icmp, from: [192.0.2.7]", "ICMP is a service"),
        ("proto: 44, from: [192.0.2.7]", "not an IP protocol"),
        (
            "proto: any, from: [192.0.2.7]",
            "`proto: any` is for an interface",
        ),
        (
            "proto: any, from: [world], interface: tailscale0",
            "must not be open to the world",
        ),
        ("proto: esp, from: []", "admits no address"),
    ] {
        let message = message(&rule(refused));
        assert!(message.contains(told), "{refused}: {message}");
    }
    for taken in [
        "proto: vrrp, from: [198.18.0.0/24], interface: eth0, roles: [sip]",
        "proto: 112, from: [198.18.0.0/24]",
        "proto: esp, from: [world]",
        "proto: any, from: [100.64.0.0/10], interface: tailscale0",
        "proto: udp, ports: [67], from: [world], interface: virbr0",
    ] {
        assert_eq!(message(&rule(taken)), "", "{taken}");
    }
    let numbered = site(&rule("proto: \"112\", from: [198.18.0.0/24]"));
    let vrrp = Traffic::Protocol("vrrp".parse().unwrap());
    assert_eq!(numbered.rules[0].traffic, vrrp);
}

#[test]
fn a_test_sends_a_protocol_too() {
    let test = |to: &str| {
        format!("tests: [{{name: x, from: 192.0.2.7, to: {{role: sip, {to}}}, expect: accept}}]")
    };
    for taken in ["proto: udp, port: 5060", "proto: vrrp, interface: eth0"] {
        assert_eq!(message(&test(taken)), "", "{taken}");
    }
    for (refused, told) in [
        ("proto: udp", "needs the field `port`"),
        ("proto: vrrp, port: 5060", "has no ports here"),
        ("proto: any", "not an IP protocol"),
    ] {
        let message = message(&test(refused));
        assert!(message.contains(told), "{refused}: {message}");
    }
}
