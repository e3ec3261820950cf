//! Sets and who asked for what is in them.

use voipfleet_policy::{AddressWord, ServiceOverride};
use voipfleet_ruleset::ruleset::RuleSubject;

use super::*;
use crate::fixtures::{net, nets, word};
use crate::plan::Owners;

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
            "vf-block-forced-4",
            "vf-block-forced-6",
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
fn a_tenant_without_networks_is_reported() {
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
            dated: std::collections::BTreeMap::new(),
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

/// Who asked for `element` of the set with this kernel name.
fn owners(documents: &Documents, set: &str, element: &str) -> Vec<String> {
    let site = documents.sites.values().next().unwrap();
    let compiled = compiled(documents, &[all_roles()]);
    let name = SetName::from_kernel_name(set).unwrap();
    let mut sets = compiled.rulesets.values().flat_map(|ruleset| &ruleset.sets);
    let owner = sets.find(|set| set.name == name).unwrap().owner.as_ref();
    let owners = Owners::of(site, documents).of_member(owner.unwrap(), &net(element));
    owners.iter().map(ToString::to_string).collect()
}

#[test]
fn every_element_is_traced_to_its_documents() {
    for (set, element, wanted) in [
        (
            "vf-clients-4",
            "203.0.113.0/24",
            &["tenant acme: offices", "tenant globex: hq"][..],
        ),
        ("vf-clients-4", "198.18.7.0/24", &["tenant globex: hq"]),
        (
            "vf-clients-6",
            "2001:db8:71::/64",
            &["provider trunkco: signalling"],
        ),
        (
            "vf-list-mail-relays-4",
            "192.0.2.70/32",
            &["list mail-relays"],
        ),
        (
            "vf-rule-monitoring-4",
            "10.20.0.0/16",
            &["site site-a: rules.monitoring.from"],
        ),
        ("vf-admins-4", "198.51.100.10/32", &["site site-a: admins"]),
        ("vf-clients-4", "198.51.100.0/24", &[]),
        // The nodes are in no document.
        ("vf-cluster-4", "10.0.0.1/32", &[]),
    ] {
        assert_eq!(
            owners(&documents(), set, element),
            wanted,
            "{set} {element}"
        );
    }
}

#[test]
fn rules_carry_their_subject() {
    let compiled = compiled(&documents(), &[all_roles()]);
    let rules = compiled
        .rulesets
        .values()
        .flat_map(|ruleset| &ruleset.chains);
    let rules: Vec<&Rule> = rules.flat_map(|chain| &chain.rules).collect();
    let subject = |label: &str| {
        let rule = rules.iter().find(|rule| rule.label.as_str() == label);
        rule.unwrap().subject.clone().unwrap()
    };
    for (label, wanted) in [
        ("rtp:udp", RuleSubject::Service("rtp".to_owned())),
        (
            "smtp:tcp:list:mail-relays",
            RuleSubject::Service("smtp".to_owned()),
        ),
        (
            "rule:monitoring",
            RuleSubject::Custom("monitoring".to_owned()),
        ),
        ("limit:sip:udp", RuleSubject::Limit("sip".to_owned())),
        ("limit:exempt:clients", RuleSubject::LimitExempt),
        (
            "deny:list:voipbl",
            RuleSubject::DenyList("voipbl".parse().unwrap()),
        ),
        ("deny:exempt:cluster", RuleSubject::DenyExempt),
        ("default", RuleSubject::Default),
    ] {
        assert_eq!(subject(label), wanted, "{label}");
    }
    assert!(rules.iter().all(|rule| rule.subject.is_some()));
}

#[test]
fn the_halves_of_everything_are_traced_to_the_whole() {
    let documents = web_from(vec![word("0.0.0.0/0")]);
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        assert_eq!(
            owners(&documents, "vf-svc-web-4", half),
            ["site site-a: services.web.from"]
        );
    }
}
