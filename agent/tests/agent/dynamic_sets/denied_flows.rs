//! Dynamic sets cut live flows, as a push does.

use voipfleet_proto::v1::NodeState;

use super::{first, is_as_wanted, naming, takes, with};
use crate::flows::{NEIGHBOUR, PHONE, PHONE_V6, STRANGER, Service, Wire, of};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, on_both_backends};

fn with_first(place: &Place) -> Agent {
    let agent = Agent::start(place, NEVER);
    takes(&agent, &first());
    let status = agent.answer_to(offer(1, 1, &naming(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    agent
}

#[test]
fn block_cuts_only_flows_of_the_blocked_address() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let (sip, rtp) = (Service::new(5060), Service::new(10_000));
        let [phone, phone6, neighbour] =
            [PHONE, PHONE_V6, NEIGHBOUR].map(|address| wire.peer(address, 5062));
        for peer in [&phone, &phone6, &neighbour] {
            sip.exchange(peer);
            rtp.exchange(peer);
        }
        let both = &["203.0.113.9/32", "2001:db8:10::9/128"];
        let blocked = with(&first(), "block", both);
        let status = takes(&agent, &blocked);
        assert_eq!(status.flows_cut, 0, "no push did that");
        for gone in [PHONE, PHONE_V6] {
            assert_eq!(of(gone, ""), Vec::<String>::new());
        }
        for service in [&sip, &rtp] {
            service.is_deaf_to(&[&phone, &phone6], &neighbour);
            service.exchange(&neighbour);
        }
        takes(&agent, &first());
        for peer in [&phone, &phone6, &neighbour] {
            sip.exchange(peer);
            rtp.exchange(peer);
        }
        // The same by a feed that grows.
        let feed = with(&first(), "deny-feed:bad", both);
        takes(&agent, &feed);
        for service in [&sip, &rtp] {
            service.is_deaf_to(&[&phone, &phone6], &neighbour);
        }
        is_as_wanted(place);
    });
}

#[test]
fn expired_allowance_and_removed_member_lose_their_flows() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let sip = Service::new(5060);
        let (guest, neighbour) = (wire.peer(STRANGER, 5062), wire.peer(NEIGHBOUR, 5062));
        for source in ["allow", "cluster"] {
            sip.is_deaf_to(&[&guest], &neighbour);
            takes(&agent, &with(&first(), source, &["198.51.100.66/32"]));
            sip.exchange(&guest);
            sip.exchange(&guest);
            sip.exchange(&neighbour);
            takes(&agent, &first());
            assert_eq!(of(STRANGER, "port=5060 "), Vec::<String>::new(), "{source}");
            sip.is_deaf_to(&[&guest], &neighbour);
            sip.exchange(&neighbour);
        }
        is_as_wanted(place);
    });
}

#[test]
fn block_during_a_trial_cuts_at_once_and_survives_its_rollback() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let sip = Service::new(5060);
        let (phone, neighbour) = (wire.peer(PHONE, 5062), wire.peer(NEIGHBOUR, 5062));
        let brief = voipfleet_agent::mailbox::Offered {
            confirm_within: std::time::Duration::from_secs(2),
            ..offer(2, 2, &naming(2))
        };
        let attempt = agent.try_out(brief);
        sip.exchange(&phone);
        sip.exchange(&neighbour);
        takes(&agent, &with(&first(), "block", &["203.0.113.9/32"]));
        assert_eq!(of(PHONE, ""), Vec::<String>::new());
        sip.is_deaf_to(&[&phone], &neighbour);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
        sip.is_deaf_to(&[&phone], &neighbour);
        sip.exchange(&neighbour);
    });
}
