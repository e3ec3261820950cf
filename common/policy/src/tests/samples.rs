//! Whole documents, good ones.

use voipfleet_ruleset::ruleset::{Mode, PortRange, Rate, RateUnit};

use super::super::*;
use super::{checked, rendered, sources};

/// One of every kind, with every field.
pub(super) const ALL: &str = r#"kind: Site
name: site-a
tenants: [acme, globex]
providers: [trunkco]
admins: [198.51.100.10, "2001:db8:ad::/64"]
cluster:
  networks: [10.20.0.0/24, "fd00:20::/64"]
  interface: eth1
  members: [192.0.2.201]
  protocols: [esp, 112]
  trust: full
  roles: {sip: {interface: eth2, protocols: [vrrp]}}
  nodes: {pbx1: {interface: ens224, protocols: []}}
mode: enforce
default: drop
services:
  sip:  {from: [clients], limit: {per_source: 20/s, burst: 60}}
  web:  {from: [clients, admins]}
  smtp: {from: [list:mail-relays]}
  rtp:  {ports: 10000-20000, from: [world], notrack: false}
  sip-tls: {proto: [tcp, udp]}
  hubring: {from: [world], dangerous: true}
  tftp: {from: []}
rules:
  - {name: monitoring, accept: {proto: tcp, ports: [9100], from: [10.20.0.0/16], roles: [sip, pbx]}}
  - name: odd
    dangerous: true
    accept: {proto: udp, ports: "2000, 111", from: world}
  - {name: keepalived, accept: {proto: vrrp, from: [198.18.0.0/24], interface: eth0, roles: [sip]}}
  - {name: tailscale, accept: {proto: any, from: [100.64.0.0/10], interface: tailscale0}}
deny: [list:voipbl]
probes: [{name: dns, tcp: "10.0.0.53:53"}]
rollout: {canary: 1, batch: 25%, max_failures: 0, pause: 10s, on_failure: rollback, confirm_within: 30s}
tests:
  - {name: phones register, from: 203.0.113.9, to: {role: sip, proto: udp, port: 5060}, expect: accept}
  - {name: no vrrp, from: 203.0.113.9, to: {role: sip, proto: vrrp, interface: eth0}, expect: drop}
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/24, "2001:db8:10::/48"]}
---
kind: Tenant
name: globex
networks:
  head: 192.0.2.64/255.255.255.224
  home: [Home.Globex.Example., 192.0.2.99]
---
kind: Provider
name: trunkco
signalling: [192.0.2.0/28, sip.trunkco.example]
media: [192.0.2.128/25]
---
kind: List
name: voipbl
file: lists/voipbl.txt
---
kind: List
name: mail-relays
addresses: [192.0.2.25, {address: 192.0.2.26, until: 2026-12-01T00:00:00Z}]
---
kind: List
name: scanners
addresses: 198.18.9.9
url: https://lists.example.net/scanners.txt
refresh: 15m
max_entries: 50000
---
kind: List
name: own
file: /srv/lists/own.txt
refresh: 2h
"#;

pub(super) const VOIPBL: &str = "# a list\n198.18.0.9\n\n198.18.0.1 ; with a reason\r\n198.18.0.9\n2001:db8:bad::/48   # more\n";

pub(super) const FILES: [(&str, &str); 2] = [
    ("policy/site-a.yaml", ALL),
    ("policy/lists/voipbl.txt", VOIPBL),
];

#[test]
fn the_documents_of_the_design_are_understood() {
    let checked = checked(&FILES);
    assert!(
        !checked.has_errors(),
        "{}",
        rendered(&sources(&FILES), &checked)
    );
    let all: Documents = checked.documents.iter().cloned().collect();
    assert_eq!(checked.documents.len(), 8);
    let site = &all.sites[&"site-a".parse().unwrap()];
    assert_eq!(site.mode, Mode::Enforce);
    assert_eq!(site.cluster.interface.as_ref().unwrap().as_str(), "eth1");
    assert_eq!(
        site.services["sip"].limit,
        Rate::new(20, RateUnit::Second, 60)
    );
    assert_eq!(site.services["tftp"].from, Some(vec![]));
    assert_eq!(
        site.services["rtp"].ports,
        Some(vec![PortRange {
            first: 10_000,
            last: 20_000
        }])
    );
    assert_eq!(
        site.rules[1].traffic,
        Traffic::Ports(
            Transport::Udp,
            vec![PortRange::single(2000), PortRange::single(111)]
        )
    );
    let staged = Rollout {
        pause_ms: 10_000,
        on_failure: OnFailure::Rollback,
        ..Rollout::default()
    };
    assert_eq!(site.rollout, staged);
    let lists: Vec<String> = all.lists[&"voipbl".parse().unwrap()]
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lists,
        ["198.18.0.1/32", "198.18.0.9/32", "2001:db8:bad::/48"]
    );
    assert_eq!(
        all.tenants[&"globex".parse().unwrap()].networks["head"],
        ["192.0.2.64/27".parse().unwrap()]
    );
    let globex = &all.tenants[&"globex".parse().unwrap()];
    assert_eq!(globex.names["home"][0].as_str(), "home.globex.example");
    assert_eq!(globex.names.len(), 1);
    let trunkco = &all.providers[&"trunkco".parse().unwrap()];
    assert_eq!(trunkco.signalling_names[0].as_str(), "sip.trunkco.example");
    assert_eq!(trunkco.signalling, ["192.0.2.0/28".parse().unwrap()]);
    let own = all.lists[&"own".parse().unwrap()].feed.clone().unwrap();
    assert_eq!(own.source.to_string(), "/srv/lists/own.txt");
    assert_eq!(
        (own.refresh_ms, own.max_entries),
        (7_200_000, Feed::DEFAULT_MAX_ENTRIES)
    );
}

fn checked_site(text: &str) -> Site {
    let checked = checked(&[("a.yaml", text)]);
    assert_eq!(checked.diagnostics, []);
    match &checked.documents[0] {
        Document::Site(site) => site.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_site_need_not_say_has_its_default() {
    let checked = checked(&[("a.yaml", "kind: Site\nname: a\nadmins: 192.0.2.1\n")]);
    assert_eq!(checked.diagnostics, []);
    let Document::Site(site) = &checked.documents[0] else {
        panic!()
    };
    assert_eq!(site.cluster.trust, Trust::Full);
    assert_eq!(site.default, DefaultVerdict::Drop);
    assert_eq!(site.mode, Mode::Enforce);
    assert_eq!(
        site.rollout,
        Rollout {
            canary: 0,
            batch: Batch::Percent(100),
            max_failures: 10_000,
            pause_ms: 0,
            on_failure: OnFailure::Halt,
            confirm_within_ms: 30_000
        }
    );
    // A site that asks for stages gets careful ones.
    let text = "kind: Site\nname: a\nadmins: 192.0.2.1\nrollout: {canary: 2}\n";
    let asked = checked_site(text).rollout;
    assert_eq!((asked.canary, asked.batch), (2, Batch::Percent(25)));
    assert_eq!(asked.max_failures, 0);
    let text = text.replace("canary: 2", "confirm_within: 5s");
    assert!(checked_site(&text).rollout.is_at_once());
}

#[test]
fn the_canonical_form_is_this() {
    let checked = checked(&FILES);
    let text: Vec<String> = checked.documents.iter().map(Document::to_yaml).collect();
    insta::assert_snapshot!(text.join("---\n"));
}

#[test]
fn a_document_in_use_names_its_users() {
    let all: Documents = checked(&FILES).documents.into_iter().collect();
    for (kind, name) in [
        (Kind::Tenant, "acme"),
        (Kind::Provider, "trunkco"),
        (Kind::List, "voipbl"),
        (Kind::List, "mail-relays"),
    ] {
        assert_eq!(all.users_of(kind, name), ["site-a"], "{kind} {name}");
    }
    assert!(all.users_of(Kind::Tenant, "nobody").is_empty());
    assert!(all.users_of(Kind::Site, "site-a").is_empty());
}

#[test]
fn a_stored_document_satisfies_a_reference_and_a_removed_one_does_not() {
    let mut stored: Documents = checked(&FILES).documents.into_iter().collect();
    let site = [(
        "b.yaml",
        "kind: Site\nname: b\nadmins: 192.0.2.1\ntenants: acme\n",
    )];
    assert!(!check(&sources(&site), &stored).has_errors());
    assert!(stored.remove(Kind::Tenant, "acme").is_some());
    assert!(check(&sources(&site), &stored).has_errors());
}

#[test]
fn the_files_of_lists_are_named_for_their_reader() {
    let all = sources(&FILES);
    assert_eq!(all[0].list_files(), ["policy/lists/voipbl.txt"]);
    assert!(all[1].list_files().is_empty());
}

#[test]
fn kinds_are_read_as_people_type_them() {
    for (text, kind) in [
        ("Site", Kind::Site),
        ("tenants", Kind::Tenant),
        ("LIST", Kind::List),
    ] {
        assert_eq!(text.parse::<Kind>().unwrap(), kind);
    }
    assert!("node".parse::<Kind>().is_err());
}
