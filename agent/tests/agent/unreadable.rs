//! Rules and sets that cannot be read in any way, and rules with bytes that are no text.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_proto::v1::{self as pb, DriftClass, DriftRecord, DriftState, NodeState, NodeStatus};
use voipfleet_ruleset::ruleset::Family;
use voipfleet_testkit::kernel::Call;

use crate::intercepted::failing_while;
use crate::reconciler::{Agent, NEVER, OFTEN, offer};
use crate::support::{Place, confirmed, install, on_both_backends, same, sample};

/// An agent that runs generation 1, and a switch that makes a part of the kernel unreadable.
fn unreadable(place: &Place, picks: fn(&Call<'_>) -> bool) -> (Agent, Arc<AtomicBool>) {
    place.add_foreign_rules();
    let (kernel, hidden) = failing_while(place, picks);
    let own = kernel.kernel.own_processes();
    let agent = Agent::start_with(place, OFTEN, Box::new(kernel), own);
    let status = agent.answer_to(offer(1, 1, &sample(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    (agent, hidden)
}

fn rules_of_v4(call: &Call<'_>) -> bool {
    matches!(call, Call::Save(Family::V4) | Call::List(Family::V4))
}

fn rules(call: &Call<'_>) -> bool {
    matches!(call, Call::Save(_) | Call::List(_))
}

fn sets(call: &Call<'_>) -> bool {
    matches!(call, Call::SaveSets | Call::SaveSetsOf(_) | Call::ListSets)
}

#[test]
fn unreadable_family_is_reported_and_the_rest_repaired() {
    on_both_backends(|place| {
        let (agent, hidden) = unreadable(place, rules_of_v4);
        hidden.store(true, Ordering::SeqCst);
        let unreadable = |record: &DriftRecord| record.class() == DriftClass::Unreadable;
        let records = agent.records_until(|records| records.iter().any(unreadable));
        let record = records.iter().find(|record| unreadable(record)).unwrap();
        assert_eq!(record.family(), pb::Family::V4);
        let has = |state| move |status: &NodeStatus| status.drift() == state;
        if !has(DriftState::Unreadable)(&agent.outbox.last_status()) {
            agent.statuses_until(has(DriftState::Unreadable));
        }
        // More polls than contention takes: it is none, and it is reported once.
        for round in 0..12 {
            let (line, chain, class) = match round % 2 {
                0 => ("ip6tables -D VF-SIP 1", "VF-SIP", DriftClass::Missing),
                _ => ("ipset flush vf-list-1-4", "vf-list-1-4", DriftClass::Set),
            };
            place.tool(line);
            let is = |record: &DriftRecord| record.repaired_after_ms.is_some();
            let records = agent.records_until(|records| records.iter().any(is));
            for record in &records {
                assert_eq!((record.chain.as_str(), record.class()), (chain, class));
            }
            let state = agent.outbox.last_status().drift();
            assert_eq!(state, DriftState::Unreadable);
        }
        hidden.store(false, Ordering::SeqCst);
        agent.drift_until(DriftState::Clean);
    });
}

#[test]
fn push_to_a_kernel_that_cannot_be_read_changes_nothing() {
    on_both_backends(|place| {
        for picks in [rules_of_v4, rules, sets] {
            let (agent, hidden) = unreadable(place, picks);
            let before = place.everything();
            hidden.store(true, Ordering::SeqCst);
            let status = agent.answer_to(offer(2, 2, &sample(2)));
            assert_eq!(status.state(), NodeState::Rejected, "{}", status.error);
            assert!(
                status.error.contains("nothing was changed"),
                "{}",
                status.error
            );
            assert_eq!(status.confirmed_generation, 1);
            same(&before, &place.everything());
            assert!(place.ledger().journal().unwrap().is_none());
            hidden.store(false, Ordering::SeqCst);
            drop(agent);
            place.tool("iptables -F");
            place.tool("iptables -X");
            place.tool("ip6tables -F");
            place.tool("ip6tables -X");
            place.tool("ipset destroy");
            std::fs::remove_dir_all(place.folder.path().join("ledger")).unwrap();
        }
    });
}

#[test]
fn confirmed_ruleset_is_what_runs_where_a_restart_cannot_read_the_rules() {
    on_both_backends(|place| {
        let (agent, _) = unreadable(place, rules);
        drop(agent);
        let before = place.everything();
        // Our own chain can still be listed.
        let (kernel, hidden) = failing_while(place, |call| matches!(call, Call::Save(_)));
        hidden.store(true, Ordering::SeqCst);
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, OFTEN, Box::new(kernel), own);
        agent.drift_until(DriftState::Clean);
        let status = agent.outbox.last_status();
        assert_eq!(
            (status.state(), status.confirmed_generation),
            (NodeState::Applied, 1)
        );
        assert_eq!((status.error.as_str(), status.open.as_str()), ("", ""));
        same(&before, &place.everything());
        assert_eq!(confirmed(place), Some(1));
    });
}

#[test]
fn no_failure_leaves_sets_of_two_generations() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let (kernel, stuck) = failing_while(place, |call| matches!(call, Call::Restore(..)));
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, OFTEN, Box::new(kernel), own);
        let status = agent.answer_to(offer(1, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let before = place.everything();
        // Its sets are filled, and its rules cannot be loaded.
        stuck.store(true, Ordering::SeqCst);
        let status = agent.answer_to(offer(2, 2, &sample(2)));
        assert_eq!(status.state(), NodeState::Failed, "{}", status.error);
        same(&before, &place.everything());
        stuck.store(false, Ordering::SeqCst);

        // Its rules were loaded, and those before cannot be: the sets are those before.
        agent.try_out(offer(3, 3, &sample(3)));
        stuck.store(true, Ordering::SeqCst);
        let status = agent.answer_to(offer(4, 4, &sample(1)));
        assert!(status.undo_due, "{}", status.error);
        let saved = place.tool("ipset save vf-clients-4");
        assert!(saved.contains("add vf-clients-4 10.0.1.1"), "{saved}");
        assert!(!saved.contains("10.0.3.1"), "{saved}");
        stuck.store(false, Ordering::SeqCst);
        agent.statuses_until(|status| !status.undo_due);
        same(&before, &place.everything());
    });
}

#[test]
fn foreign_rules_with_invalid_utf8_hide_no_drift() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        // As an editor of ISO 8859 writes it.
        let foreign = place.folder.path().join("foreign");
        std::fs::write(
            &foreign,
            b"*filter\n:caf\xe9 - [0:0]\n-A caf\xe9 -m comment --comment \"\xe9t\xe9\" -j DROP\n\
              -I INPUT 1 -m comment --comment \"\xe9t\xe9\" -j caf\xe9\n\
              -I INPUT 1 -m comment --comment \"\xe8\" -p udp -j VF-SIP\nCOMMIT\n",
        )
        .unwrap();
        place.tool(&format!("iptables-restore --noflush {}", foreign.display()));
        place.tool("iptables -D VF-SIP 1");
        let repaired = |records: &[DriftRecord], class| {
            let is = |r: &DriftRecord| r.class() == class && r.repaired_after_ms.is_some();
            records.iter().any(is)
        };
        let records = agent.records_until(|records| {
            repaired(records, DriftClass::Extra) && repaired(records, DriftClass::Missing)
        });
        let unreadable = |record: &DriftRecord| record.class() == DriftClass::Unreadable;
        assert!(!records.iter().any(unreadable), "{records:?}");
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}
