//! Undos that fail at first, and journals that take no writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use voipfleet_proto::v1::{NodeState, NodeStatus};
use voipfleet_testkit::kernel::Call;

use crate::intercepted::failing_while;
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, on_both_backends, same, sample};

/// An agent whose trial of generation 2 is over, and could not be undone.
fn cannot_go_back(place: &Place) -> (Agent, Arc<AtomicBool>, String) {
    place.add_foreign_rules();
    let (kernel, stuck) = failing_while(place, |call| matches!(call, Call::Restore(..)));
    let own = kernel.kernel.own_processes();
    let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
    let status = agent.answer_to(offer(1, 1, &sample(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    let before = place.everything();
    let mut brief = offer(2, 2, &sample(2));
    brief.confirm_within = Duration::from_millis(300);
    let attempt = agent.try_out(brief);
    stuck.store(true, Ordering::SeqCst);
    let status = agent.status_of(attempt, |state| state != NodeState::Trial);
    assert_eq!(status.state(), NodeState::Failed);
    assert!(status.error.contains("the rollback failed too"));
    assert!(status.undo_due);
    (agent, stuck, before)
}

#[test]
fn confirmed_generation_fails_while_its_rollback_is_stuck() {
    on_both_backends(|place| {
        let (agent, stuck, before) = cannot_go_back(place);
        // The same again, and the same under a newer number, as `voipctl rollback` offers it.
        for (nonce, generation) in [(3, 1), (4, 3)] {
            let status = agent.answer_to(offer(nonce, generation, &sample(1)));
            assert_eq!(status.state(), NodeState::Failed, "generation {generation}");
            assert!(status.error.contains("the rollback"), "{}", status.error);
            assert!(place.ledger().journal().unwrap().is_some());
        }
        stuck.store(false, Ordering::SeqCst);
        let status = agent.answer_to(offer(5, 3, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        same(&before, &place.everything());
        assert!(place.ledger().journal().unwrap().is_none());
    });
}

#[test]
fn failed_rollback_is_retried_before_the_next_poll() {
    on_both_backends(|place| {
        let (agent, stuck, before) = cannot_go_back(place);
        stuck.store(false, Ordering::SeqCst);
        let done = |status: &NodeStatus| status.error.ends_with("and is done now");
        let statuses = agent.statuses_until(done);
        let status = statuses.into_iter().find(done).unwrap();
        // What was tried is told, so that it is not offered again.
        assert_eq!(
            (status.state(), status.generation),
            (NodeState::RolledBack, 2)
        );
        assert_eq!((status.confirmed_generation, status.undo_due), (1, false));
        same(&before, &place.everything());
        assert!(place.ledger().journal().unwrap().is_none());
    });
}

#[test]
fn superseded_trial_that_cannot_be_undone_fails_the_offer_and_leaves_what_is_confirmed() {
    on_both_backends(|place| {
        let (kernel, stuck) = failing_while(place, |call| matches!(call, Call::Restore(..)));
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        let status = agent.answer_to(offer(1, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let before = place.everything();
        agent.try_out(offer(2, 2, &sample(2)));
        stuck.store(true, Ordering::SeqCst);
        // The confirmed content under a newer number ends the trial.
        let status = agent.answer_to(offer(3, 3, &sample(1)));
        assert_eq!((status.state(), status.generation), (NodeState::Failed, 3));
        let words = "the rollback of an earlier push fails, and is being retried: ";
        assert!(status.error.starts_with(words), "{}", status.error);
        stuck.store(false, Ordering::SeqCst);
        // Generation 3 never ran: the node reports what does.
        let applied = |status: &NodeStatus| status.state() == NodeState::Applied;
        let statuses = agent.statuses_until(applied);
        let status = statuses.into_iter().find(applied).unwrap();
        assert_eq!((status.generation, status.confirmed_generation), (1, 1));
        assert_eq!(status.error, "");
        same(&before, &place.everything());
        assert!(place.ledger().journal().unwrap().is_none());
        let status = agent.answer_to(offer(4, 3, &sample(1)));
        assert_eq!((status.state(), status.generation), (NodeState::Applied, 3));
    });
}

#[test]
fn trial_stays_in_the_journal_when_a_newer_one_cannot_be_written() {
    on_both_backends(|place| {
        let agent = Agent::start(place, NEVER);
        let attempt = agent.try_out(offer(1, 1, &sample(1)));
        let in_the_way = place.folder.path().join("ledger/journal.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let status = agent.answer_to(offer(2, 2, &sample(2)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("journal"), "{}", status.error);
        // Else a kill would leave an unconfirmed ruleset in the kernel for good.
        let journal = place.ledger().journal().unwrap().map(|noted| noted.held);
        assert_eq!(journal, Some(attempt.held));
        std::fs::remove_dir(&in_the_way).unwrap();
    });
}
