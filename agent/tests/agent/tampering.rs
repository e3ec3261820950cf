//! Changes of what nothing announces: sets, and legacy rules behind another lock.

use std::time::{Duration, Instant};

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::agent_message::Kind;
use voipfleet_proto::v1::{DriftClass, DriftRecord};

use crate::reconciler::{Agent, LIMIT, NEVER};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// An agent that polls never, with [`sample`] in force.
fn at_work(place: &Place) -> Agent {
    let (mut system, ledger) = (place.system(), place.ledger());
    install(&mut system, &ledger, 1, sample(1));
    Agent::start(place, NEVER)
}

/// Waits for a record of an act that is repaired.
fn repaired_act(agent: &Agent) -> DriftRecord {
    let found = async {
        loop {
            for message in agent.outbox.take() {
                if let Kind::Drift(report) = message {
                    let mut records = report.records.into_iter();
                    let whole = records.find(|it| it.all_repaired_after_ms().is_some());
                    if let Some(record) = whole {
                        return record;
                    }
                }
            }
            agent.outbox.filled().await;
        }
    };
    let found = async { tokio::time::timeout(LIMIT, found).await };
    agent.runtime.block_on(found).expect("a repair")
}

#[test]
fn edits_of_sets_are_repaired_without_a_poll() {
    on_both_backends(|place| {
        let agent = at_work(place);
        for (edits, differences) in [
            // Every set, of both families.
            ("flush", 5),
            ("add vf-clients-4 198.51.100.66", 1),
            ("del vf-clients-6 2001:db8:10::/48", 1),
            // As many as before.
            (
                "del vf-clients-4 10.0.1.1\nadd vf-clients-4 198.51.100.66",
                2,
            ),
            ("create vf-mine-4 hash:net", 1),
        ] {
            let before = place.everything();
            let runner = place.runner();
            runner.run("ipset", &["restore"], edits).unwrap();
            let changed = Instant::now();
            let act = repaired_act(&agent);
            let longest = Duration::from_millis(act.all_repaired_after_ms().unwrap());
            assert_eq!(act.count(), differences, "{edits:?}: {act:#?}");
            assert_eq!(act.class(), DriftClass::Set);
            assert!(act.unannounced && act.by.is_none(), "{act:?}");
            assert_eq!(place.everything(), before, "{edits:?}");
            // Since the look before the change: not from the moment when it was found.
            let stood = changed.elapsed();
            assert!(longest < stood + 2 * Duration::from_secs(1), "{longest:?}");
        }
    });
}

#[test]
fn record_counts_from_the_last_look_before_the_change() {
    in_namespace(Backend::Nft, |place| {
        let agent = at_work(place);
        // The first quick look is over once it has found something.
        place.tool("ipset flush vf-clients-4");
        repaired_act(&agent);
        for _ in 0..3 {
            place.tool("ipset flush vf-clients-4");
            let flushed = Instant::now();
            let mut seen_empty = flushed;
            let act = loop {
                if place
                    .tool("ipset list -t vf-clients-4")
                    .contains("entries: 0")
                {
                    seen_empty = Instant::now();
                    assert!(flushed.elapsed() < LIMIT, "it stays empty");
                    continue;
                }
                break repaired_act(&agent);
            };
            let longest = Duration::from_millis(act.all_repaired_after_ms().unwrap() + 1);
            let stood = seen_empty - flushed;
            assert!(longest >= stood, "{longest:?} of {stood:?}");
        }
    });
}

#[test]
fn legacy_rules_that_were_changed_under_another_lock_are_repaired_without_a_poll() {
    in_namespace(Backend::Legacy, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let own = system.own_processes();
        // As of a tool in a container with this network and a /run of its own.
        let lock = place.folder.path().join("xtables.lock");
        let agent = Agent::start_at(place, NEVER, Box::new(system), own, &lock);
        for edit in ["iptables -D VF-SIP 1", "ip6tables -F VF-INPUT"] {
            let before = place.everything();
            place.tool(edit);
            let act = repaired_act(&agent);
            assert!(act.unannounced && act.by.is_none(), "{act:?}");
            assert_eq!(place.everything(), before);
        }
    });
}

#[test]
fn flush_of_a_chain_is_one_act() {
    on_both_backends(|place| {
        let agent = at_work(place);
        place.tool("iptables -F VF-INPUT");
        let act = repaired_act(&agent);
        assert!(act.count() >= 7, "{act:#?}");
        let of_chain = |it: &voipfleet_proto::v1::DriftDifference| it.chain == "VF-INPUT";
        assert!(act.differences().all(|it| of_chain(&it)), "{act:#?}");
        assert!(!act.unannounced);
        // Nothing else is reported of it.
        let more = agent.records_within(Duration::from_millis(300));
        assert!(more.is_empty(), "{more:#?}");
    });
}

#[test]
fn edits_by_one_program_are_one_act() {
    in_namespace(Backend::Nft, |place| {
        let agent = at_work(place);
        // This test starts the tools, and is the author.
        let mut ids = Vec::new();
        for edit in [
            "iptables -F VF-SIP",
            "iptables -D INPUT -j VF-INPUT",
            "iptables -F VF-INPUT",
        ] {
            place.tool(edit);
            ids.push(repaired_act(&agent).id);
        }
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    });
}
