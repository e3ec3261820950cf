//! What changes between pushes: named in the rulesets, and held elsewhere.

use super::*;
use crate::Protection;
use crate::dynamic_sets::needed;
use crate::fixtures::{any_documents, any_dynamic, any_nodes, effective_with, feed, nets, word};
use proptest::prelude::*;
use voipfleet_policy::{AddressWord, ServiceOverride, Trust};
use voipfleet_ruleset::ruleset::{Digest, DynamicSet, DynamicSetName, DynamicSets};

fn named(ruleset: &Ruleset, set: &str) -> Vec<String> {
    let name = SetName::from_kernel_name(set).unwrap();
    let set = ruleset.sets.iter().find(|set| set.name == name);
    let set = set.expect("the set is there");
    set.dynamic.iter().map(ToString::to_string).collect()
}

/// The fixture with names of hosts, and with a fetched list that is denied.
fn with_names() -> Documents {
    let mut documents = documents();
    let acme = documents.tenants.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.names = [(
        "homes".to_owned(),
        vec!["home.acme.example".parse().unwrap()],
    )]
    .into();
    let trunkco = documents.providers.get_mut(&"trunkco".parse().unwrap());
    let trunkco = trunkco.unwrap();
    trunkco.signalling_names = vec!["sip.trunkco.example".parse().unwrap()];
    trunkco.media_names = vec!["media.trunkco.example".parse().unwrap()];
    let voipbl = documents.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    voipbl.feed = Some(feed("https://lists.example.net/voipbl"));
    documents
}

/// Dynamic sets that hold these.
fn dynamic(nodes: &[NodeInput], values: &[(&str, &[&str])]) -> DynamicSets {
    let mut dynamic = at_rest(&"site-a".parse().unwrap(), &with_names(), nodes);
    for (name, held) in values {
        dynamic.insert(name.parse().unwrap(), DynamicSet::new(nets(held), []));
    }
    dynamic
}

/// A single node with every role, and with what the dynamic sets hold.
fn with(values: &[(&str, &[&str])]) -> Ruleset {
    let nodes = [all_roles()];
    let dynamic = dynamic(&nodes, values);
    let compiled = effective_with(&with_names(), &nodes, &dynamic).unwrap();
    ruleset(&compiled, "all-1").clone()
}

#[test]
fn sets_name_where_more_comes_from() {
    let ruleset = ruleset(&emitted(&with_names(), &[all_roles()]), "all-1").clone();
    for family in ["4", "6"] {
        let named = |set: &str| named(&ruleset, &format!("vf-{set}-{family}"));
        assert_eq!(named("cluster"), ["cluster"]);
        assert_eq!(named("block"), ["block"]);
        assert_eq!(named("block-forced"), ["block-forced"]);
        assert_eq!(named("open"), ["open"]);
        let clients = [
            "allow",
            "name:home.acme.example",
            "name:sip.trunkco.example",
        ];
        assert_eq!(named("clients"), clients);
        assert_eq!(named("providers-media"), ["name:media.trunkco.example"]);
        assert_eq!(named("deny-voipbl"), ["deny-feed:voipbl"]);
        assert!(named("admins").is_empty());
    }
    assert!(elements(&ruleset, "vf-cluster-4").is_empty());
    let names = needed(&"site-a".parse().unwrap(), &with_names());
    assert_eq!(ruleset.dynamic_names(), names);
}

#[test]
fn a_new_node_changes_no_ruleset() {
    let (one, two) = (all_roles(), node("sip-2", 2, &[Role::Sip]));
    let alone = emitted(&documents(), std::slice::from_ref(&one));
    let mut moved = one.clone();
    moved.addresses.clear();
    for nodes in [&[one, two.clone()], &[moved, two]] {
        let with_others = emitted(&documents(), nodes);
        assert_eq!(
            ruleset(&with_others, "all-1").digest(),
            ruleset(&alone, "all-1").digest()
        );
    }
}

#[test]
fn what_an_operator_blocks_reaches_nothing_and_what_he_opens_does() {
    let block: (&str, &[&str]) = ("block", &["203.0.113.9", "10.0.0.1", "2001:db8:10::9"]);
    let world: (&str, &[&str]) = ("open", &["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]);
    let blocked = with(&[block]);
    for (source, label) in [
        ("203.0.113.9", "block"),
        ("2001:db8:10::9", "block"),
        ("203.0.113.8", "sip:udp:clients"),
    ] {
        let outcome = send(&blocked, source, Protocol::Udp, 5060);
        assert_eq!(outcome.label, label, "{source}");
    }
    // Members of the cluster come before it, on the cluster's interface.
    let mut packet = Packet::new(address("10.0.0.1"), Protocol::Tcp, 3306);
    packet.in_interface = Some("eth1".parse().unwrap());
    assert_eq!(simulate(&blocked, &packet).label, "cluster");
    // An established call is cut, too.
    let mut packet = Packet::new(address("203.0.113.9"), Protocol::Udp, 12_000);
    packet.state = Some(voipfleet_ruleset::ruleset::ConnectionState::Established);
    assert_eq!(simulate(&blocked, &packet).label, "block");

    let open = with(&[world, block]);
    for source in ["198.51.100.66", "198.51.100.200", "2001:db8:ffff::1"] {
        let outcome = send(&open, source, Protocol::Tcp, 3306);
        assert_eq!(outcome.label, "open", "{source}");
    }
    assert!(!gets_through(&open, "203.0.113.9", Protocol::Tcp, 3306));
}

#[test]
fn an_allowed_address_is_a_client_and_no_list_denies_it() {
    let allow: (&str, &[&str]) = ("allow", &["198.51.100.64/28", "2001:db8:bad::/64"]);
    let feed: (&str, &[&str]) = ("deny-feed:voipbl", &["198.51.100.65", "198.51.100.128"]);
    let ruleset = with(&[allow, feed]);
    for source in ["198.51.100.66", "198.51.100.65", "2001:db8:bad::1"] {
        assert!(
            gets_through(&ruleset, source, Protocol::Udp, 5060),
            "{source}"
        );
        assert!(
            !gets_through(&ruleset, source, Protocol::Tcp, 22),
            "{source}"
        );
    }
    let outcome = send(&ruleset, "198.51.100.128", Protocol::Udp, 12_000);
    assert_eq!(outcome.label, "deny:list:voipbl");
    // What is denied by hand stays denied.
    let mut documents = with_names();
    let site = documents.sites.values_mut().next().unwrap();
    site.deny.push(word("198.51.100.66"));
    let nodes = [all_roles()];
    let compiled = effective_with(&documents, &nodes, &dynamic(&nodes, &[allow])).unwrap();
    let outcome = send(
        super::ruleset(&compiled, "all-1"),
        "198.51.100.66",
        Protocol::Udp,
        5060,
    );
    assert_eq!(outcome.label, "deny");
}

#[test]
fn names_open_what_is_open_to_their_owner() {
    let ruleset = with(&[
        ("name:home.acme.example", &["198.18.77.7"]),
        (
            "name:sip.trunkco.example",
            &["198.18.78.1", "2001:db8:78::1"],
        ),
        ("name:media.trunkco.example", &["198.18.78.2"]),
        // A fetched list that names a client does not cut him.
        ("deny-feed:voipbl", &["198.18.77.7", "198.18.78.2"]),
    ]);
    for (source, sip) in [
        ("198.18.77.7", true),
        ("198.18.78.1", true),
        ("2001:db8:78::1", true),
        ("198.18.78.2", false),
    ] {
        assert_eq!(
            gets_through(&ruleset, source, Protocol::Udp, 5060),
            sip,
            "{source}"
        );
        assert!(
            gets_through(&ruleset, source, Protocol::Udp, 12_000),
            "{source}"
        );
    }
}

#[test]
fn the_cluster_is_spared_however_it_comes() {
    let documents = changed(|site| {
        site.cluster.trust = Trust::Strict;
        site.deny.push(word("10.0.0.0/24"));
    });
    let compiled = compiled(&documents, &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    assert!(warns(&compiled, "deny: entries overlap the cluster (1)"));
    assert!(gets_through(ruleset, "10.0.0.1", Protocol::Udp, 12_000));
    let outcome = send(ruleset, "10.0.0.2", Protocol::Udp, 12_000);
    assert_eq!(outcome.label, "deny");
}

#[test]
fn tests_of_a_site_see_names_and_no_emergency() {
    let mut documents = with_names();
    let site = documents.sites.values_mut().next().unwrap();
    site.tests[0].from = address("198.18.77.7");
    let nodes = [all_roles()];
    let error = effective_with(&documents, &nodes, &dynamic(&nodes, &[])).unwrap_err();
    assert!(error.to_string().contains("phones register"), "{error}");
    let resolved: (&str, &[&str]) = ("name:home.acme.example", &["198.18.77.7"]);
    for emergency in ["block", "open", "allow"] {
        let dynamic = dynamic(&nodes, &[resolved, (emergency, &["198.18.77.7"])]);
        assert!(effective_with(&documents, &nodes, &dynamic).is_ok());
    }
}

#[test]
fn unknown_sources_are_reported() {
    let nodes = [all_roles()];
    let warnings = |values: &[(&str, &[&str])]| {
        effective_with(&with_names(), &nodes, &dynamic(&nodes, values)).unwrap()
    };
    let nothing = warnings(&[]);
    assert!(warns(
        &nothing,
        "home.acme.example has not been resolved yet"
    ));
    assert!(warns(
        &nothing,
        "list:voipbl has not been fetched yet: nothing of it is denied"
    ));
    let some = warnings(&[
        ("name:home.acme.example", &[]),
        ("name:sip.trunkco.example", &["198.18.78.1"]),
        ("deny-feed:voipbl", &[]),
    ]);
    assert!(warns(&some, "home.acme.example resolves to no address now"));
    assert!(!warns(&some, "sip.trunkco.example"));
    assert!(!warns(&some, "fetched"));
}

#[test]
fn a_word_with_nothing_but_names_is_not_empty() {
    let mut documents = with_names();
    let acme = documents.tenants.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.networks.clear();
    let site = documents.sites.values_mut().next().unwrap();
    site.tests.clear();
    let web = ServiceOverride {
        from: Some(vec![AddressWord::Tenant("acme".parse().unwrap())]),
        ..ServiceOverride::default()
    };
    site.services.insert("web".to_owned(), web);
    let nodes = [all_roles()];
    let dynamic = dynamic(&nodes, &[("name:home.acme.example", &["198.18.77.7"])]);
    let compiled = effective_with(&documents, &nodes, &dynamic).unwrap();
    assert!(!warns(&compiled, "holds no address"));
    assert!(!warns(&compiled, "has no network"));
    let ruleset = ruleset(&compiled, "all-1");
    assert!(gets_through(ruleset, "198.18.77.7", Protocol::Tcp, 443));
    assert!(set_names(ruleset).contains("vf-tenant-acme-6"));
}

#[test]
fn ssh_hangs_on_no_name_and_no_feed() {
    for (word, why) in [
        ("tenant", "SSH must not hang on DNS"),
        ("list", "SSH must not hang on that"),
    ] {
        let mut documents = with_names();
        let site = documents.sites.values_mut().next().unwrap();
        site.admins.push(if word == "list" {
            AddressWord::List("voipbl".parse().unwrap())
        } else {
            AddressWord::Tenant("acme".parse().unwrap())
        });
        let error = refused(&documents).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_fetched_list_loses_what_is_the_sites_own() {
    let nodes = [all_roles()];
    let dynamic = dynamic(&nodes, &[("name:sip.trunkco.example", &["198.18.78.1"])]);
    let site = "site-a".parse().unwrap();
    let protection = Protection::of_site(&site, &with_names(), &dynamic).unwrap();
    let cleaned = protection.clean(nets(&[
        "198.51.100.66",
        "198.51.100.8/30", // holds an admin
        "203.0.113.7",
        "203.0.113.8",
        "198.18.78.0/31", // holds the address of a name
        "10.9.0.0/16",
        "10.0.0.1",
    ]));
    assert_eq!(
        cleaned.nets,
        nets(&[
            "198.18.78.0",
            "198.51.100.8/31",
            "198.51.100.11",
            "198.51.100.66"
        ])
    );
    let dropped: Vec<String> = cleaned.dropped.iter().map(ToString::to_string).collect();
    assert_eq!(
        dropped,
        [
            "admins 1 (198.51.100.8/30)",
            "tenants 2 (203.0.113.7/32, 203.0.113.8/32)",
            "providers 1 (198.18.78.0/31)",
            "private ranges 2 (10.0.0.1/32, 10.9.0.0/16)",
        ]
    );
}

#[test]
fn an_entry_that_holds_too_much_of_the_sites_own_is_dropped_whole() {
    let mut documents = documents();
    let acme = documents.tenants.get_mut(&"acme".parse().unwrap()).unwrap();
    let many = (0_u32..2000).map(|i| ipnet::IpNet::from(IpAddr::V4((0x2D00_0000 + i * 4).into())));
    acme.networks.insert("many".to_owned(), many.collect());
    let site = "site-a".parse().unwrap();
    let protection = Protection::of_site(&site, &documents, &DynamicSets::new(site.clone()));
    let cleaned = protection
        .unwrap()
        .clean(nets(&["45.0.0.0/16", "45.1.0.0/16"]));
    assert_eq!(cleaned.nets, nets(&["45.1.0.0/16"]));
    assert_eq!(
        cleaned.dropped[0].to_string(),
        "too much of the site's own 1 (45.0.0.0/16)"
    );
}

fn digests(compiled: &Compiled) -> Vec<Digest> {
    compiled.rulesets.values().map(Ruleset::digest).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Nothing that is emitted hangs on what dynamic sets hold, nor on the nodes' addresses.
    #[test]
    fn digests_hang_on_documents_and_roles_alone(
        documents in any_documents(),
        nodes in any_nodes(),
        dynamic in any_dynamic(),
    ) {
        let site = "site-a".parse().unwrap();
        let compiled = compile(&site, &documents, &nodes, &dynamic).unwrap();
        let mut moved = nodes.clone();
        for node in &mut moved {
            node.addresses.truncate(1);
        }
        let unknown = DynamicSets::new(site.clone());
        let again = compile(&site, &documents, &moved, &unknown).unwrap();
        prop_assert_eq!(digests(&compiled), digests(&again));
        let names = needed(&site, &documents);
        for ruleset in compiled.rulesets.values() {
            prop_assert!(ruleset.dynamic_names().is_subset(&names));
            prop_assert!(ruleset.dynamic_names().contains(&DynamicSetName::Block));
        }
    }
}
