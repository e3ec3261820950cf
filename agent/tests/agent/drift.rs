//! Edits by others: noticed, repaired, recorded.

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::{DriftClass, DriftRecord, DriftState};

use crate::reconciler::{Agent, NEVER, OFTEN};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// An edit, and what must be on record of it.
struct Edit {
    lines: &'static [&'static str],
    class: DriftClass,
    chain: &'static str,
}

const RULE_EDITS: [Edit; 11] = [
    Edit {
        lines: &["iptables -D VF-SIP 1"],
        class: DriftClass::Missing,
        chain: "VF-SIP",
    },
    Edit {
        lines: &["ip6tables -D VF-INPUT 4"],
        class: DriftClass::Missing,
        chain: "VF-INPUT",
    },
    // A DROP turned into an ACCEPT, its comment kept.
    Edit {
        lines: &[
            "iptables -R VF-INPUT 2 -m set --match-set vf-list-1-4 src -m comment --comment \
             vf:deny -j ACCEPT",
        ],
        class: DriftClass::Altered,
        chain: "VF-INPUT",
    },
    Edit {
        lines: &[
            "ip6tables -R VF-INPUT 2 -m set --match-set vf-list-1-6 src -m comment --comment \
             vf:deny -j ACCEPT",
        ],
        class: DriftClass::Altered,
        chain: "VF-INPUT",
    },
    Edit {
        lines: &["iptables -I VF-SIP 1 -s 192.0.2.1 -j ACCEPT"],
        class: DriftClass::Extra,
        chain: "VF-SIP",
    },
    Edit {
        lines: &["ip6tables -A VF-FAILSAFE -j DROP"],
        class: DriftClass::Extra,
        chain: "VF-FAILSAFE",
    },
    Edit {
        lines: &["iptables -F VF-SITE1"],
        class: DriftClass::Missing,
        chain: "VF-SITE1",
    },
    Edit {
        lines: &["iptables -D INPUT -j VF-INPUT"],
        class: DriftClass::Missing,
        chain: "INPUT",
    },
    Edit {
        lines: &["ip6tables -F INPUT"],
        class: DriftClass::Missing,
        chain: "INPUT",
    },
    Edit {
        lines: &["iptables -I INPUT 1 -s 192.0.2.1 -j ACCEPT"],
        class: DriftClass::Bypass,
        chain: "INPUT",
    },
    Edit {
        lines: &["ip6tables -N VF-MINE", "ip6tables -A VF-MINE -j ACCEPT"],
        class: DriftClass::Extra,
        chain: "VF-MINE",
    },
];

const SET_EDITS: [Edit; 4] = [
    Edit {
        lines: &["ipset del vf-clients-4 203.0.113.0/24"],
        class: DriftClass::Set,
        chain: "vf-clients-4",
    },
    Edit {
        lines: &["ipset add vf-clients-6 2001:db8:bad::/48"],
        class: DriftClass::Set,
        chain: "vf-clients-6",
    },
    Edit {
        lines: &["ipset flush vf-list-1-4"],
        class: DriftClass::Set,
        chain: "vf-list-1-4",
    },
    Edit {
        lines: &["ipset create vf-mine-4 hash:net"],
        class: DriftClass::Set,
        chain: "vf-mine-4",
    },
];

fn make(place: &Place, agent: &Agent, edit: &Edit) {
    for line in edit.lines {
        place.tool(line);
    }
    let wanted = |record: &DriftRecord| {
        record.class() == edit.class
            && record.chain == edit.chain
            && record.repaired_after_ms.is_some()
    };
    let records = agent.records_until(|records| records.iter().any(wanted));
    let record = records.iter().find(|record| wanted(record)).unwrap();
    assert!(
        !record.wanted.is_empty() || !record.observed.is_empty(),
        "{record:?}"
    );
    if place.backend == Backend::Nft && edit.class != DriftClass::Set {
        let author = record.by.as_ref().expect("an author");
        let program = edit.lines.last().unwrap().split(' ').next().unwrap();
        assert_eq!(author.comm, program, "{record:?}");
        assert!(author.pid > 0);
    }
}

#[test]
fn every_edit_of_rules_is_repaired_and_recorded() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        // The kernel's announcements, or the xtables lock, must do: the poll never comes.
        let agent = Agent::start(place, NEVER);
        for edit in &RULE_EDITS {
            make(place, &agent, edit);
            let left = inspect(&mut system, &confirmed);
            assert!(left.is_clean(), "{:?}: {:?}", edit.lines, left.differences);
        }
        assert!(place.foreign().contains("f2b-sshd"));
    });
}

#[test]
fn every_edit_of_sets_is_repaired_and_recorded() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, OFTEN);
        for edit in &SET_EDITS {
            make(place, &agent, edit);
            let left = inspect(&mut system, &confirmed);
            assert!(left.is_clean(), "{:?}: {:?}", edit.lines, left.differences);
        }
    });
}

#[test]
fn full_flush_by_another_tool_is_repaired() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, OFTEN);
        for line in ["iptables -F", "iptables -X", "ipset flush"] {
            // Chains may be there again before -X comes: then it refuses, as it should.
            let words: Vec<&str> = line.split(' ').skip(1).collect();
            let _may_refuse = place
                .runner()
                .run(line.split(' ').next().unwrap(), &words, "");
        }
        agent.records_until(|records| {
            let of = |chain: &str| records.iter().any(|record| record.chain == chain);
            of("INPUT") && of("vf-clients-4")
        });
        // The last of the three edits may still be under repair.
        agent.reports_until(|| inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn changes_of_foreign_chains_are_not_drift() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        for line in [
            "iptables -I f2b-sshd 1 -s 192.0.2.100 -j REJECT",
            "iptables -D f2b-sshd 1",
            "iptables -Z",
            "iptables -I INPUT 1 -s 192.0.2.200 -j DROP",
            "iptables -A INPUT -s 192.0.2.201 -j ACCEPT",
            "iptables -A FORWARD -j ACCEPT",
            "iptables -P FORWARD DROP",
            "ipset add f2b-list 192.0.2.67",
            "ip6tables -A OUTPUT -j ACCEPT",
        ] {
            place.tool(line);
            let found = inspect(&mut system, &confirmed);
            assert!(found.is_clean(), "{line}: {:?}", found.differences);
        }
    });
}

#[test]
fn foreign_rule_that_iptables_cannot_print_is_left_alone() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let nft = place.runner().find("nft");
        assert!(nft.is_ok(), "this test needs nft (Debian package nftables)");
        let agent = Agent::start(place, OFTEN);
        // What iptables has no words for: a match of nft's own.
        place.tool("nft add rule ip filter INPUT ct state new counter accept");
        agent.warning_until("ct state new");
        assert_eq!(agent.outbox.last_status().drift(), DriftState::Clean);
        let rules = place.tool("nft list chain ip filter INPUT");
        assert!(rules.contains("ct state new"), "{rules}");
    });
}

#[test]
fn repeated_reverts_are_reported_as_contended() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        agent.reports_until(|| {
            // The rule may not be back yet: then there is nothing to delete.
            let _may_refuse = place.runner().run(
                "iptables",
                &[
                    "-D",
                    "VF-INPUT",
                    "-j",
                    "VF-SIP",
                    "-m",
                    "comment",
                    "--comment",
                    "vf:sip",
                ],
                "",
            );
            agent.outbox.last_status().drift() == DriftState::Contended
        });
    });
}

#[test]
fn unconfirmed_node_repairs_nothing() {
    in_namespace(Backend::Nft, |place| {
        let mut system = place.system();
        let agent = Agent::start(place, OFTEN);
        place.tool("iptables -N VF-INPUT");
        drop(agent);
        assert!(place.has_ours());
        recovery::teardown(&mut system, &place.ledger(), false).unwrap();
        assert!(!place.has_ours());
    });
}
