//! Ends are moments of the controller's clock, whatever the node's own shows.

use std::sync::Arc;

use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::host::clock::{self, FleetClock};
use voipfleet_agent::ledger::Ledger;
use voipfleet_proto::v1::{DriftState, NodeState, controller_message::Kind as Down};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSets, Expiring, Until};

use super::{elements, first, holding, naming, takes};
use crate::node::{Node, notice_of, run, say, until_live};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, on_both_backends};

const HOUR: u64 = 3600;
const SET: &str = "vf-list-1-4";

/// A block that ends so many seconds after `now`, by the controller's clock.
fn blocked(now: u64, left: u64) -> DynamicSets {
    let one = Expiring {
        net: "203.0.113.9/32".parse().unwrap(),
        until: Until::from_unix(now + left).unwrap(),
    };
    holding(&first(), "block", DynamicSet::new([], [one]))
}

/// The seconds that the kernel gives the blocked address; none: it does not hold it.
fn left_in_kernel(place: &Place) -> Option<u64> {
    let held = elements(place, SET);
    let mut blocked = held
        .iter()
        .filter_map(|one| one.strip_prefix("203.0.113.9 timeout "));
    blocked.next().map(|seconds| seconds.parse().unwrap())
}

#[track_caller]
fn is_about(found: Option<u64>, wanted: u64) {
    let near = |found: u64| found <= wanted && found + 120 >= wanted;
    assert!(found.is_some_and(near), "{found:?} of {wanted}");
}

/// A clock that is so many seconds off this machine's.
fn off_by(seconds: i64) -> Arc<FleetClock> {
    let fleet = Arc::new(FleetClock::default());
    let wall_ms = clock::unix_ms(clock::now());
    fleet.hear(wall_ms.saturating_add_signed(seconds * 1000));
    fleet
}

#[test]
fn a_block_lasts_its_time_on_a_node_whose_clock_is_off() {
    on_both_backends(|place| {
        // The node is two hours ahead of the controller, and 50 minutes behind.
        for seconds in [-7200, 3000] {
            let fleet = off_by(seconds);
            let kernel = place.system().measured_by(Arc::clone(&fleet));
            let own = kernel.own_processes();
            let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
            takes(&agent, &first());
            let status = agent.answer_to(offer(1, 1, &naming(1)));
            assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
            let status = takes(&agent, &blocked(fleet.now(), HOUR));
            is_about(left_in_kernel(place), HOUR);
            assert!(status.fleet_time_s.abs_diff(fleet.now()) < 60, "{status:?}");
            assert_eq!(status.drift(), DriftState::Clean);
            drop(agent);
            recovery::teardown(&mut place.system(), &place.ledger(), true).unwrap();
        }
    });
}

#[test]
fn a_notices_clock_is_heard_and_goes_on_after_a_restart_without_it() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (session, hello) = node.session().await;
            let wall_ms = clock::unix_ms(clock::now());
            assert!(hello.clock_ms.abs_diff(wall_ms) < 60_000, "{hello:?}");
            // The controller's clock is two hours behind this machine's.
            let fleet_ms = wall_ms - 2 * 1000 * HOUR;
            node.notice(&session, &first(), None).await;
            let mut session = node.push(session, 1, &naming(1)).await;
            let sets = blocked(fleet_ms / 1000, HOUR);
            let mut notice = notice_of(&sets, Some(&first()));
            notice.clock_ms = fleet_ms;
            say(&session, Down::DynamicSets(notice)).await;
            let status = until_live(&mut session, &sets).await;
            assert!(status.clock_ms.abs_diff(wall_ms) < 120_000, "{status:?}");
            is_about(left_in_kernel(place), HOUR);

            // A boot: no controller says what time it is.
            node.kill();
            let ledger = Ledger::open(&node.state.ledger()).unwrap();
            let reading = ledger.clock().expect("it is kept");
            let fleet = Arc::new(FleetClock::default());
            fleet.restore(reading);
            let mut system = place.system().measured_by(fleet);
            recovery::teardown(&mut system, &ledger, false).unwrap();
            assert!(!place.has_ours());
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.failed.is_none() && recovered.fallback.is_none());
            is_about(left_in_kernel(place), HOUR);
            // And the program itself does so.
            recovery::teardown(&mut system, &ledger, false).unwrap();
            drop(ledger);
            node.run();
            let (_session, hello) = node.session().await;
            assert_eq!(hello.dynamic_digest, sets.digest().as_bytes());
            is_about(left_in_kernel(place), HOUR);
        });
    });
}
