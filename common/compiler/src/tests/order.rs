//! The order inside the chain, limits, and observe mode.

use voipfleet_policy::{AddressWord, DefaultVerdict, ServiceOverride};
use voipfleet_ruleset::ruleset::{ConnectionState, Mode, Rate, RateUnit, Verdict};

use super::*;

fn limit(count: u32) -> ServiceOverride {
    ServiceOverride {
        limit: Rate::new(count, RateUnit::Second, 60),
        ..ServiceOverride::default()
    }
}

#[test]
fn the_chain_has_the_order_of_the_design() {
    let documents = changed(|site| {
        site.deny
            .push(AddressWord::Net("198.51.100.99/32".parse().unwrap()));
    });
    let ruleset = single(&documents);
    assert_eq!(
        labels(&ruleset, "VF-DENY"),
        [
            "deny:exempt:cluster",
            "deny:exempt:admins",
            "deny",
            "deny:exempt:clients",
            "deny:exempt:providers:media",
            "deny:list:voipbl",
        ]
    );
    assert_eq!(
        labels(&ruleset, "VF-INPUT"),
        [
            "block:forced",
            "cluster",
            "block",
            "open",
            "deny",
            "established",
            "invalid",
            "rtp:udp",
            "limit:sip:udp",
            "limit:sip:tcp",
            "sip:udp:clients",
            "sip:tcp:clients",
            "sip-tls:tcp:clients",
            "sip-pbx:udp:clients",
            "sip-pbx:tcp:clients",
            "t38:udp",
            "ssh:tcp:admins",
            "web:tcp:clients",
            "web:tcp:admins",
            "tftp:udp:clients",
            "xmpp-c2s:tcp:clients",
            "xmpp-bosh:tcp:clients",
            "smtp:tcp:list:mail-relays",
            "icmp:type-3",
            "icmp:type-11",
            "icmp:type-12",
            "icmp:type-8",
            "icmpv6:type-1",
            "icmpv6:type-2",
            "icmpv6:type-3",
            "icmpv6:type-4",
            "icmpv6:type-130",
            "icmpv6:type-131",
            "icmpv6:type-132",
            "icmpv6:type-133",
            "icmpv6:type-134",
            "icmpv6:type-135",
            "icmpv6:type-136",
            "icmpv6:type-143",
            "icmpv6:type-128",
            "rule:monitoring",
            "log",
            "default",
        ]
    );
}

#[test]
fn a_denied_source_is_cut_during_a_call() {
    let ruleset = single(&documents());
    let mut packet = Packet::new(address("198.51.100.66"), Protocol::Udp, 12_000);
    packet.state = Some(ConnectionState::Established);
    let outcome = simulate(&ruleset, &packet);
    assert_eq!(outcome.decision, Decision::Drop);
    assert_eq!(outcome.label, "deny:list:voipbl");
    packet.source = address("198.51.100.67");
    assert_eq!(simulate(&ruleset, &packet).label, "established");
    packet.state = Some(ConnectionState::Invalid);
    assert_eq!(simulate(&ruleset, &packet).label, "invalid");
}

#[test]
fn known_sources_skip_the_limits_of_sip() {
    let ruleset = single(&documents());
    let rules = rules(&ruleset, "VF-SIP-LIMIT");
    let exempt = rules
        .iter()
        .take_while(|rule| rule.verdict == Verdict::Return);
    let sets: Vec<&str> = exempt
        .filter_map(|rule| {
            rule.source_set
                .as_ref()
                .map(voipfleet_ruleset::ruleset::SetStem::as_str)
        })
        .collect();
    assert_eq!(sets, ["clients", "admins", "cluster"]);
    for rule in rules.iter().skip(3) {
        assert_eq!(rule.verdict, Verdict::Drop);
        let limit = rule.source_limit.as_ref().unwrap();
        assert_eq!(limit.above, Rate::new(20, RateUnit::Second, 60).unwrap());
    }
    assert_eq!(rules.len(), 5);
}

#[test]
fn another_rate_is_another_table_in_the_kernel() {
    let table = |count| {
        let ruleset = single(&changed(|site| {
            site.services.insert("sip".to_owned(), limit(count));
        }));
        let rules = rules(&ruleset, "VF-SIP-LIMIT").to_vec();
        rules
            .iter()
            .find_map(|rule| rule.source_limit.clone())
            .unwrap()
            .name
    };
    assert_eq!(table(20), table(20));
    assert_ne!(table(20), table(21));
}

#[test]
fn limits_of_other_services_have_a_chain_of_their_own() {
    let ruleset = single(&changed(|site| {
        site.services.clear();
        site.services.insert("rtp".to_owned(), limit(100));
        site.services.insert("xmpp-bosh".to_owned(), limit(5));
    }));
    let input = labels(&ruleset, "VF-INPUT");
    let place = |label: &str| input.iter().position(|l| l == label).expect(label);
    assert_eq!(place("limit:rtp:udp") + 1, place("rtp:udp"));
    assert_eq!(
        place("limit:xmpp-bosh:tcp") + 1,
        place("xmpp-bosh:tcp:clients")
    );
    assert_eq!(
        labels(&ruleset, "VF-LIMIT"),
        [
            "limit:exempt:clients",
            "limit:exempt:admins",
            "limit:exempt:cluster",
            "limit:exempt:clients:media",
            "limit:rtp:udp",
            "limit:xmpp-bosh:tcp"
        ]
    );
    assert!(
        !ruleset
            .chains
            .iter()
            .any(|chain| chain.name.as_str() == "VF-SIP-LIMIT")
    );
}

#[test]
fn observe_decides_nothing() {
    for default in [DefaultVerdict::Drop, DefaultVerdict::Reject] {
        let documents = changed(|site| {
            site.mode = Mode::Observe;
            site.default = default;
        });
        let ruleset = single(&documents);
        assert_eq!(ruleset.mode, Mode::Observe);
        let all = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        for rule in all {
            assert!(
                !matches!(
                    rule.verdict,
                    Verdict::Accept | Verdict::Drop | Verdict::Reject
                ),
                "{}",
                rule.label
            );
        }
        // What is open to the world by the policy may be closed by the firewall below ours.
        let outcome = send(&ruleset, "198.51.100.200", Protocol::Udp, 10_000);
        assert_eq!(
            (outcome.decision, outcome.label.as_str()),
            (Decision::Pass, "rtp:udp")
        );
        for source in ["198.51.100.66", "198.51.100.200", "2001:db8:ffff::1"] {
            let outcome = send(&ruleset, source, Protocol::Tcp, 3306);
            assert_eq!(outcome.decision, Decision::Pass, "{source}");
        }
        // What would be dropped is logged first, at a limited rate, and counted where it leaves.
        let rules = rules(&ruleset, "VF-INPUT");
        let returns = rules.iter().zip(rules.iter().skip(1));
        let dropped = ["deny", "invalid", "default"];
        let dropped = |rule: &Rule| {
            dropped
                .iter()
                .any(|word| rule.label.as_str().starts_with(word))
        };
        for (before, rule) in
            returns.filter(|(_, rule)| rule.verdict == Verdict::Return && dropped(rule))
        {
            assert!(matches!(before.verdict, Verdict::Log(_)), "{}", rule.label);
            assert!(before.limit.is_some());
            assert_eq!(before.source_set, rule.source_set);
        }
        assert_eq!(labels(&ruleset, "VF-OBSERVED"), ["observed"]);
    }
}

#[test]
fn the_default_can_be_to_reject() {
    let ruleset = single(&changed(|site| site.default = DefaultVerdict::Reject));
    assert_eq!(
        send(&ruleset, "198.51.100.200", Protocol::Tcp, 3306).decision,
        Decision::Reject
    );
}

#[test]
fn sip_that_moves_stays_out_of_media() {
    let documents = changed(|site| {
        site.tests.clear();
        let moved = ServiceOverride {
            ports: Some(vec![voipfleet_ruleset::ruleset::PortRange::single(4070)]),
            ..ServiceOverride::default()
        };
        let wide = ServiceOverride {
            ports: Some(vec![
                voipfleet_ruleset::ruleset::PortRange::new(4000, 20_000).unwrap(),
            ]),
            from: Some(vec![AddressWord::World]),
            ..ServiceOverride::default()
        };
        site.services.insert("sip".to_owned(), moved);
        site.services.insert("rtp".to_owned(), wide.clone());
        site.services.insert("t38".to_owned(), wide);
    });
    let compiled = compiled(&documents, &[all_roles()]);
    let ruleset = ruleset(&compiled, "all-1");
    for port in [4070, 5050, 5060, 5061] {
        assert!(
            !gets_through(ruleset, "198.51.100.200", Protocol::Udp, port),
            "{port}"
        );
    }
    assert!(gets_through(ruleset, "198.51.100.200", Protocol::Udp, 4071));
    assert!(gets_through(ruleset, "203.0.113.9", Protocol::Udp, 4070));
    assert!(warns(
        &compiled,
        "services.rtp.ports: it holds the ports of SIP (4070, 5050, 5060, 5061)"
    ));
    assert!(warns(&compiled, "services.t38.ports"));
}

#[test]
fn more_ports_than_a_match_holds_take_more_rules() {
    let documents = changed(|site| {
        let ports = (0..20)
            .map(|i| voipfleet_ruleset::ruleset::PortRange::single(8000 + i * 2))
            .collect();
        let web = ServiceOverride {
            ports: Some(ports),
            ..ServiceOverride::default()
        };
        site.services.insert("web".to_owned(), web);
    });
    let ruleset = single(&documents);
    let labels = labels(&ruleset, "VF-INPUT");
    for label in ["web:tcp:clients", "web:tcp:2:clients"] {
        assert!(labels.iter().any(|l| l == label), "{label}");
    }
    for i in 0..20 {
        assert!(gets_through(
            &ruleset,
            "203.0.113.9",
            Protocol::Tcp,
            8000 + i * 2
        ));
        assert!(!gets_through(
            &ruleset,
            "203.0.113.9",
            Protocol::Tcp,
            8001 + i * 2
        ));
    }
}
