//! What operators get wrong, and how it is shown. Snapshots: the words are part of the product.

use super::{Documents, check, checked, rendered, shown, sources};

/// One of each mistake that a policy is likely to have, over three files.
const SITE: &str = r#"kind: Site
name: Site A
tenants: [acme, globx]
providers: [trunkco, nobody]
admins: []
cluster: {interface: "eth0; reboot", trust: ful}
mode: enfroce
mode: observe
colour: blue
services:
  sip: {from: [clients, tenant:acmee, 10.0.0.300], limit: {per_source: 20/d, burst: 0}}
  hubring: {from: [admins, world]}
  sql: {from: [cluster, 0.0.0.0/0, "::/0"]}
  es: {from: [list:everybody]}
  t38: {ports: 4000-5999}
  rtp: {ports: [10000-70000, 20000-10000, "0,x"], notrack: true}
  sipp: {from: [clients]}
  dns: {from: [world]}
  icmp: {ports: 7}
  web: [clients]
rules:
  - {name: dns, accept: {proto: udp, ports: [53], from: [world]}}
  - {name: cache, accept: {proto: tcp, ports: 11000-12000, from: [world]}}
  - {name: cache, accept: {proto: sctp, ports: [], from: [], roles: [sip, proxy]}}
  - {name: odd, acept: {proto: tcp}}
deny: [world, list:voipbl2, 10.0.0.0/255.0.255.0, 10.10.33.1/24]
probes:
  - {name: dns, tcp: 10.0.0.53}
  - {name: dns, icmp: gateway.example.com, dns: "10.0.0.53:53"}
  - {name: nothing}
rollout: {canary: one, batch: 120%, confirm_within: 30}
tests:
  - {name: t, from: 10.0.0.0/8, to: {role: proxy, proto: udp, port: 70000}, expect: allow}
"#;

const OTHERS: &str = r"kind: Tenant
name: acme
networks: {offices: [203.0.113.0/33, 0.0.0.0/1], Head Office: 192.0.2.1}
---
kind: Provider
name: trunkco
signaling: [192.0.2.0/28]
media: {a: b}
---
kind: List
name: everybody
addresses: [0.0.0.0/1, 128.0.0.0/1]
---
kind: List
name: voipbl
file: lists/voipbl.txt
---
kind: List
name: elsewhere
file: lists/voipbl.csv
---
kind: List
name: everybody
---
kind: Lst
name: x
---
- just
- a list
---
name: y
";

const LIST: &str = "# from voipbl\n198.18.0.1\n198.18.0.256 # broken\n0.0.0.0/0\n198.18.0.1 198.18.0.2\n\u{a0}pbx.example.com\n";

#[test]
fn every_mistake_is_shown_in_one_run() {
    insta::assert_snapshot!(shown(&[
        ("site.yaml", SITE),
        ("others.yaml", OTHERS),
        ("lists/voipbl.txt", LIST),
    ]));
}

#[test]
fn broken_yaml_is_shown_and_the_other_documents_are_still_checked() {
    insta::assert_snapshot!(shown(&[(
        "broken.yaml",
        "kind: Tenant\nname: acme\nnetworks: {a: [192.0.2.1}\n---\nkind: Site\nname: a\n\
         admins: [192.0.2.300]\ntenants: [acme, other]\n---\nkind: List\n\tname: x\n---\n\
         kind: List\nname: l\naddresses: [2001:db8::, ::/8]\n",
    )]));
}

#[test]
fn anchors_tags_and_depth_are_shown() {
    let deep = format!("kind: Site\nname: a\nadmins: {}\n", "[".repeat(200));
    insta::assert_snapshot!(shown(&[
        (
            "bomb.yaml",
            "a: &a [x, x]\nb: &b [*a, *a]\nc: !!binary aGk=\n"
        ),
        ("deep.yaml", &deep),
        ("empty.yaml", "# nothing\n"),
    ]));
}

#[test]
fn legal_but_suspicious_documents_are_warned_about() {
    let files = [(
        "a.yaml",
        "kind: Site\nname: a\nadmins: [192.0.2.1/24]\nservices:\n  sip: {from: [world]}\n\
         \x20 ssh: {from: [admins, world]}\nrules:\n  - {name: dns, accept: {proto: udp, ports: 53, \
         from: [cluster]}}\n  - {name: wide, accept: {proto: udp, ports: 5051-5070, from: [world]}}\n\
         probes: [{name: p, icmp: 192.0.2.1}]\nrollout: {canary: 2, batch: 25%}\n",
    )];
    assert!(!checked(&files).has_errors());
    insta::assert_snapshot!(shown(&files));
}

/// The messages of a site with these lines.
fn messages(lines: &str) -> Vec<String> {
    let text = format!("kind: Site\nname: a\nadmins: [192.0.2.1]\n{lines}");
    checked(&[("a.yaml", &text)])
        .diagnostics
        .into_iter()
        .map(|diagnostic| diagnostic.message)
        .collect()
}

#[test]
fn a_backend_service_reaches_the_world_only_by_a_declared_will() {
    for closed in [
        "services: {sql: {from: [world]}}",
        "services: {sql: {from: world}}",
        "services: {sql: {from: 0.0.0.0/0}}",
        "services: {sql: {from: \"2000::/3\"}}",
        "services: {sip-pbx: {from: [world]}}",
        // Another service's ports, moved onto a back end's.
        "services: {web: {ports: [443, 3306], from: [world]}}",
        "services: {rtp: {ports: 2000-3000}}",
        "rules: [{name: x, accept: {proto: tcp, ports: 1-65535, from: [world]}}]",
        "rules: [{name: x, accept: {proto: udp, ports: 2049, from: [world]}}]",
    ] {
        let found = messages(closed);
        assert!(
            found
                .iter()
                .any(|m| m.contains("must not be open to the world")),
            "{closed}: {found:?}"
        );
    }
    for open in [
        "services: {sql: {from: [world], dangerous: true}}",
        "services: {sql: {from: [cluster, admins, clients, 10.0.0.0/8]}}",
        "services: {sql: {from: []}}",
        "services: {rtp: {ports: 10000-20000}}",
        "services: {t38: {ports: [4000-5049, 5051-5059, 5062-5999]}}",
        "rules: [{name: x, accept: {proto: tcp, ports: 3306, from: [world]}, dangerous: true}]",
        "rules: [{name: x, accept: {proto: udp, ports: 3306, from: [world]}}]",
        "rules: [{name: x, accept: {proto: tcp, ports: 3306, from: [cluster]}}]",
    ] {
        assert_eq!(messages(open), Vec::<String>::new(), "{open}");
    }
}

#[test]
fn only_admins_get_ssh() {
    let refused = |admins: &str, services: &str| {
        let text = format!("kind: Site\nname: a\nadmins: {admins}\nservices: {services}\n");
        checked(&[("a.yaml", &text)]).has_errors()
    };
    for admins in [
        "[]",
        "",
        "[world]",
        "[clients]",
        "[admins]",
        "[local]",
        "[cluster]",
        "0.0.0.0/0",
        "[\"::/0\"]",
        "[192.0.2.1, 0.0.0.0/1]",
        "[list:nobody]",
        "[192.0.2.1, 127.0.0.1]",
        "[\"ff02::1\"]",
        "{}",
        "~",
    ] {
        assert!(refused(admins, "{}"), "{admins}");
    }
    for ssh in ["{ssh: {proto: udp}}", "{ssh: {ports: 2200-2300}}"] {
        assert!(refused("192.0.2.1", ssh), "{ssh}");
    }
    assert!(
        messages("services: {ssh: {ports: 2222}}")
            .iter()
            .any(|message| message.contains("leaves port 22 out"))
    );
    for ssh in ["{ssh: {ports: [22, 2222]}}", "{ssh: {from: []}}", "{}"] {
        assert!(!refused("192.0.2.1", ssh), "{ssh}");
    }
}

#[test]
fn a_site_has_so_many_probes_and_no_more() {
    let probes = |count: usize| {
        let probe = |index| format!("  - {{name: p{index}, tcp: \"192.0.2.1:53\"}}\n");
        messages(&format!(
            "probes:\n{}",
            (0..count).map(probe).collect::<String>()
        ))
    };
    assert_eq!(probes(16), Vec::<String>::new());
    assert_eq!(probes(18), ["a site has at most 16 probes"]);
}

#[test]
fn a_stored_wide_list_is_the_world_until_it_is_replaced() {
    let stored: Documents = checked(&[(
        "l.yaml",
        "kind: List\nname: wide\naddresses: [0.0.0.0/1, 128.0.0.0/1]\n",
    )])
    .documents
    .into_iter()
    .collect();
    let site = "kind: Site\nname: a\nadmins: 192.0.2.1\nservices: {sql: {from: [list:wide]}}\n";
    assert!(check(&sources(&[("a.yaml", site)]), &stored).has_errors());
    let narrow = format!("{site}---\nkind: List\nname: wide\naddresses: [192.0.2.7]\n");
    let all = sources(&[("a.yaml", &narrow)]);
    let checked = check(&all, &stored);
    assert!(!checked.has_errors(), "{}", rendered(&all, &checked));
}

#[test]
fn names_of_hosts_stand_where_they_are_resolved() {
    let site = |lines: &str| format!("kind: Site\nname: a\n{lines}\n");
    let admins = |word: &str| site(&format!("admins: [192.0.2.1, {word}]"));
    let provider = |word: &str| format!("kind: Provider\nname: p\nmedia: [{word}]\n");
    for good in [
        "sip.example.net",
        "SIP.Example.NET.",
        "xn--bcher-kva.example",
    ] {
        let text = provider(good);
        let checked = check(&sources(&[("a.yaml", &text)]), &Documents::default());
        assert_eq!(checked.diagnostics, [], "{good}");
    }
    for (text, words) in [
        (admins("bastion.example.net"), "SSH would hang on DNS"),
        (
            site("admins: 192.0.2.1\nservices: {web: {from: [www.example.net]}}"),
            "signalling and media of a Provider",
        ),
        (
            site("admins: 192.0.2.1\ndeny: [www.example.net]"),
            "signalling and media of a Provider",
        ),
        (
            "kind: List\nname: l\naddresses: [www.example.net]\n".to_owned(),
            "signalling and media of a Provider",
        ),
        (provider("sip"), "is not an address"),
        (provider("sip.example.net/24"), "is not an address"),
        (provider("10.0.0.x"), "is not an address"),
        (provider("10.0.0.300"), "0 to 255"),
        (provider("sip_1.example.net"), "is not an address"),
    ] {
        let all = sources(&[("a.yaml", &text)]);
        let checked = check(&all, &Documents::default());
        assert!(checked.has_errors(), "{text}");
        let shown = rendered(&all, &checked);
        assert!(shown.contains(words), "{text}: {shown}");
    }
}

#[test]
fn fetched_lists_name_a_source_and_an_interval() {
    for (fields, words) in [
        ("url: ftp://a.example/x", "does not start with https://"),
        ("url: https://me:secret@a.example/x", "a user or a password"),
        ("url: \"https://a.example/a b\"", "spaces"),
        (
            "url: https://a.example/x\nfile: x.txt",
            "fetched from one place",
        ),
        (
            "url: https://a.example/x\nrefresh: 30s",
            "out of range for `refresh`",
        ),
        (
            "url: https://a.example/x\nrefresh: often",
            "is not a duration",
        ),
        (
            "url: https://a.example/x\nmax_entries: 0",
            "no number for `max_entries`",
        ),
        ("file: x.txt\nrefresh: 1h", "is no `file` to fetch from"),
        (
            "file: /a/../b\nrefresh: 1h",
            "a path on the controller's host",
        ),
        (
            "addresses: [192.0.2.1]\nrefresh: 1h",
            "applies to fetched lists only",
        ),
        (
            "file: x.txt\nmax_entries: 5",
            "applies to fetched lists only",
        ),
        ("", "needs `addresses`, `file` or `url`"),
    ] {
        let text = format!("kind: List\nname: l\n{fields}\n");
        let all = sources(&[("a.yaml", &text), ("x.txt", "192.0.2.1\n")]);
        let checked = check(&all, &Documents::default());
        assert!(checked.has_errors(), "{text}");
        let shown = rendered(&all, &checked);
        assert!(shown.contains(words), "{text}: {shown}");
    }
    let plain = "kind: List\nname: l\nurl: http://a.example/x\n";
    let checked = check(&sources(&[("a.yaml", plain)]), &Documents::default());
    assert!(!checked.has_errors());
    assert!(
        checked.diagnostics[0]
            .message
            .contains("without encryption")
    );
    // A file of the controller is not read on the operator's machine.
    let own = "kind: List\nname: l\nfile: /srv/x.txt\nrefresh: 1h\n";
    let all = sources(&[("a.yaml", own)]);
    assert_eq!(all[0].list_files(), Vec::<String>::new());
    assert!(!check(&all, &Documents::default()).has_errors());
}

#[test]
fn every_role_of_the_table_is_a_role() {
    use super::super::schema::ROLES;
    use voipfleet_ruleset::role::Role;
    assert_eq!(ROLES, Role::ALL.map(Role::code));
}

#[test]
fn an_end_is_written_in_one_way() {
    let list = |addresses: &str| {
        format!(
            "kind: List
name: l
addresses: {addresses}
"
        )
    };
    for good in [
        "{address: 192.0.2.7, until: 2026-12-01T00:00:00Z}",
        "{address: 192.0.2.7}",
        r#""2001:db8::/64", {address: "2001:db8::/64", until: "2026-12-01T00:00:00Z"}"#,
    ] {
        let text = list(&format!("[{good}]"));
        let checked = check(&sources(&[("a.yaml", &text)]), &Documents::default());
        assert!(!checked.has_errors(), "{text}: {:?}", checked.diagnostics);
    }
    for (entry, words) in [
        (
            "{address: 192.0.2.7, until: tomorrow}",
            "as 2026-12-01T00:00:00Z",
        ),
        (
            "{address: 192.0.2.7, until: 2026-12-01T01:00:00+01:00}",
            "with whole seconds: 2026-12-01T00:00:00Z",
        ),
        (
            "{address: 192.0.2.7, until: 2026-12-01}",
            "as 2026-12-01T00:00:00Z",
        ),
        (
            "{address: 192.0.2.300, until: 2026-12-01T00:00:00Z}",
            "192.0.2.300",
        ),
        (
            "{address: 0.0.0.0/0, until: 2026-12-01T00:00:00Z}",
            "a list may not hold 0.0.0.0/0",
        ),
        ("{until: 2026-12-01T00:00:00Z}", "needs the field `address`"),
        ("{address: 192.0.2.7, ttl: 1h}", "has no field `ttl`"),
        ("{address: 192.0.2.7, until: }", "`until` has no value"),
        (
            "2001:db8::",
            "put an IPv6 address that ends with `:` into quotes",
        ),
    ] {
        let all = sources(&[("a.yaml", &list(&format!("[{entry}]")))]);
        let checked = check(&all, &Documents::default());
        assert!(checked.has_errors(), "{entry}");
        let shown = rendered(&all, &checked);
        assert!(shown.contains(words), "{entry}: {shown}");
    }
}

#[test]
fn many_networks_are_the_world_together() {
    let eights = |from: u8, count: u8| {
        let nets: Vec<String> = (from..from + count)
            .map(|n| format!("{n}.0.0.0/8"))
            .collect();
        nets.join(", ")
    };
    let site = |from: &str| {
        format!(
            "kind: Site\nname: a\nadmins: 192.0.2.1\nservices: {{hubring: {{from: [{from}]}}}}\n"
        )
    };
    for count in [15, 16] {
        let (all, half) = (eights(20, count), eights(28, count - 8));
        for text in [
            site(&all),
            site("list:l") + &format!("---\nkind: List\nname: l\naddresses: [{all}]\n"),
            format!(
                "kind: Tenant\nname: t\nnetworks: {{a: [{}], b: [{half}]}}\n",
                eights(20, 8)
            ),
            format!(
                "kind: Provider\nname: p\nsignalling: [{}]\nmedia: [{half}]\n",
                eights(20, 8)
            ),
        ] {
            let all = sources(&[("a.yaml", &text)]);
            let checked = check(&all, &Documents::default());
            let shown = rendered(&all, &checked);
            assert_eq!(checked.has_errors(), count == 16, "{text}: {shown}");
            assert!(count < 16 || shown.contains("world"), "{shown}");
        }
    }
    let meant = site(&eights(20, 16)).replace("]}", "], dangerous: true}");
    assert!(!check(&sources(&[("a.yaml", &meant)]), &Documents::default()).has_errors());
}
