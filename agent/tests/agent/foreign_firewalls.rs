//! Foreign firewalls on the real kernel: found, reported, and left alone.

use voipfleet_agent::host::Host;
use voipfleet_agent::inventory::Findings;
use voipfleet_agent::kernel::{Backend, Kernel};
use voipfleet_proto::v1::agent_message::Kind;
use voipfleet_proto::v1::{Neighbour, NeighbourKind, NodeFacts};

use crate::reconciler::{Agent, NEVER};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

fn look(place: &Place, kernel: &mut dyn Kernel) -> Vec<(NeighbourKind, String, String)> {
    let host = Host::at(place.folder.path(), place.runner());
    Findings::read(&host, kernel)
        .foreign_firewalls
        .into_iter()
        .map(|found| (found.kind(), found.detail, found.advice))
        .collect()
}

#[test]
fn machine_without_foreign_firewalls_reports_none() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        assert_eq!(look(place, &mut system), []);
        install(&mut system, &ledger, 1, sample(1));
        assert_eq!(look(place, &mut system), []);
    });
}

#[test]
fn foreign_chains_are_reported_and_left_alone() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        for line in [
            "iptables -N DOCKER-USER",
            "iptables -N BADIPS",
            "iptables -I INPUT 1 -j BADIPS",
            "iptables -A BADIPS -s 192.0.2.0/28 -j DROP",
        ] {
            place.tool(line);
        }
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let before = place.foreign();
        let found = look(place, &mut system);
        assert_eq!(place.foreign(), before);
        let of = |kind: NeighbourKind| {
            let found = found.iter().find(|(found, ..)| *found == kind);
            found.unwrap_or_else(|| panic!("{kind:?} in {found:?}"))
        };
        assert!(of(NeighbourKind::Docker).2.contains("DOCKER-USER"));
        let (_, detail, advice) = of(NeighbourKind::Fail2ban);
        let stays = "chains f2b-sshd, sets f2b-list; they stay above our rules as long as they only drop \
                     packets";
        assert_eq!(detail, stays);
        // The set is for every port.
        assert!(advice.contains("ignoreip"), "{advice}");
        let (_, detail, advice) = of(NeighbourKind::ForeignRules);
        assert_eq!(
            detail,
            "above our rules in INPUT: chain BADIPS; they only drop packets"
        );
        assert_eq!(advice, "");
        assert_eq!(found.len(), 3, "{found:?}");
        // What is to be done comes first.
        assert_eq!(found[0].0, NeighbourKind::Docker);
    });
}

#[test]
fn rules_of_the_other_backend_are_reported() {
    on_both_backends(|place| {
        let other = match place.backend {
            Backend::Nft => "iptables-legacy -A INPUT -s 192.0.2.1 -j DROP",
            Backend::Legacy => "iptables-nft -A INPUT -s 192.0.2.1 -j DROP",
        };
        place.tool(other);
        let mut system = place.system();
        let found = look(place, &mut system);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, NeighbourKind::OtherBackend);
    });
}

#[test]
fn foreign_nft_tables_that_filter_input_are_reported() {
    in_namespace(Backend::Nft, |place| {
        let mut system = place.system();
        place.tool("iptables -A INPUT -s 192.0.2.1 -j DROP");
        for line in [
            "nft add table inet empty",
            "nft add chain inet empty in { type filter hook input priority 5 ; }",
            "nft add chain inet empty out { type filter hook output priority 5 ; policy drop ; }",
        ] {
            place.tool(line);
        }
        assert_eq!(look(place, &mut system), []);
        for line in [
            "nft add rule inet empty in ip saddr 192.0.2.9 drop",
            "nft add table inet firewalld",
            "nft add chain inet firewalld filter_INPUT { type filter hook input priority 10 ; \
             policy drop ; }",
        ] {
            place.tool(line);
        }
        let found = look(place, &mut system);
        let kinds: Vec<NeighbourKind> = found.iter().map(|found| found.0).collect();
        assert_eq!(kinds, [NeighbourKind::Firewalld, NeighbourKind::NftTable]);
        assert!(
            found[1].2.contains("nft list table inet empty"),
            "{found:?}"
        );
    });
}

#[test]
fn sockets_in_world_ranges_are_reported() {
    on_both_backends(|place| {
        let any = std::net::UdpSocket::bind("0.0.0.0:11211").unwrap();
        let any6 = std::net::UdpSocket::bind("[::]:4569").unwrap();
        let elsewhere = std::net::UdpSocket::bind("0.0.0.0:9999").unwrap();
        let host = Host::new(place.runner());
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        // A tool that a test beside this one is just starting has the sockets for a moment,
        // under its thread's name.
        let mut found = Vec::new();
        for _ in 0..20 {
            found = Findings::read(&host, &mut place.system()).listeners;
            let ports: Vec<u32> = found.iter().map(|listener| listener.port).collect();
            assert_eq!(ports, [4569, 11_211]);
            if found[0].process == own.trim_end() {
                break;
            }
        }
        drop((any, any6, elsewhere));
        assert_eq!(found[0].process, own.trim_end());
    });
}

#[test]
fn agent_reports_foreign_firewalls() {
    in_namespace(Backend::Nft, |place| {
        place.add_foreign_rules();
        let agent = Agent::start(place, NEVER);
        let (facts, _) = agent.outbox.hello();
        let kinds = |facts: &NodeFacts| -> Vec<NeighbourKind> {
            facts.neighbours.iter().map(Neighbour::kind).collect()
        };
        assert_eq!(kinds(&facts), [NeighbourKind::Fail2ban]);
        assert!(facts.warnings.is_empty(), "{facts:?}");
        let sent = agent.outbox.take();
        assert!(!sent.iter().any(|message| matches!(message, Kind::Facts(_))));
    });
}
