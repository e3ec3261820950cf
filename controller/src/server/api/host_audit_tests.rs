use voipfleet_policy::{Source, check};
use voipfleet_proto::v1::{BackEnd, Listener, Network, NodeFacts};

use super::*;

const POLICY: &str = r#"
kind: Site
name: site-a
tenants: [acme]
providers: [trunkco]
admins: [198.51.100.0/24, "list:staff"]
cluster: {interface: eth1, trust: full}
mode: enforce
default: drop
services:
  sql: {ports: 3307}
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/25, 203.0.113.128/25]}
---
kind: Provider
name: trunkco
signalling: [192.0.2.0/28]
media: [192.0.2.128/25]
---
kind: List
name: staff
addresses: ["2001:db8:ad::/64"]
"#;

fn documents(extra: &str) -> Documents {
    let source = Source {
        path: "policy.yaml".to_owned(),
        text: POLICY.replace("services:\n", &format!("services:\n{extra}")),
    };
    let checked = check(&[source], &Documents::default());
    let errors: Vec<_> = checked
        .diagnostics
        .iter()
        .filter(|found| found.severity == voipfleet_policy::Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    checked.documents.into_iter().collect()
}

fn node(roles: &[&str], voipnow: VoipNow) -> NodeReport {
    NodeReport {
        node: "n1".to_owned(),
        roles: roles.iter().map(ToString::to_string).collect(),
        facts: Some(NodeFacts {
            addresses: vec![
                InterfaceAddress {
                    interface: "eth0".to_owned(),
                    address: vec![192, 0, 2, 200],
                    prefix_length: 8,
                },
                InterfaceAddress {
                    interface: "eth1".to_owned(),
                    address: vec![10, 10, 33, 7],
                    prefix_length: 24,
                },
            ],
            voipnow: Some(voipnow),
            ..NodeFacts::default()
        }),
        ..NodeReport::default()
    }
}

fn compared(extra: &str, node: NodeReport) -> Vec<(DifferenceKind, String, String)> {
    let documents = documents(extra);
    let site = documents.sites.values().next().unwrap();
    let mut status = SiteStatus {
        nodes: vec![node],
        ..SiteStatus::default()
    };
    compare_site(site, &documents, &mut status);
    let found = status.nodes.remove(0).differences.into_iter();
    found
        .map(|found| (found.kind(), found.found, found.documented))
        .collect()
}

fn one(kind: DifferenceKind, found: &str, documented: &str) -> (DifferenceKind, String, String) {
    (kind, found.to_owned(), documented.to_owned())
}

fn voipnow(roles: &[&str]) -> VoipNow {
    VoipNow {
        roles: roles.iter().map(ToString::to_string).collect(),
        ..VoipNow::default()
    }
}

#[test]
fn roles_of_the_enrolment_against_roles_that_run() {
    let found = compared("", node(&["sip", "jabber"], voipnow(&["sip", "sql"])));
    assert_eq!(
        found,
        [
            one(DifferenceKind::RoleNotEnrolled, "sql", ""),
            one(DifferenceKind::RoleNotRunning, "", "jabber"),
        ]
    );
    // The controller role has a web server, and no daemon of its own.
    assert_eq!(
        compared("", node(&["ic", "wk"], voipnow(&["http", "wk"]))),
        []
    );
    // Nothing runs: that is another matter.
    assert_eq!(compared("", node(&["sip"], voipnow(&[]))), []);
}

#[test]
fn ports_against_the_catalogue_and_the_site() {
    let back_end = |service: &str, port| BackEnd {
        service: service.to_owned(),
        host: "10.10.33.9".to_owned(),
        port,
    };
    let mut facts = voipnow(&[]);
    facts.back_ends = vec![
        back_end("sql", 3307),
        back_end("sql", 3306),
        back_end("amqp", 5672),
        back_end("es", 9201),
        back_end("unheard-of", 1),
    ];
    assert_eq!(
        compared("", node(&["sip"], facts)),
        [
            one(
                DifferenceKind::Port,
                "sql on 10.10.33.9:3306",
                "sql on tcp 3307"
            ),
            one(
                DifferenceKind::Port,
                "es on 10.10.33.9:9201",
                "es on tcp 9200, 9300"
            ),
        ]
    );
}

#[test]
fn trusted_networks_against_everybody_that_the_documents_know() {
    let network = |address: &[u8], prefix_length| Network {
        address: address.to_vec(),
        prefix_length,
    };
    let mut facts = voipnow(&[]);
    facts.trusted_networks = vec![
        network(&[10, 10, 33, 0], 24),    // the cluster's
        network(&[203, 0, 113, 0], 24),   // both offices of the tenant
        network(&[192, 0, 2, 200], 32),   // the carrier's media
        network(&[198, 51, 100, 10], 32), // an admin
        network(&[10, 10, 34, 12], 32),   // nobody's
        network(&[192, 0, 0, 0], 8),      // that of the public interface
        network(&[1, 2, 3], 8),           // no address
    ];
    assert_eq!(
        compared("", node(&["sip"], facts)),
        [
            one(DifferenceKind::TrustedNetwork, "10.10.34.12/32", ""),
            one(DifferenceKind::TrustedNetwork, "192.0.0.0/8", ""),
        ]
    );
}

#[test]
fn listeners_are_told_where_the_world_reaches_them() {
    let mut pbx = node(&["pbx"], voipnow(&[]));
    let listeners = [("memcached", 11_211), ("", 4789), ("x", 9999)];
    pbx.facts.as_mut().unwrap().listeners = listeners
        .map(|(process, port)| Listener {
            port,
            process: process.to_owned(),
        })
        .into();
    let hidden = "a socket of the kernel or of a hidden process on udp 4789";
    let open = [
        one(
            DifferenceKind::OpenListener,
            "memcached on udp 11211",
            "rtp",
        ),
        one(DifferenceKind::OpenListener, hidden, "t38"),
    ];
    assert_eq!(compared("", pbx.clone()), open);
    // The site lets only clients in, or uses other ports.
    assert_eq!(
        compared("  rtp: {from: [clients]}\n", pbx.clone()),
        open[1..]
    );
    assert_eq!(
        compared("  rtp: {ports: 12000-13000}\n", pbx.clone()),
        open[1..]
    );
    // No media there.
    pbx.roles = vec!["sip".to_owned()];
    assert_eq!(compared("", pbx), []);
}
