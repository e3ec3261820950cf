//! Dynamic sets that change while a ruleset is on trial.

use std::time::Duration;

use voipfleet_agent::mailbox::Offered;
use voipfleet_proto::v1::NodeState;

use super::{elements, first, is_as_wanted, naming, takes, with};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{confirmed, on_both_backends, same};

#[test]
fn dynamic_sets_change_both_the_trial_and_the_confirmed_ruleset() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let agent = Agent::start(place, NEVER);
        let blocked = with(&first(), "block", &["203.0.113.9/32"]);
        takes(&agent, &blocked);
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let after = place.everything();
        takes(&agent, &first());

        let brief = Offered {
            confirm_within: Duration::from_secs(2),
            ..offer(2, 2, &naming(2))
        };
        let attempt = agent.try_out(brief);
        let status = takes(&agent, &blocked);
        assert_eq!(status.state(), NodeState::Trial);
        assert_eq!((status.nonce, status.confirmed_generation), (2, 1));
        assert!(elements(place, "vf-list-2-4").contains(&"203.0.113.9".to_owned()));
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
        assert_eq!(status.dynamic_digest, blocked.digest().as_bytes());
        same(&after, &place.everything());
        is_as_wanted(place);

        // And one that is confirmed keeps what came meanwhile.
        let attempt = agent.try_out(offer(3, 3, &naming(2)));
        takes(&agent, &first());
        takes(&agent, &blocked);
        agent.inbox.confirm(attempt);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(confirmed(place), Some(3));
        assert!(elements(place, "vf-list-2-4").contains(&"203.0.113.9".to_owned()));
        is_as_wanted(place);
    });
}

#[test]
fn stop_during_a_trial_rolls_back_to_the_newest_dynamic_sets() {
    on_both_backends(|place| {
        let agent = Agent::start(place, NEVER);
        takes(&agent, &first());
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        agent.try_out(offer(2, 2, &naming(2)));
        takes(&agent, &with(&first(), "cluster", &["10.20.0.12/32"]));
        drop(agent);
        assert_eq!(confirmed(place), Some(1));
        assert_eq!(
            elements(place, "vf-clients-4"),
            ["10.0.1.1", "10.20.0.12", "203.0.113.0/24"]
        );
        is_as_wanted(place);
    });
}
