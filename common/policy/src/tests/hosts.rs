//! What real carriers and machines need: networks with dates, hosts without IPv6, ports for
//! browsers, and lists as they come.

use ipnet::IpNet;

use super::{checked, shown};
use crate::{Document, Ipv6};

fn errors(text: &str) -> String {
    let files = [("a.yaml", text)];
    assert!(checked(&files).has_errors(), "{text}");
    shown(&files)
}

fn documents(files: &[(&str, &str)]) -> Vec<Document> {
    let found = checked(files);
    assert!(!found.has_errors(), "{}", shown(files));
    found.documents
}

fn site(lines: &str) -> String {
    format!("kind: Site\nname: a\nadmins: 198.51.100.10\n{lines}\n")
}

#[test]
fn networks_of_providers_and_tenants_begin_and_end() {
    let text = "kind: Provider
name: trunkco
signalling: [192.0.2.0/30]
media:
  - {address: 192.0.2.128/25, until: 2030-10-10T00:00:00Z}
  - {address: 198.18.128.0/18, from: 2030-10-09T00:00:00Z}
  - 192.0.2.96/27
---
kind: Tenant
name: acme
networks:
  move: {address: 203.0.113.0/24, from: 2030-01-01T00:00:00Z, until: 2030-02-01T00:00:00Z}
";
    let found = documents(&[("a.yaml", text)]);
    let Document::Provider(provider) = &found[0] else {
        panic!("{found:?}")
    };
    assert_eq!(provider.media, ["192.0.2.96/27".parse::<IpNet>().unwrap()]);
    assert_eq!(
        provider.media_dated.expiring[0].until.to_string(),
        "2030-10-10T00:00:00Z"
    );
    assert_eq!(
        provider.media_dated.scheduled[0].from.to_string(),
        "2030-10-09T00:00:00Z"
    );
    let Document::Tenant(tenant) = &found[1] else {
        panic!("{found:?}")
    };
    let dated = &tenant.dated["move"].scheduled[0];
    assert_eq!(dated.until.unwrap().to_string(), "2030-02-01T00:00:00Z");
}

#[test]
fn mistakes_with_dates_are_told_as_such() {
    let provider = |entry: &str| format!("kind: Provider\nname: p\nmedia: [{entry}]\n");
    for (entry, words) in [
        (
            "{address: 192.0.2.0/25, until: 2030-10-10}",
            "is no time for `until`",
        ),
        (
            "{address: 192.0.2.0/25, from: soon}",
            "is no time for `from`",
        ),
        (
            "{address: 192.0.2.0/25, from: 2030-10-10T00:00:00Z, until: 2030-10-10T00:00:00Z}",
            "`until` is not later than `from`",
        ),
        (
            "{network: 192.0.2.0/25}",
            "an address with dates has no field",
        ),
        (
            "{address: 0.0.0.0/0, until: 2030-10-10T00:00:00Z}",
            "as wide as the world",
        ),
    ] {
        let shown = errors(&provider(entry));
        assert!(shown.contains(words), "{entry}: {shown}");
        assert!(!shown.contains("without brackets"), "{entry}: {shown}");
    }
}

#[test]
fn names_of_services_are_refused_with_the_reason() {
    let shown = errors("kind: Provider\nname: p\nsignalling: [_sip._udp.example.net]\n");
    for words in [
        "`_sip._udp.example.net` is an SRV name, which stands for no address",
        "name the hosts that it points to",
        "dig +short SRV _sip._udp.example.net",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    let shown = errors("kind: Provider\nname: p\nsignalling: [\"sip:sbc.example.net\"]\n");
    assert!(shown.contains("without `sip:`"), "{shown}");
}

#[test]
fn a_site_says_which_nodes_have_no_ipv6() {
    let of = |lines: &str| {
        let found = documents(&[("a.yaml", &site(lines))]);
        match &found[0] {
            Document::Site(site) => site.ipv6.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(of(""), Ipv6::default());
    assert_eq!(of("ipv6: none"), Ipv6::None);
    let named = of("ipv6: {nodes: [sql1], roles: [dd]}");
    let none_on = |name: &str, role: &str| {
        let roles = [role.parse().unwrap()].into();
        named.is_none_on(&name.parse().unwrap(), &roles)
    };
    assert!(none_on("sql1", "sql") && none_on("x", "dd") && !none_on("x", "sql"));
    let shown = errors(&site("ipv6: \"no\""));
    assert!(shown.contains("`no` is no value for `ipv6`"), "{shown}");
    let shown = errors(&site("ipv6: {node: sql1}"));
    assert!(shown.contains("did you mean `nodes`?"), "{shown}");
}

#[test]
fn browsers_relays_and_wide_ranges_ask_for_dangerous() {
    let rule = |proto: &str, ports: &str, dangerous: &str| {
        site(&format!(
            "rules: [{{name: x, {dangerous}accept: {{proto: {proto}, ports: {ports}, from: [world]}}}}]"
        ))
    };
    for (proto, ports, words) in [
        ("tcp", "[8089]", "port 8089/tcp of `wss`"),
        ("tcp", "[7443]", "port 7443/tcp of `wss`"),
        ("udp", "[3478]", "port 3478/udp of `turn`"),
        ("tcp", "[5349]", "port 5349/tcp of `turn`"),
        (
            "udp",
            "[49152-65535]",
            "rule `x` opens 16384 ports to the world",
        ),
        (
            "tcp",
            "[30000-30600, 40000-40600]",
            "opens 1202 ports to the world",
        ),
    ] {
        let shown = errors(&rule(proto, ports, ""));
        assert!(shown.contains(words), "{ports}: {shown}");
        assert!(shown.contains("`dangerous: true`"), "{ports}: {shown}");
        let meant = rule(proto, ports, "dangerous: true, ");
        documents(&[("a.yaml", &meant)]);
    }
    documents(&[("a.yaml", &rule("tcp", "[30000-30100]", ""))]);
    // A service as the site has it.
    let shown = errors(&site("services: {turn: {from: [world]}}"));
    assert!(
        shown.contains("`turn` must not be open to the world"),
        "{shown}"
    );
    let shown = errors(&site(
        "services: {web: {from: [world], ports: [30000-40000]}}",
    ));
    assert!(shown.contains("opens 10001 ports to the world"), "{shown}");
    // Media is meant for the world.
    documents(&[("a.yaml", &site("services: {rtp: {ports: [16384-32768]}}"))]);
}

#[test]
fn a_file_is_read_as_a_fetched_list_is() {
    let list = "kind: List\nname: bad\nfile: bad.txt\n";
    let text = "\u{feff}; comment\r\n198.51.100.66/32 ; SBL1\r\n198.51.100.80 - 198.51.100.95\r\n\
                198.51.100.77,2026-01-01,sip\r\n\"203.0.113.0/24\",\"US\",7\r\n2001:db8:66::66\r\n";
    let found = documents(&[("a.yaml", list), ("bad.txt", text)]);
    let Document::List(list_found) = &found[0] else {
        panic!("{found:?}")
    };
    let nets: Vec<String> = list_found
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        nets,
        [
            "198.51.100.66/32",
            "198.51.100.77/32",
            "198.51.100.80/28",
            "203.0.113.0/24",
            "2001:db8:66::66/128"
        ]
    );
    for (line, words) in [
        ("ip,country", "begins with no address, prefix or range"),
        (
            "198.51.100.95-198.51.100.80",
            "the lower address of a range first",
        ),
        ("0.0.0.0/0,x", "a list may not hold"),
    ] {
        let files = [("a.yaml", list), ("bad.txt", line)];
        assert!(checked(&files).has_errors(), "{line}");
        let shown = shown(&files);
        assert!(shown.contains(words), "{line}: {shown}");
    }
}
