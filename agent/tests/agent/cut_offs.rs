//! Whom foreign firewalls cut off, on the real kernel: named within seconds, with what to do.

use voipfleet_agent::host::Host;
use voipfleet_agent::inventory::Findings;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::agent_message::Kind;
use voipfleet_proto::v1::{Neighbour, NeighbourKind, NodeFacts};
use voipfleet_ruleset::foreign::describe;
use voipfleet_ruleset::ruleset::{ProviderPart, Ruleset, SetOwner};

use crate::node::{self, Node, program};
use crate::reconciler::{Agent, LIMIT, NEVER};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// The sample with an owner of its clients, 203.0.113.0/24 and `2001:db8:10::/48`, to whom SIP is open.
fn owned() -> Ruleset {
    let mut ruleset = sample(1);
    for set in &mut ruleset.sets {
        if set.name.stem.as_str() == "clients" {
            set.owner = Some(SetOwner::Clients(ProviderPart::Signalling));
        }
    }
    Ruleset::decode(&ruleset.encode()).unwrap()
}

fn protected(place: &Place) -> Agent {
    let (mut system, ledger) = (place.system(), place.ledger());
    install(&mut system, &ledger, 1, owned());
    Agent::start(place, NEVER)
}

/// Waits until the facts hold what is wanted; returns the firewall with it, and whom it cuts off.
fn until(agent: &Agent, wanted: impl Fn(&Neighbour) -> bool) -> (Neighbour, String) {
    let mut facts = agent.outbox.hello().0;
    let mut found = None;
    agent.runtime.block_on(async {
        let wait = async {
            loop {
                found = facts.neighbours.iter().find(|one| wanted(one)).cloned();
                if found.is_some() {
                    return;
                }
                agent.outbox.filled().await;
                for message in agent.outbox.take() {
                    if let Kind::Facts(newer) = message {
                        facts = newer;
                    }
                }
            }
        };
        let ended = tokio::time::timeout(LIMIT, wait).await;
        assert!(
            ended.is_ok(),
            "not within {LIMIT:?}: {:#?}",
            facts.neighbours
        );
    });
    let found = found.unwrap();
    let hits = describe(&found).unwrap_or_default();
    (found, hits)
}

/// Waits for one that cuts somebody off in these words.
fn cut_off(agent: &Agent, words: &str) -> Neighbour {
    let hits = |one: &Neighbour| describe(one).is_some_and(|hits| hits.contains(words));
    until(agent, hits).0
}

fn run(place: &Place, lines: &[&str]) {
    for line in lines {
        place.tool(line);
    }
}

#[test]
fn bans_by_chain_and_by_set_name_whom_they_hit() {
    on_both_backends(|place| {
        let agent = protected(place);
        // A chain that bans a client on the SIP port.
        run(
            place,
            &[
                "iptables -N f2b-asterisk",
                "iptables -A f2b-asterisk -s 203.0.113.9 -j REJECT",
                "iptables -A f2b-asterisk -j RETURN",
                "iptables -I INPUT -p udp -m multiport --dports 5060,5061 -j f2b-asterisk",
            ],
        );
        let found = cut_off(&agent, "drops a client, 203.0.113.9 (udp 5060)");
        assert_eq!(found.kind(), NeighbourKind::Fail2ban);
        assert_eq!(found.detail, "chain f2b-asterisk");
        assert!(
            found.advice.contains("fail2ban-client unban 203.0.113.9"),
            "{found:?}"
        );
        // A set without any chain, for every port, in IPv6.
        run(
            place,
            &[
                "ipset create f2b-sip6 hash:ip family inet6 timeout 86400",
                "ip6tables -I INPUT -m set --match-set f2b-sip6 src -j DROP",
            ],
        );
        // No event announces the element.
        place.tool("ipset add f2b-sip6 2001:db8:10::9");
        let found = cut_off(&agent, "drops a client, 2001:db8:10::9");
        assert_eq!(found.kind(), NeighbourKind::Fail2ban);
        assert_eq!(found.detail, "set f2b-sip6 in chain INPUT");
        // Another program's chain and set, which bans an admin.
        run(
            place,
            &[
                "ipset create sipban hash:ip timeout 604800",
                "iptables -N sipban",
                "iptables -A sipban -m set --match-set sipban src -j DROP",
                "iptables -I INPUT -i eth0 -j sipban",
                "ipset add sipban 198.51.100.10",
            ],
        );
        let found = cut_off(&agent, "drops an admin, 198.51.100.10 (tcp 22");
        assert_eq!(found.kind(), NeighbourKind::ForeignRules);
        assert_eq!(found.detail, "chain sipban");
        // When the ban ends, so does the report.
        place.tool("ipset del sipban 198.51.100.10");
        until_gone(&agent, "an admin");
    });
}

fn until_gone(agent: &Agent, words: &str) {
    let hits = |facts: &NodeFacts| {
        let mut found = facts.neighbours.iter().filter_map(describe);
        found.any(|hits| hits.contains(words))
    };
    let mut facts = agent.outbox.hello().0;
    agent.runtime.block_on(async {
        let wait = async {
            while hits(&facts) {
                agent.outbox.filled().await;
                for message in agent.outbox.take() {
                    if let Kind::Facts(newer) = message {
                        facts = newer;
                    }
                }
            }
        };
        let ended = tokio::time::timeout(LIMIT, wait).await;
        assert!(
            ended.is_ok(),
            "not within {LIMIT:?}: {:#?}",
            facts.neighbours
        );
    });
}

#[test]
fn raw_and_mangle_rules_and_the_sip_helper_are_seen() {
    on_both_backends(|place| {
        let agent = protected(place);
        run(
            place,
            &[
                "iptables -t raw -A PREROUTING -m rpfilter --invert -j DROP",
                "iptables -t mangle -A PREROUTING -s 203.0.113.9 -p udp --dport 5060 -j DROP",
                "ip6tables -t raw -A PREROUTING -s 2001:db8:10::9 -j DROP",
            ],
        );
        let found = cut_off(&agent, "drops a client, 203.0.113.9 (udp 5060)");
        assert_eq!(found.detail, "chain PREROUTING of table mangle");
        let found = cut_off(&agent, "drops a client, 2001:db8:10::9 (udp 5060");
        assert_eq!(found.detail, "chain PREROUTING of table raw");
        // What hangs on more than the packet is told, too.
        let told =
            "before all our rules, rules in PREROUTING of table mangle, PREROUTING of table raw";
        until(&agent, |one| one.detail.starts_with(told));
        place.tool("iptables -t raw -A PREROUTING -p udp --dport 5060 -j CT --helper sip");
        let (found, _) = until(&agent, |one| one.kind() == NeighbourKind::NfConntrackSip);
        assert!(
            found.detail.contains("PREROUTING of table raw"),
            "{found:?}"
        );
    });
}

#[test]
fn native_tables_are_seen_on_both_backends_with_the_ports_that_they_close() {
    on_both_backends(|place| {
        // nf_tables is in this kernel, and its module is loaded as far as the machine's files say.
        std::fs::create_dir_all(place.folder.path().join("sys/module/nf_tables")).unwrap();
        let agent = protected(place);
        run(
            place,
            &[
                "nft add table inet mine",
                "nft add chain inet mine input { type filter hook input priority 0 ; policy drop ; }",
                "nft add rule inet mine input iif lo accept",
                "nft add rule inet mine input ct state established,related accept",
                "nft add rule inet mine input tcp dport 22 accept",
            ],
        );
        let found = cut_off(&agent, "closes udp 5060, udp 10000-20001 to everyone");
        assert_eq!(found.kind(), NeighbourKind::NftTable);
        assert_eq!(found.detail, "the policy of chain input of table inet mine");
        let open = "nft insert rule inet mine input udp dport { 5060, 10000-20001 } accept";
        assert!(found.advice.contains(open), "{found:?}");
        // What it says works.
        place.tool("nft insert rule inet mine input udp dport { 5060, 10000-20001 } accept");
        until_gone(&agent, "to everyone");
    });
}

#[test]
fn tables_of_containers_and_bouncers_are_named_and_may_stay() {
    in_namespace(Backend::Nft, |place| {
        let agent = protected(place);
        run(
            place,
            &[
                "nft add table inet netavark",
                "nft add chain inet netavark INPUT { type filter hook input priority 0 ; }",
                "nft add rule inet netavark INPUT ip saddr 10.88.0.0/16 udp dport 53 accept",
                "nft add table inet lxd",
                "nft add chain inet lxd in.lxdbr0 { type filter hook input priority 0 ; }",
                "nft add rule inet lxd in.lxdbr0 iifname lxdbr0 udp dport { 53, 67 } accept",
                "nft add table ip docker-bridges",
                "nft add chain ip docker-bridges raw { type filter hook prerouting priority -300 ; }",
                "nft add rule ip docker-bridges raw ip daddr 172.18.0.2 drop",
                "nft add table ip crowdsec",
                "nft add set ip crowdsec blacklists { type ipv4_addr ; }",
                "nft add element ip crowdsec blacklists { 198.51.100.66 }",
                "nft add chain ip crowdsec bouncer { type filter hook input priority -10 ; }",
                "nft add rule ip crowdsec bouncer ip saddr @blacklists drop",
            ],
        );
        for kind in [
            NeighbourKind::Podman,
            NeighbourKind::Lxd,
            NeighbourKind::Docker,
            NeighbourKind::Crowdsec,
        ] {
            let table = |one: &Neighbour| one.kind() == kind && one.detail.starts_with("table ");
            let (found, hits) = until(&agent, table);
            assert_eq!(
                (found.advice.as_str(), hits.as_str()),
                ("", ""),
                "{found:?}"
            );
        }
        place.tool("nft add element ip crowdsec blacklists { 203.0.113.9 }");
        let found = cut_off(&agent, "drops a client, 203.0.113.9");
        assert_eq!(found.kind(), NeighbourKind::Crowdsec);
        assert!(
            found
                .advice
                .contains("cscli decisions delete --ip 203.0.113.9"),
            "{found:?}"
        );
        let facts = agent.outbox.hello().0;
        let removes = |one: &Neighbour| one.advice.contains("remove it");
        assert!(!facts.neighbours.iter().any(removes), "{facts:#?}");
    });
}

#[test]
fn guests_of_libvirt_that_lose_dhcp_and_dns_are_told() {
    on_both_backends(|place| {
        let agent = protected(place);
        run(
            place,
            &[
                "iptables -N LIBVIRT_INP",
                "iptables -I INPUT -j LIBVIRT_INP",
            ],
        );
        for protocol in ["udp", "tcp"] {
            for port in [53, 67] {
                place.tool(&format!(
                    "iptables -A LIBVIRT_INP -i virbr0 -p {protocol} -m {protocol} --dport {port} -j \
                     ACCEPT"
                ));
            }
        }
        let told = |one: &Neighbour| {
            one.kind() == NeighbourKind::Libvirt
                && one.detail.contains("tcp 53, tcp 67, udp 53, udp 67")
        };
        let (found, _) = until(&agent, told);
        assert!(found.detail.contains("guests on virbr0"), "{found:?}");
        assert!(found.detail.contains("no DHCP and no DNS"), "{found:?}");
        let rule = "{name: virbr0-udp, accept: {proto: udp, ports: [53, 67], from: [world], interface: \
                    virbr0}}";
        assert!(found.advice.contains(rule), "{found:?}");
    });
}

#[test]
fn bans_that_others_overrule_are_named() {
    on_both_backends(|place| {
        run(
            place,
            &[
                "iptables -N f2b-asterisk",
                "iptables -A f2b-asterisk -s 192.0.2.9 -j DROP",
                "iptables -A INPUT -p tcp -m tcp --dport 8443 -j ACCEPT",
                "iptables -A INPUT -p udp -j f2b-asterisk",
            ],
        );
        let agent = protected(place);
        let overruled =
            |one: &Neighbour| one.detail.contains("is below `-p tcp -m tcp --dport 8443");
        let (found, _) = until(&agent, overruled);
        assert_eq!(found.kind(), NeighbourKind::Fail2ban);
        assert!(
            found.advice.contains("systemctl restart fail2ban"),
            "{found:?}"
        );
    });
}

#[test]
fn built_in_nf_tables_is_found_without_modules() {
    in_namespace(Backend::Legacy, |place| {
        let host = Host::new(place.runner());
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, owned());
        run(
            place,
            &[
                "nft add table inet mine",
                "nft add chain inet mine input { type filter hook input priority 0 ; policy drop ; }",
            ],
        );
        let found = Findings::read(&host, &mut system);
        let kinds: Vec<NeighbourKind> = found
            .foreign_firewalls
            .iter()
            .map(Neighbour::kind)
            .collect();
        assert!(kinds.contains(&NeighbourKind::NftTable), "{found:?}");
    });
}

#[test]
fn agent_and_status_say_what_cuts_off_the_controller() {
    on_both_backends(|place| {
        node::run(async {
            let mut node = Node::idle(place).await;
            let port = node.controller.address.port();
            let reject = format!("OUTPUT -p tcp --dport {port} -j REJECT --reject-with tcp-reset");
            place.tool(&format!("iptables -A {reject}"));
            node.run();
            let hit = format!("chain OUTPUT drops the controller, 127.0.0.1 (tcp {port})");
            node.logs(&hit).await;
            let status = program(place, "status", &node.folder()).output().unwrap();
            let text = String::from_utf8(status.stdout).unwrap();
            assert!(text.contains(&format!("cut off: {hit}")), "{text}");
            assert!(!status.status.success());
            // Once the rule is gone, there is a session, and no such word.
            place.tool(&format!("iptables -D {reject}"));
            let _session = node.session().await;
            let status = program(place, "status", &node.folder()).output().unwrap();
            let text = String::from_utf8(status.stdout).unwrap();
            assert!(!text.contains("cut off"), "{text}");
        });
    });
}
