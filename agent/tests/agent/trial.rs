//! Trials, from the offer to what the kernel and the disk hold when they are over.

use std::time::{Duration, Instant};

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::{Backend, KernelEvent};
use voipfleet_agent::mailbox::{DialResult, Offered};
use voipfleet_proto::v1::{DriftClass, DriftState, NodeState};
use voipfleet_protocol::session::{Attempt, Held};
use voipfleet_ruleset::ruleset::Ruleset;

use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{
    Place, confirmed, held, in_namespace, is_back, on_both_backends, same, sample,
};

const SHORT: Duration = Duration::from_millis(300);

fn brief(nonce: u64, generation: u64, ruleset: &Ruleset) -> Offered {
    Offered {
        confirm_within: SHORT,
        ..offer(nonce, generation, ruleset)
    }
}

/// An agent that has confirmed generation 1, and all that the kernel holds then.
fn with_first(place: &Place) -> (Agent, String) {
    place.add_foreign_rules();
    let agent = Agent::start(place, NEVER);
    let status = agent.answer_to(offer(1, 1, &sample(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    (agent, place.everything())
}

#[test]
fn unconfirmed_trial_is_rolled_back_byte_for_byte() {
    on_both_backends(|place| {
        let (agent, before) = with_first(place);
        let attempt = agent.try_out(brief(2, 2, &sample(2)));
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack);
        assert_eq!(
            status.error,
            "no new connection to the controller came through the new rules within 0.3 s"
        );
        assert_eq!((status.generation, status.confirmed_generation), (2, 1));
        assert_eq!(status.drift(), DriftState::Clean);
        is_back(place, &before);

        // Once: what comes after it is none the worse.
        let status = agent.answer_to(offer(3, 3, &sample(3)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(confirmed(place), Some(3));
    });
}

#[test]
fn first_push_rolls_back_to_no_rules() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        let attempt = agent.try_out(brief(1, 1, &sample(1)));
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
        assert_eq!(status.confirmed_generation, 0);
        assert!(!place.has_ours());
        same(&before, &place.everything());
        assert_eq!(confirmed(place), None);
        assert!(place.ledger().journal().unwrap().is_none());
        drop(agent);
        let recovered = recovery::recover(&mut place.system(), &place.ledger());
        assert!(recovered.confirmed.is_none() && recovered.interrupted.is_none());
        same(&before, &place.everything());
    });
}

#[test]
fn unconfirmed_ruleset_is_not_persisted() {
    on_both_backends(|place| {
        let (agent, _) = with_first(place);
        let attempt = agent.try_out(offer(2, 2, &sample(2)));
        assert_eq!(confirmed(place), Some(1));
        let journal = place.ledger().journal().unwrap().unwrap();
        assert_eq!((journal.held, journal.nonce), (attempt.held, 2));

        // Of another delivery, number or content: it goes on waiting for the right one.
        let other = held(2, &sample(3));
        for wrong in [
            Attempt {
                nonce: 9,
                ..attempt
            },
            Attempt {
                nonce: 2,
                held: Held {
                    generation: 3,
                    ..attempt.held
                },
            },
            Attempt {
                nonce: 2,
                held: other,
            },
        ] {
            agent.inbox.confirm(wrong);
            // Answered after the confirmation was handled.
            let status = agent.answer_to(offer(8, 1, &sample(1)));
            assert_eq!(status.state(), NodeState::Rejected);
            assert!(status.error.contains("on trial"), "{}", status.error);
            assert_eq!(confirmed(place), Some(1));
        }
        agent.inbox.confirm(attempt);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(confirmed(place), Some(2));
        assert!(place.ledger().journal().unwrap().is_none());
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
    });
}

#[test]
fn confirmation_after_the_rollback_is_ignored() {
    on_both_backends(|place| {
        let (agent, before) = with_first(place);
        let attempt = agent.try_out(brief(2, 2, &sample(2)));
        agent.status_of(attempt, |state| state == NodeState::RolledBack);
        agent.inbox.confirm(attempt);
        // Answered after the confirmation was handled.
        let status = agent.answer_to(offer(3, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied);
        is_back(place, &before);
    });
}

#[test]
fn newer_offer_replaces_a_trial() {
    on_both_backends(|place| {
        let (agent, before) = with_first(place);
        agent.try_out(offer(2, 2, &sample(2)));
        // Refused before the kernel is touched: the trial goes on.
        let wrong = Offered {
            held: held(3, &sample(4)),
            ..offer(3, 3, &sample(3))
        };
        let status = agent.answer_to(wrong);
        assert_eq!(status.state(), NodeState::Rejected);
        assert_eq!(agent.outbox.last_status().state(), NodeState::Trial);
        assert_eq!(agent.outbox.last_status().nonce, 2);
        // The same again, under another delivery: the trial goes on under that.
        let again = agent.try_out(offer(4, 2, &sample(2)));
        assert_eq!(agent.outbox.last_status().nonce, again.nonce);

        // What to go back to stays what is confirmed.
        let newer = agent.try_out(brief(5, 3, &sample(3)));
        agent.inbox.confirm(again);
        let status = agent.status_of(newer, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack);
        is_back(place, &before);

        // The confirmed content under a newer number, in a trial: no trial of its own.
        agent.try_out(offer(6, 4, &sample(4)));
        let status = agent.answer_to(offer(7, 5, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        same(&before, &place.everything());
        assert_eq!(confirmed(place), Some(5));
        assert!(place.ledger().journal().unwrap().is_none());
    });
}

#[test]
fn stop_during_a_trial_rolls_back() {
    on_both_backends(|place| {
        let (agent, before) = with_first(place);
        agent.try_out(offer(2, 2, &sample(2)));
        assert_ne!(place.everything(), before);
        drop(agent);
        is_back(place, &before);
    });
}

#[test]
fn drift_during_a_trial_is_repaired_to_its_ruleset() {
    on_both_backends(|place| {
        let (agent, before) = with_first(place);
        let attempt = agent.try_out(offer(2, 2, &sample(2)));
        let tried = place.everything();
        place.tool("iptables -D VF-SITE2 1");
        if place.backend == Backend::Legacy {
            // No kernel event announces it.
            agent.inbox.changed(&KernelEvent::Lost, Instant::now());
        }
        let records = agent.records_until(|records| {
            records
                .iter()
                .any(|record| record.repaired_after_ms.is_some())
        });
        assert!(
            records.iter().all(|record| {
                record.class() == DriftClass::Missing && record.chain == "VF-SITE2"
            })
        );
        same(&tried, &place.everything());
        assert_eq!(agent.outbox.last_status().state(), NodeState::Trial);
        assert_eq!(agent.outbox.last_status().nonce, attempt.nonce);
        agent.inbox.confirm(attempt);
        agent.status_of(attempt, |state| state == NodeState::Applied);
        same(&tried, &place.everything());
        assert_ne!(tried, before);
    });
}

#[test]
fn failsafe_chain_follows_the_controllers_during_a_trial() {
    on_both_backends(|place| {
        let (agent, _) = with_first(place);
        let attempt = agent.try_out(brief(2, 2, &sample(2)));
        let done = agent
            .inbox
            .controllers(vec!["198.51.100.7:7443".parse().unwrap()]);
        agent.runtime.block_on(done).unwrap();
        agent.status_of(attempt, |state| state == NodeState::RolledBack);
        // The undo went back to rules that know nothing of it yet.
        let rules = place.tool("iptables-save -t filter");
        assert!(rules.contains("198.51.100.7/32"), "{rules}");
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert_eq!(confirmed.held.generation, 1);
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
    });
}

#[test]
fn rollback_names_what_was_missing() {
    in_namespace(Backend::Nft, |place| {
        let (agent, _) = with_first(place);
        for (nonce, dialled, words) in [
            (
                2,
                DialResult::Failed("the controller at c:1 did not answer".to_owned()),
                "came through the new rules within 0.3 s: the controller at c:1 did not answer",
            ),
            (
                3,
                DialResult::Welcomed,
                "did not confirm generation 3 within 0.3 s",
            ),
        ] {
            agent.inbox.dialled(nonce, dialled);
            let attempt = agent.try_out(brief(nonce, nonce, &sample(2)));
            let status = agent.status_of(attempt, |state| state == NodeState::RolledBack);
            assert!(status.error.ends_with(words), "{}", status.error);
        }
    });
}
