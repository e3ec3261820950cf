//! Sets and who asked for what is in them.

use voipfleet_policy::{AddressWord, ServiceOverride};

use super::*;
use crate::fixtures::{net, nets, word};

fn web_from(words: Vec<AddressWord>) -> Documents {
    changed(|site| {
        let web = ServiceOverride {
            from: Some(words),
            ..ServiceOverride::default()
        };
        site.services.insert("web".to_owned(), web);
    })
}

#[test]
fn one_set_for_each_word_and_family() {
    let ruleset = single(&documents());
    assert_eq!(
        set_names(&ruleset).into_iter().collect::<Vec<_>>(),
        [
            "vf-admins-4",
            "vf-admins-6",
            "vf-block-4",
            "vf-block-6",
            "vf-clients-4",
            "vf-clients-6",
            "vf-cluster-4",
            "vf-cluster-6",
            "vf-deny-voipbl-4",
            "vf-deny-voipbl-6",
            "vf-list-mail-relays-4",
            "vf-list-mail-relays-6",
            "vf-open-4",
            "vf-open-6",
            "vf-providers-media-4",
            "vf-providers-media-6",
            "vf-rule-monitoring-4",
        ]
    );
    // globex' half of acme's network is inside it.
    assert_eq!(
        elements(&ruleset, "vf-clients-4"),
        ["192.0.2.0/28", "198.18.7.0/24", "203.0.113.0/24"]
    );
}

#[test]
fn media_comes_from_the_providers_media_networks() {
    let documents = changed(|site| {
        let rtp = ServiceOverride {
            from: Some(vec![AddressWord::Clients]),
            ..ServiceOverride::default()
        };
        site.services.insert("rtp".to_owned(), rtp);
    });
    let ruleset = single(&documents);
    for (source, media) in [
        ("192.0.2.200", true),
        ("2001:db8:72::9", true),
        ("192.0.2.3", false),
        ("2001:db8:71::9", false),
        ("203.0.113.9", true),
        ("198.51.100.200", false),
    ] {
        assert_eq!(
            gets_through(&ruleset, source, Protocol::Udp, 12_000),
            media,
            "{source}"
        );
    }
    assert!(!gets_through(&ruleset, "192.0.2.200", Protocol::Udp, 5060));
}

#[test]
fn addresses_of_a_service_share_one_set() {
    let ruleset = single(&web_from(vec![
        word("198.18.50.0/24"),
        word("2001:db8:77::1"),
        word("198.18.50.7"),
        AddressWord::Tenant("globex".parse().unwrap()),
    ]));
    assert_eq!(elements(&ruleset, "vf-svc-web-4"), ["198.18.50.0/24"]);
    assert_eq!(elements(&ruleset, "vf-svc-web-6"), ["2001:db8:77::1/128"]);
    assert_eq!(
        elements(&ruleset, "vf-tenant-globex-4"),
        ["198.18.7.0/24", "203.0.113.128/25"]
    );
    // globex has no IPv6: its rule is for IPv4.
    let rule = rules(&ruleset, "VF-INPUT")
        .iter()
        .find(|rule| rule.label.as_str() == "web:tcp:tenant:globex")
        .unwrap()
        .clone();
    assert_eq!(rule.scope, voipfleet_ruleset::ruleset::Scope::V4);
}

#[test]
fn every_address_written_with_length_0_fits_a_set() {
    let ruleset = single(&web_from(vec![word("0.0.0.0/0")]));
    assert_eq!(
        elements(&ruleset, "vf-svc-web-4"),
        ["0.0.0.0/1", "128.0.0.0/1"]
    );
    assert!(gets_through(&ruleset, "198.51.100.200", Protocol::Tcp, 443));
    assert!(!gets_through(
        &ruleset,
        "2001:db8:ffff::1",
        Protocol::Tcp,
        443
    ));
}

#[test]
fn a_tenant_without_networks_is_told() {
    let mut documents = web_from(vec![AddressWord::Tenant("acme".parse().unwrap())]);
    for tenant in documents.tenants.values_mut() {
        tenant.networks.clear();
    }
    documents
        .providers
        .values_mut()
        .for_each(|provider| provider.signalling.clear());
    documents
        .sites
        .values_mut()
        .for_each(|site| site.tests.clear());
    let compiled = compiled(&documents, &[all_roles()]);
    assert!(warns(&compiled, "tenant acme has no network"));
    assert!(warns(
        &compiled,
        "provider trunkco has no signalling network"
    ));
    assert!(warns(
        &compiled,
        "tenant:acme holds no address: nothing is opened by it in services.web.from"
    ));
    assert!(warns(&compiled, "clients holds no address"));
    let ruleset = ruleset(&compiled, "all-1");
    // Whom an operator lets in is a client.
    assert!(elements(ruleset, "vf-clients-4").is_empty());
    assert!(!set_names(ruleset).contains("vf-tenant-acme-4"));
    assert!(!gets_through(ruleset, "203.0.113.9", Protocol::Udp, 5060));
}

#[test]
fn long_names_get_sets_of_their_own() {
    let mut documents = documents();
    let names = [
        "a-tenant-with-a-name-that-no-set-can-hold",
        "a-tenant-with-a-name-that-no-set-can-hold-either",
    ];
    let mut words = Vec::new();
    for (name, network) in names.into_iter().zip(["198.18.60.0/24", "198.18.61.0/24"]) {
        let tenant = voipfleet_policy::Tenant {
            name: name.parse().unwrap(),
            networks: [("hq".to_owned(), nets(&[network]))].into(),
            names: std::collections::BTreeMap::new(),
        };
        words.push(AddressWord::Tenant(tenant.name.clone()));
        documents.tenants.insert(tenant.name.clone(), tenant);
    }
    let site = documents.sites.values_mut().next().unwrap();
    site.services.entry("web".to_owned()).or_default().from = Some(words);
    let ruleset = single(&documents);
    for source in ["198.18.60.1", "198.18.61.1"] {
        assert!(
            gets_through(&ruleset, source, Protocol::Tcp, 443),
            "{source}"
        );
    }
    let names = set_names(&ruleset);
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("vf-tenant."))
            .count(),
        2
    );
    assert!(names.iter().all(|name| name.len() <= 31));
}

#[test]
fn every_opening_remembers_who_asked_for_it() {
    let compiled = compiled(&documents(), &[all_roles()]);
    let who = |set: &str, element: &str| {
        let name = SetName::from_kernel_name(set).unwrap();
        compiled.provenance.of(&name, &net(element))
    };
    assert_eq!(
        who("vf-clients-4", "203.0.113.0/24"),
        ["tenant acme: offices", "tenant globex: hq"]
    );
    assert_eq!(who("vf-clients-4", "198.18.7.0/24"), ["tenant globex: hq"]);
    assert_eq!(
        who("vf-clients-6", "2001:db8:71::/64"),
        ["provider trunkco: signalling"]
    );
    assert_eq!(
        who("vf-list-mail-relays-4", "192.0.2.70/32"),
        ["list mail-relays"]
    );
    assert_eq!(who("vf-cluster-4", "10.0.0.1/32"), ["node all-1: eth1"]);
    assert_eq!(
        who("vf-rule-monitoring-4", "10.20.0.0/16"),
        ["site site-a: rules.monitoring.from"]
    );
    assert_eq!(
        who("vf-admins-4", "198.51.100.10/32"),
        ["site site-a: admins"]
    );
    assert!(who("vf-clients-4", "198.51.100.0/24").is_empty());
    let rule = |label: &str| compiled.provenance.of_rule(&label.parse().unwrap());
    assert_eq!(rule("rtp:udp"), Some("catalogue: rtp"));
    assert_eq!(
        rule("smtp:tcp:list:mail-relays"),
        Some("site site-a: services.smtp.from")
    );
    assert_eq!(
        rule("rule:monitoring"),
        Some("site site-a: rule monitoring")
    );
}

#[test]
fn the_halves_of_everything_remember_who_asked() {
    let compiled = compiled(&web_from(vec![word("0.0.0.0/0")]), &[all_roles()]);
    let name = SetName::from_kernel_name("vf-svc-web-4").unwrap();
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        assert_eq!(
            compiled.provenance.of(&name, &net(half)),
            ["site site-a: services.web.from"]
        );
    }
}
