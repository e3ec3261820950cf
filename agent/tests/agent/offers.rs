//! Offers, from the inbox to the status that answers them.

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::mailbox::{Content, Offered};
use voipfleet_proto::v1::{DriftState, NodeState, NodeStatus};
use voipfleet_ruleset::ruleset::Ruleset;

use crate::intercepted::failing_at;
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{on_both_backends, sample};

/// Offers it to the agent, and waits for what ends it.
pub(crate) fn answer(agent: &Agent, nonce: u64, generation: u64, ruleset: &Ruleset) -> NodeStatus {
    agent.answer_to(offer(nonce, generation, ruleset))
}

#[test]
fn each_offer_gets_one_answer() {
    on_both_backends(|place| {
        let agent = Agent::start(place, NEVER);
        let (first, second) = (sample(1), sample(2));

        let status = answer(&agent, 11, 5, &first);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!((status.generation, status.confirmed_generation), (5, 5));
        assert_eq!(status.digest, first.digest().as_bytes());
        assert_eq!(status.drift(), DriftState::Clean);

        // The same again, and the same under a newer number: nothing is applied.
        let status = answer(&agent, 12, 5, &first);
        assert_eq!(
            (status.state(), status.confirmed_generation),
            (NodeState::Applied, 5)
        );
        let status = answer(&agent, 13, 6, &first);
        assert_eq!(
            (status.state(), status.confirmed_generation),
            (NodeState::Applied, 6)
        );

        for (nonce, generation, ruleset, words) in [
            (14, 5, &second, "older than the confirmed 6"),
            (15, 6, &second, "another digest"),
            (16, 0, &second, "generation 0"),
        ] {
            let status = answer(&agent, nonce, generation, ruleset);
            assert_eq!(status.state(), NodeState::Rejected);
            assert!(status.error.contains(words), "{}", status.error);
            assert_eq!(status.confirmed_generation, 6);
        }
        let wrong = Offered {
            content: Content::Bytes(first.encode()),
            ..offer(17, 7, &second)
        };
        let status = agent.answer_to(wrong);
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("digest"), "{}", status.error);

        let status = answer(&agent, 18, 8, &second);
        assert_eq!(
            (status.state(), status.confirmed_generation),
            (NodeState::Applied, 8)
        );
        drop(agent);
        // A graceful end leaves the rules, and what a restart should know.
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert_eq!(confirmed.held.generation, 8);
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
    });
}

#[test]
fn failed_apply_is_rolled_back_and_reported() {
    on_both_backends(|place| {
        let kernel = failing_at(place, 6); // of the second apply: the IPv6 rules
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        let first = sample(1);
        let status = answer(&agent, 1, 1, &first);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let status = answer(&agent, 2, 2, &sample(2));
        assert_eq!(status.state(), NodeState::Failed);
        assert!(status.error.contains("out of memory"), "{}", status.error);
        assert_eq!((status.generation, status.confirmed_generation), (2, 1));
        assert_eq!(status.confirmed_digest, first.digest().as_bytes());
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
        // The next push is none the worse for it.
        let status = answer(&agent, 3, 3, &sample(3));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    });
}

#[test]
fn failsafe_chain_follows_the_controllers() {
    on_both_backends(|place| {
        let agent = Agent::start(place, NEVER);
        let dial = |address: &str| {
            let done = agent.inbox.controllers(vec![address.parse().unwrap()]);
            agent.runtime.block_on(done).unwrap();
        };
        dial("198.51.100.7:7443");
        answer(&agent, 1, 1, &sample(1));
        assert!(
            place
                .tool("iptables-save -t filter")
                .contains("198.51.100.7/32")
        );
        dial("[2001:db8:c::8]:7443");
        assert!(
            !place
                .tool("iptables-save -t filter")
                .contains("198.51.100.7")
        );
        assert!(
            place
                .tool("ip6tables-save -t filter")
                .contains("2001:db8:c::8/128")
        );
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
    });
}
