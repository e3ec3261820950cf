//! Edits that take away more than a rule: tables, chains and sets as a whole, by any tool.

use std::time::Instant;

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::kernel::{Author, Backend, KernelEvent, Reach, Transaction};
use voipfleet_agent::ledger::Confirmed;
use voipfleet_proto::v1::DriftRecord;

use crate::reconciler::{Agent, LIMIT, NEVER, OFTEN};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// Edits with the tools of either backend. Each line may be refused: that is no drift.
const EDITS: [&[&str]; 24] = [
    &["iptables -E VF-SIP VF-OTHER"],
    &[
        "iptables -E VF-SIP other",
        "iptables -F other",
        "iptables -X other",
    ],
    &["ip6tables -E VF-INPUT other"],
    &[
        "ip6tables -F other",
        "ip6tables -D INPUT -j other",
        "ip6tables -X other",
    ],
    &["iptables -E VF-FAILSAFE VF-FAILSAFE2"],
    &["iptables -I VF-FAILSAFE 1 -j DROP"],
    &["iptables -I VF-INPUT 1 -j RETURN"],
    &["ip6tables -I INPUT 1 -j RETURN"],
    &["ip6tables -D INPUT -j RETURN"],
    &[
        "iptables -A INPUT -j VF-INPUT",
        "iptables -A INPUT -j VF-INPUT",
    ],
    &["iptables -I INPUT 1 -p udp -j VF-INPUT"],
    &[
        "iptables -D INPUT -j VF-INPUT",
        "iptables -A INPUT -s 10.0.0.0/8 -j VF-INPUT",
    ],
    &["iptables -I INPUT 1 -g VF-INPUT"],
    &["iptables -A FORWARD -j VF-SIP"],
    &["iptables -D FORWARD -j VF-SIP"],
    &[
        "iptables -N VF-EVIL",
        "iptables -A VF-EVIL -j ACCEPT",
        "iptables -I INPUT 1 -j VF-EVIL",
    ],
    &[
        "iptables -F INPUT",
        "iptables -F VF-INPUT",
        "iptables -F VF-SIP",
        "iptables -F VF-SITE1",
        "ipset destroy",
    ],
    &[
        "ipset create swapped hash:net family inet",
        "ipset swap swapped vf-clients-4",
    ],
    &["ipset destroy swapped"],
    &[
        "ipset create wide hash:net family inet maxelem 7",
        "ipset add wide 0.0.0.0/1",
        "ipset swap wide vf-clients-4",
    ],
    &["ipset destroy wide"],
    &[
        "ipset create timed hash:net family inet6 timeout 60 comment",
        "ipset swap timed vf-clients-6",
    ],
    &["ipset destroy timed"],
    &["ipset add vf-clients-4 10.99.0.0/16 nomatch"],
];

const NFT_EDITS: [&[&str]; 9] = [
    &["nft delete table ip filter"],
    &["nft delete table ip6 filter"],
    &["nft flush ruleset"],
    &["nft flush table ip filter"],
    &[
        "nft delete table ip filter",
        "nft delete table ip6 filter",
        "ipset destroy",
    ],
    &["nft insert rule ip filter VF-SIP accept"],
    &["nft insert rule ip6 filter INPUT counter accept"],
    &["nft flush chain ip6 filter VF-INPUT"],
    &["nft add chain ip filter VF-NEW"],
];

fn settles(place: &Place, confirmed: &Confirmed, lines: &[&str]) {
    let mut system = place.system();
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = inspect(&mut system, confirmed);
        if found.is_clean() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{:?} after {lines:?}: {:#?}",
            place.backend,
            found.differences
        );
    }
}

#[test]
fn every_removed_part_is_restored() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let _agent = Agent::start(place, OFTEN);
        let more: &[&[&str]] = match place.backend {
            Backend::Nft => &NFT_EDITS,
            Backend::Legacy => &[],
        };
        for lines in EDITS.iter().chain(more) {
            for line in *lines {
                let words: Vec<&str> = line.split(' ').collect();
                let (program, arguments) = words.split_first().unwrap();
                let _may_refuse = place.runner().run(program, arguments, "");
            }
            settles(place, &confirmed, lines);
        }
    });
}

#[test]
fn missing_set_is_recreated_before_its_rules_are_repaired() {
    // Without a poll, and before the lock's events are read: one inspection, at the end.
    in_namespace(Backend::Legacy, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        let lines = ["ip6tables -F VF-INPUT", "ipset destroy vf-list-1-6"];
        for line in lines {
            place.tool(line);
        }
        let author = Some(Box::new(Author::named(4711, "ip6tables".to_owned())));
        let event = KernelEvent::Changed(Transaction {
            author,
            v4: Reach::Nothing,
            v6: Reach::Ours,
        });
        agent.inbox.changed(&event, Instant::now());
        settles(place, &confirmed, &lines);
        let repaired = |record: &DriftRecord, chain: &str| {
            record.chain == chain && record.repaired_after_ms.is_some()
        };
        let records = agent.records_until(|records| {
            let of = |chain| records.iter().any(|record| repaired(record, chain));
            of("VF-INPUT") && of("vf-list-1-6")
        });
        for record in records {
            let by = record.by.as_ref().map(|author| author.pid);
            assert_eq!(by, (record.table != "ipset").then_some(4711), "{record:?}");
        }
    });
}

#[test]
fn every_edit_in_a_row_has_its_author() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Faster than repairs: some come while one is under way.
                for number in 1..=30 {
                    place.tool(&format!(
                        "iptables -I INPUT 1 -s 192.0.2.{number} -j ACCEPT"
                    ));
                }
                place.tool("iptables -F VF-SIP");
            });
            let is_last = |record: &DriftRecord| record.chain == "VF-SIP";
            for record in agent.records_until(|records| records.iter().any(is_last)) {
                let author = record.by.as_ref().expect("an author");
                assert_eq!(author.comm, "iptables", "{record:?}");
            }
        });
        settles(place, &confirmed, &["thirty edits"]);
    });
}
