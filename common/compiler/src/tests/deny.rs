//! What is denied, and what cannot be.

use voipfleet_policy::{AddressWord, ServiceOverride};
use voipfleet_ruleset::ruleset::{Expiring, SetName, Until};

use super::*;
use crate::fixtures::{nets, word};

fn with_list(addresses: &[&str]) -> Documents {
    let mut documents = documents();
    let list = documents.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    list.addresses = nets(addresses);
    documents
}

#[test]
fn a_list_cannot_deny_the_sites_own() {
    let documents = with_list(&[
        "10.0.0.0/8",        // private, and the cluster
        "198.51.100.0/28",   // holds an admin
        "203.0.113.7",       // a tenant's phone
        "192.0.2.0/24",      // a provider
        "198.51.100.66",     // unknown
        "2001:db8:10::66",   // a tenant's phone
        "2001:db8:bad::/48", // unknown
    ]);
    let compiled = compiled(&documents, &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    assert!(warns(
        &compiled,
        "deny: list:voipbl: entries overlap the cluster (1), admins (1), tenants (2), providers \
         (1), private ranges (1)"
    ));
    for denied in [
        "198.51.100.9",
        "198.51.100.66",
        "192.0.2.100",
        "2001:db8:bad::1",
    ] {
        let outcome = send(ruleset, denied, Protocol::Udp, 12_000);
        assert_eq!(outcome.label, "deny:list:voipbl", "{denied}");
    }
    for spared in [
        "198.51.100.10",
        "203.0.113.7",
        "192.0.2.3",
        "192.0.2.129",
        "2001:db8:10::66",
    ] {
        assert!(
            gets_through(ruleset, spared, Protocol::Udp, 12_000),
            "{spared}"
        );
    }
    assert_eq!(elements(ruleset, "vf-deny-voipbl-6"), ["2001:db8:bad::/48"]);
}

#[test]
fn what_an_operator_denies_by_hand_is_meant() {
    let documents = changed(|site| {
        site.deny = vec![
            word("203.0.113.7"),
            word("198.51.100.0/28"),
            word("10.99.0.0/16"),
            AddressWord::Tenant("globex".parse().unwrap()),
        ];
    });
    let compiled = compiled(&documents, &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    for denied in [
        "203.0.113.7",
        "203.0.113.200",
        "198.18.7.1",
        "10.99.1.1",
        "198.51.100.1",
    ] {
        let outcome = send(ruleset, denied, Protocol::Udp, 12_000);
        assert_eq!(outcome.label, "deny", "{denied}");
    }
    for spared in ["203.0.113.8", "198.51.100.10"] {
        assert!(
            gets_through(ruleset, spared, Protocol::Udp, 12_000),
            "{spared}"
        );
    }
    assert!(warns(&compiled, "of tenants, and are cut off"));
    assert!(warns(&compiled, "deny: entries overlap admins (1)"));
}

#[test]
fn a_list_that_is_all_private_leaves_no_rule() {
    let compiled = compiled(&with_list(&["10.0.0.0/8", "fc00::/7"]), &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    assert!(!ruleset.chains.iter().any(|c| c.name.as_str() == "VF-DENY"));
    assert!(
        !labels(ruleset, "VF-INPUT")
            .iter()
            .any(|label| label.starts_with("deny"))
    );
    assert!(warns(&compiled, "private ranges (2)"));
}

#[test]
fn denying_most_of_the_world_is_asked_about() {
    let compiled = compiled(&with_list(&["0.0.0.0/0"]), &[all_roles()]);
    assert!(warns(&compiled, "as wide as the world"));
    let ruleset = ruleset(&compiled, "all-1");
    assert!(gets_through(ruleset, "203.0.113.9", Protocol::Udp, 5060));
    assert!(!gets_through(
        ruleset,
        "198.51.100.200",
        Protocol::Udp,
        12_000
    ));
}

#[test]
fn a_hundred_thousand_entries_keep_their_number() {
    let mut documents = documents();
    let list = documents.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    // Every second address, so that none merge.
    list.addresses = (0..100_000_u32)
        .map(|i| ipnet::IpNet::from(IpAddr::V4((0x2D00_0000 + i * 2).into())))
        .collect();
    let ruleset = single(&documents);
    assert_eq!(elements(&ruleset, "vf-deny-voipbl-4").len(), 100_000);
    let outcome = send(&ruleset, "45.0.0.2", Protocol::Udp, 12_000);
    assert_eq!(outcome.decision, Decision::Drop);
    assert!(gets_through(&ruleset, "45.0.0.3", Protocol::Udp, 12_000));
}

#[test]
fn a_list_may_be_denied_and_opened_at_once() {
    let documents = changed(|site| {
        let smtp = ServiceOverride {
            from: Some(vec![AddressWord::List("voipbl".parse().unwrap())]),
            ..ServiceOverride::default()
        };
        site.services.insert("smtp".to_owned(), smtp);
    });
    let ruleset = single(&documents);
    // The opening's set is whole; the deny set spares the tenant's phone.
    assert!(gets_through(&ruleset, "203.0.113.7", Protocol::Tcp, 25));
    assert!(!gets_through(&ruleset, "198.51.100.66", Protocol::Tcp, 25));
}

/// What ends is denied until then, and is taken no more seriously than the rest of its list.
#[test]
fn an_entry_that_ends_is_denied_until_then() {
    let mut documents = with_list(&["198.51.100.64/28", "198.51.100.200"]);
    let list = documents.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    let until = |text: &str| text.parse::<Until>().unwrap();
    let (soon, late) = (until("2026-12-01T00:00:00Z"), until("2027-01-01T00:00:00Z"));
    list.dated.expiring = [
        ("10.1.2.3/32", late),       // private
        ("192.0.2.126/31", soon),    // beside a provider
        ("192.0.2.128/32", late),    // a provider's
        ("198.51.100.8/30", soon),   // holds an admin
        ("198.51.100.66/32", late),  // stays, by a wider one
        ("198.51.100.192/28", soon), // wider than one that stays
        ("198.51.100.193/32", soon), // by a wider one
        ("198.51.100.194/32", late), // outlasts the wider one
    ]
    .map(|(net, until)| Expiring {
        net: net.parse().unwrap(),
        until,
    })
    .into();
    let compiled = compiled(&documents, &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    let name = SetName::from_kernel_name("vf-deny-voipbl-4").unwrap();
    let set = ruleset.sets.iter().find(|set| set.name == name).unwrap();
    assert_eq!(set.elements, nets(&["198.51.100.64/28", "198.51.100.200"]));
    let ending: Vec<String> = set
        .expiring
        .iter()
        .map(|one| {
            format!(
                "{} {}",
                one.net,
                if one.until == soon { "soon" } else { "late" }
            )
        })
        .collect();
    assert_eq!(
        ending,
        [
            "192.0.2.126/31 soon",
            "198.51.100.8/31 soon",
            "198.51.100.11/32 soon",
            "198.51.100.192/28 soon",
            "198.51.100.194/32 late",
        ]
    );
    assert_eq!(Ruleset::decode(&ruleset.encode()).as_ref(), Ok(ruleset));
    assert!(!gets_through(
        ruleset,
        "198.51.100.193",
        Protocol::Udp,
        12_000
    ));
    assert!(gets_through(ruleset, "198.51.100.10", Protocol::Tcp, 22));
}

#[test]
fn an_admin_does_not_end() {
    let mut documents = changed(|site| {
        let list = AddressWord::List("voipbl".parse().unwrap());
        site.admins.push(list);
    });
    let list = documents.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    list.dated.expiring = vec![Expiring {
        net: "198.51.100.99/32".parse().unwrap(),
        until: "2026-12-01T00:00:00Z".parse().unwrap(),
    }];
    let error = refused(&documents);
    assert_eq!(
        error.to_string(),
        "admins cannot be list:voipbl: it holds addresses that expire or begin later, and rules \
         made from admins do neither"
    );
}
