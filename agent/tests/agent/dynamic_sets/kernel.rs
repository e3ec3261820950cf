//! From what the link hands over to the sets of the kernel.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::{DriftState, NodeState, NodeStatus};

use super::{elements, ending, first, give, is_as_wanted, naming, takes, with, without};
use voipfleet_testkit::kernel::Call;

use crate::intercepted::{failing_while, recorded};
use crate::reconciler::{Agent, LIMIT, NEVER, OFTEN, offer};
use crate::support::{Place, in_namespace, on_both_backends, same};

/// An agent that runs the ruleset that names dynamic sets.
fn with_first(place: &Place) -> Agent {
    let agent = Agent::start(place, NEVER);
    takes(&agent, &first());
    let status = agent.answer_to(offer(1, 1, &naming(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    agent
}

#[test]
fn change_of_dynamic_sets_writes_only_its_elements() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let (kernel, given) = recorded(place, None);
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        takes(&agent, &first());
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(
            elements(place, "vf-clients-4"),
            ["10.0.1.1", "10.20.0.11", "203.0.113.0/24"]
        );
        assert_eq!(
            elements(place, "vf-list-1-6"),
            ["2001:db8:66:1::/64", "2001:db8:66::/64"]
        );
        is_as_wanted(place);
        let before = place.everything();
        let counted = status.sets.unwrap();

        given.lock().unwrap().clear();
        let blocked = with(&first(), "block", &["203.0.113.9/32", "2001:db8:10::9/128"]);
        let status = takes(&agent, &blocked);
        assert_eq!(status.dynamic_error, "");
        assert_eq!((status.generation, status.confirmed_generation), (1, 1));
        assert_eq!(status.drift(), DriftState::Clean);
        let lines = [
            "add vf-list-1-4 203.0.113.9/32 -exist\n",
            "add vf-list-1-6 2001:db8:10::9/128 -exist\n",
        ];
        assert_eq!(*given.lock().unwrap(), lines.concat());
        let sets = status.sets.unwrap();
        let two_more = (counted.enforced + 2, counted.wanted + 2);
        assert_eq!((sets.enforced, sets.wanted), two_more);
        is_as_wanted(place);

        given.lock().unwrap().clear();
        takes(&agent, &first());
        let lines = [
            "del vf-list-1-4 203.0.113.9/32 -exist\n",
            "del vf-list-1-6 2001:db8:10::9/128 -exist\n",
        ];
        assert_eq!(*given.lock().unwrap(), lines.concat());
        same(&before, &place.everything());

        // A member leaves and another comes; a source that no rule names changes nothing.
        given.lock().unwrap().clear();
        let moved = with(&first(), "cluster", &["10.20.0.12/32"]);
        takes(&agent, &with(&moved, "open", &["0.0.0.0/1"]));
        assert_eq!(
            elements(place, "vf-clients-4"),
            ["10.0.1.1", "10.20.0.12", "203.0.113.0/24"]
        );
        assert_eq!(elements(place, "vf-clients-6"), ["2001:db8:10::/48"]);
        assert!(!given.lock().unwrap().contains("list-1"));
        is_as_wanted(place);
    });
}

#[test]
fn dynamic_sets_are_restored_at_boot_without_a_controller() {
    on_both_backends(|place| {
        let agent = with_first(place);
        takes(&agent, &with(&first(), "block", &["203.0.113.9/32"]));
        let before = place.everything();
        drop(agent);
        let (mut system, ledger) = (place.system(), place.ledger());
        recovery::teardown(&mut system, &ledger, false).unwrap();
        assert!(!place.has_ours());
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none() && recovered.fallback.is_none());
        same(&before, &place.everything());
        // And a start reports them.
        let agent = Agent::start(place, NEVER);
        let reported = agent.outbox.last_status().dynamic_digest;
        let blocked = with(&first(), "block", &["203.0.113.9/32"]);
        assert_eq!(reported, blocked.digest().as_bytes());
        recovery::teardown(&mut system, &ledger, true).unwrap();
        let left = std::fs::read_dir(place.folder.path().join("ledger")).unwrap();
        assert_eq!(left.count(), 0, "purged");
    });
}

#[test]
fn expired_entry_is_removed_by_the_kernel_without_drift() {
    on_both_backends(|place| {
        let agent = with_first(place);
        let blocked = ending(
            &first(),
            "block",
            &["203.0.113.9/32", "2001:db8:10::9/128"],
            2,
        );
        takes(&agent, &blocked);
        let timed = elements(place, "vf-list-1-4");
        assert!(
            timed
                .iter()
                .any(|one| one.starts_with("203.0.113.9 timeout ")),
            "{timed:?}"
        );
        let deadline = Instant::now() + LIMIT;
        for set in ["vf-list-1-4", "vf-list-1-6"] {
            while elements(place, set).len() > 2 {
                assert!(Instant::now() < deadline, "{set}: it stays");
            }
        }
        is_as_wanted(place);
        // One that is over when it comes is none.
        let over = ending(&first(), "block", &["203.0.113.10/32"], 0);
        takes(&agent, &over);
        assert_eq!(elements(place, "vf-list-1-4").len(), 2);
        is_as_wanted(place);
        assert_eq!(agent.outbox.last_status().drift(), DriftState::Clean);
        assert!(agent.records_within(Duration::ZERO).is_empty());
    });
}

#[test]
fn offer_with_an_unknown_dynamic_set_is_refused_by_name() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("it uses allow"), "{}", status.error);
        takes(&agent, &without(&first(), "deny-feed:bad"));
        let status = agent.answer_to(offer(2, 2, &naming(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        let words = "it uses deny-feed:bad";
        assert!(status.error.contains(words), "{}", status.error);
        same(&before, &place.everything());
        takes(&agent, &first());
        let status = agent.answer_to(offer(3, 3, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        is_as_wanted(place);
    });
}

#[test]
fn source_that_is_sent_no_more_keeps_its_last_content() {
    in_namespace(Backend::Nft, |place| {
        let agent = with_first(place);
        let before = place.everything();
        let fewer = without(&first(), "deny-feed:bad");
        takes(&agent, &fewer);
        same(&before, &place.everything());
        // Also over a boot, and while others change.
        takes(&agent, &with(&fewer, "block", &["203.0.113.9/32"]));
        drop(agent);
        let (mut system, ledger) = (place.system(), place.ledger());
        recovery::teardown(&mut system, &ledger, false).unwrap();
        assert!(recovery::recover(&mut system, &ledger).failed.is_none());
        assert_eq!(
            elements(place, "vf-list-1-4"),
            ["192.0.2.0/28", "198.18.66.0/24", "203.0.113.9"]
        );
        // A new push may not name it.
        let agent = Agent::start(place, NEVER);
        let status = agent.answer_to(offer(2, 2, &naming(2)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("deny-feed:bad"), "{}", status.error);
    });
}

#[test]
fn sets_changed_by_others_are_repaired_with_the_change() {
    on_both_backends(|place| {
        let agent = with_first(place);
        for edit in [
            "ipset flush vf-list-1-4",
            "ipset add vf-list-1-4 192.0.2.77",
            "ipset add vf-list-1-4 203.0.113.9",
        ] {
            place.tool(edit);
        }
        takes(&agent, &with(&first(), "block", &["203.0.113.9/32"]));
        is_as_wanted(place);
        place.tool("ipset flush vf-clients-4");
        takes(&agent, &first());
        takes(&agent, &with(&first(), "allow", &["198.51.100.66/32"]));
        is_as_wanted(place);
    });
}

#[test]
fn refused_dynamic_sets_are_reported_and_retried() {
    on_both_backends(|place| {
        let (kernel, stuck) = failing_while(place, |call| matches!(call, Call::RestoreSets(_)));
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        takes(&agent, &first());
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let before = place.everything();
        stuck.store(true, Ordering::SeqCst);
        let blocked = with(&first(), "block", &["203.0.113.9/32"]);
        give(&agent, &blocked);
        let failed = |status: &NodeStatus| !status.dynamic_error.is_empty();
        let statuses = agent.statuses_until(failed);
        let status = statuses.iter().find(|status| failed(status)).unwrap();
        assert!(status.dynamic_error.contains("out of memory"), "{status:?}");
        assert_eq!(status.dynamic_digest, b"");
        assert_eq!(status.state(), NodeState::Applied);
        same(&before, &place.everything());
        stuck.store(false, Ordering::SeqCst);
        let digest = blocked.digest();
        let statuses = agent.statuses_until(|status| status.dynamic_digest == digest.as_bytes());
        assert_eq!(statuses.last().unwrap().dynamic_error, "");
        is_as_wanted(place);
    });
}

#[test]
fn drift_of_dynamic_sets_is_repaired() {
    in_namespace(Backend::Nft, |place| {
        drop(with_first(place));
        let agent = Agent::start(place, OFTEN);
        place.tool("ipset del vf-clients-4 10.20.0.11");
        let records =
            agent.records_until(|records| records.iter().any(|r| r.repaired_after_ms.is_some()));
        assert_eq!(records[0].wanted, "10.20.0.11/32");
        is_as_wanted(place);
    });
}

#[test]
fn dynamic_sets_of_another_site_are_refused() {
    in_namespace(Backend::Nft, |place| {
        let agent = with_first(place);
        let before = place.everything();
        let mut foreign = first();
        foreign.site = "site-b".parse().unwrap();
        give(&agent, &with(&foreign, "block", &["203.0.113.9/32"]));
        let words = "those of site site-b, not site-a";
        agent.statuses_until(|status| status.dynamic_error.contains(words));
        same(&before, &place.everything());
        let held = first();
        assert_eq!(
            agent.outbox.last_status().dynamic_digest,
            held.digest().as_bytes()
        );
        // A push that may rest on them waits for better ones.
        let status = agent.answer_to(offer(2, 2, &naming(2)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains(words), "{}", status.error);
        takes(&agent, &held);
        let status = agent.answer_to(offer(3, 3, &naming(2)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    });
}
