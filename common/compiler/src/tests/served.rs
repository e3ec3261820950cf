//! Whose networks a site serves: no list denies them.

use voipfleet_policy::{Documents, Source, check};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName};

use super::{Protocol, all_roles, at_rest, gets_through, ruleset};
use crate::Protection;
use crate::fixtures::{effective_with, nets};

const DOCUMENTS: &str = "
kind: Site
name: site-a
admins: [198.51.100.10]
services: {web: {from: [tenant:watcher]}}
rules:
  - {name: trunk, accept: {proto: udp, ports: [5070], from: [provider:besides]}}
deny: [list:voipbl, list:static, tenant:denied]
---
kind: Tenant
name: watcher
networks: {all: [192.0.2.64/30, pbx.watcher.example]}
---
kind: Tenant
name: denied
networks: {all: [192.0.2.80/30]}
---
kind: Provider
name: besides
signalling: [203.0.113.16/30]
media: [203.0.113.32/30, media.besides.example]
---
kind: List
name: static
addresses: [192.0.2.64/29]
---
kind: List
name: voipbl
url: https://lists.example.net/voipbl
refresh: 1h
";

fn documents() -> Documents {
    let source = Source {
        path: "a.yaml".to_owned(),
        text: DOCUMENTS.to_owned(),
    };
    let checked = check(&[source], &Documents::default());
    assert!(checked.diagnostics.is_empty(), "{:?}", checked.diagnostics);
    Documents::from_iter(checked.documents)
}

#[test]
fn clients_of_a_single_rule_or_service_are_the_sites_own() {
    let documents = documents();
    let site = "site-a".parse().unwrap();
    let nodes = [all_roles()];
    let mut dynamic = at_rest(&site, &documents, &nodes);
    for (host, held) in [
        ("name:pbx.watcher.example", "198.18.77.1"),
        ("name:media.besides.example", "198.18.78.1"),
    ] {
        dynamic.insert(host.parse().unwrap(), DynamicSet::new(nets(&[held]), []));
    }
    let protection = Protection::of_site(&site, &documents, &dynamic).unwrap();
    let cleaned = protection.clean(nets(&[
        "192.0.2.65",
        "192.0.2.68",
        "192.0.2.81",
        "198.18.77.1",
        "198.18.78.1",
        "203.0.113.17",
        "203.0.113.33",
    ]));
    // Whom the site denies by name it does not serve.
    assert_eq!(cleaned.nets, nets(&["192.0.2.68", "192.0.2.81"]));
    let dropped: Vec<String> = cleaned.dropped.iter().map(ToString::to_string).collect();
    assert_eq!(
        dropped,
        [
            "tenants 2 (192.0.2.65/32, 198.18.77.1/32)",
            "providers 3 (198.18.78.1/32, 203.0.113.17/32, 203.0.113.33/32)",
        ]
    );

    // What a node reports about itself takes nothing out of a list.
    let own = DynamicSetName::Cluster(None);
    let mut claimed = dynamic.clone();
    claimed.insert(own, DynamicSet::new(nets(&["198.51.100.66"]), []));
    let protection = Protection::of_site(&site, &documents, &claimed).unwrap();
    let cleaned = protection.clean(nets(&["198.51.100.66"]));
    assert_eq!(cleaned.nets, nets(&["198.51.100.66"]));

    // Nor does a node deny them by a list of the documents, or by one that is out of date.
    let voipbl = nets(&["192.0.2.66", "198.18.77.1", "198.18.66.6"]);
    dynamic.insert(
        "deny-feed:voipbl".parse().unwrap(),
        DynamicSet::new(voipbl, []),
    );
    let compiled = effective_with(&documents, &nodes, &dynamic).unwrap();
    let ruleset = ruleset(&compiled, "all-1");
    for (source, passes) in [
        ("192.0.2.65", true),
        ("192.0.2.66", true),
        ("198.18.77.1", true),
        ("192.0.2.69", false),
    ] {
        assert_eq!(
            gets_through(ruleset, source, Protocol::Tcp, 443),
            passes,
            "{source}"
        );
    }
}
