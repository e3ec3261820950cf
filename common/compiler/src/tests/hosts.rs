//! What a site says of its machines: no IPv6, and networks that are valid for a time.

use voipfleet_policy::{Dated, Ipv6};
use voipfleet_ruleset::ruleset::{Expiring, Scheduled, Scope};

use super::*;

const SWITCH: &str = "2030-10-10T00:00:00Z";

/// A carrier whose media moves: the old network ends when the new one begins, or later.
fn moving() -> Documents {
    let mut documents = documents();
    let trunkco = documents.providers.values_mut().next().unwrap();
    trunkco.media = Vec::new();
    trunkco.media_dated = Dated {
        expiring: vec![Expiring {
            net: net("192.0.2.128/25"),
            until: SWITCH.parse().unwrap(),
        }],
        scheduled: vec![Scheduled {
            net: net("198.18.128.0/18"),
            from: SWITCH.parse().unwrap(),
            until: None,
        }],
    };
    documents
}

#[test]
fn networks_of_a_provider_begin_and_end() {
    let ruleset = single(&moving());
    let stems = ["clients-media", "providers-media"];
    let mut found = 0;
    for set in &ruleset.sets {
        if !stems.contains(&set.name.stem.as_str()) || set.name.family != Family::V4 {
            continue;
        }
        found += 1;
        let switch = set.scheduled[0].from.unix();
        let at = |now: u64| -> Vec<String> {
            let set = set.at(now);
            let ending = set.expiring.iter().filter(|one| one.until.left(now) > 0);
            let nets = set.elements.iter().chain(ending.map(|one| &one.net));
            nets.filter(|net| !net.to_string().starts_with("203"))
                .map(ToString::to_string)
                .collect()
        };
        let before = at(switch - 1);
        assert!(before.contains(&"192.0.2.128/25".to_owned()), "{before:?}");
        assert!(
            !before.contains(&"198.18.128.0/18".to_owned()),
            "{before:?}"
        );
        let after = at(switch);
        assert!(after.contains(&"198.18.128.0/18".to_owned()), "{after:?}");
        assert!(!after.contains(&"192.0.2.128/25".to_owned()), "{after:?}");
    }
    assert!(found > 0, "no set of media");
}

#[test]
fn a_tenant_with_dated_networks_only_has_networks() {
    let mut documents = documents();
    let acme = documents.tenants.values_mut().next().unwrap();
    acme.networks.values_mut().for_each(Vec::clear);
    let dated = Dated {
        scheduled: vec![Scheduled {
            net: net("203.0.113.0/24"),
            from: SWITCH.parse().unwrap(),
            until: None,
        }],
        ..Dated::default()
    };
    acme.dated.insert("offices".to_owned(), dated);
    let compiled = compiled(&documents, &[all_roles()]);
    assert!(!warns(&compiled, "tenant acme has no network"));
}

#[test]
fn a_node_without_ipv6_gets_no_rule_or_set_of_it() {
    let without = changed(|site| site.ipv6 = Ipv6::None);
    let ruleset = single(&without);
    assert!(ruleset.without_ipv6 && !ruleset.filters(Family::V6));
    assert_eq!(ruleset.sets_of(Family::V6).count(), 0);
    let mut rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    assert!(rules.all(|rule| rule.scope == Scope::V4));
    assert!(gets_through(&ruleset, "203.0.113.9", Protocol::Udp, 5060));
    assert_eq!(Ruleset::decode(&ruleset.encode()).unwrap(), ruleset);
}

#[test]
fn only_the_named_nodes_and_roles_are_without_ipv6() {
    let documents = changed(|site| {
        site.ipv6 = Ipv6::NoneOn {
            nodes: ["sip-1".parse().unwrap(), "sip-9".parse().unwrap()].into(),
            roles: [Role::Sql].into(),
        };
    });
    let nodes = [
        node("sip-1", 1, &[Role::Sip]),
        node("sql-2", 2, &[Role::Sql]),
        node("pbx-3", 3, &[Role::Pbx]),
    ];
    let compiled = compiled(&documents, &nodes);
    for (name, without) in [("sip-1", true), ("sql-2", true), ("pbx-3", false)] {
        assert_eq!(ruleset(&compiled, name).without_ipv6, without, "{name}");
    }
    // The fixture's nodes have addresses of IPv6: that is said loudly.
    assert!(warns(&compiled, "DANGER: ipv6: node sip-1 has IPv6"));
    assert!(warns(&compiled, "DANGER: ipv6: node sql-2 has IPv6"));
    assert!(!warns(&compiled, "node pbx-3 has IPv6"));
    assert!(warns(&compiled, "ipv6.nodes: there is no node sip-9"));
}
