//! Rollouts in stages.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;
use voipfleet_proto::v1::{
    HistoryRequest, PauseRolloutRequest, PushNodeState, ResumeRolloutRequest, RollbackRequest,
    RolloutReport, RolloutStatusRequest, SyncState,
};

use super::agent::Node;
use super::installation::{Installation, SITE, refused};
use super::robot::Robot;

/// Long enough for a busy machine; nothing waits for its end.
const LIMIT: Duration = Duration::from_mins(2);

pub(crate) fn site(staging: &str, network: &str) -> String {
    SITE.replace("203.0.113.0/24", network).replace(
        "tenants: [acme]",
        &format!("tenants: [acme]\nrollout: {staging}"),
    )
}

/// An installation with nodes `a`, `b` … on generation 1, and what they will refuse later.
async fn fleet(
    staging: &str,
    refuses: &[(&str, u64)],
) -> (Installation, watch::Sender<String>, Vec<Robot>) {
    let installation = Installation::start().await;
    // The first push is not staged: a pause would hold it.
    installation.apply(SITE).await;
    let (address, dial) = watch::channel(installation.address());
    let mut robots = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let node = Node::enrol(&installation, name).await;
        let refuses: BTreeSet<u64> = refuses
            .iter()
            .filter(|(refuser, _)| *refuser == name)
            .map(|(_, generation)| *generation)
            .collect();
        robots.push(Robot::start(node, dial.clone(), refuses));
    }
    all_here(&installation).await;
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(
        (done.applied, done.state.as_str()),
        (5, "done"),
        "{nodes:?}"
    );
    installation.apply(&site(staging, "203.0.112.0/24")).await;
    (installation, address, robots)
}

/// Takes nodes off the network; what they run is remembered.
fn away(robots: Vec<Robot>) -> Vec<Node> {
    let node = |robot: Robot| Node {
        confirmed: robot.confirmed(),
        ..robot.node.clone()
    };
    robots.into_iter().map(node).collect()
}

async fn all_here(installation: &Installation) {
    let here = async {
        while !installation
            .status()
            .await
            .nodes
            .values()
            .all(|node| node.connected)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, here).await.unwrap();
}

async fn rollout(installation: &Installation) -> RolloutReport {
    let request = RolloutStatusRequest {
        site: "site-a".to_owned(),
    };
    let answer = installation.operator().await.rollout_status(request).await;
    answer.unwrap().into_inner().rollouts.remove(0)
}

#[tokio::test]
async fn a_canary_that_fails_halts_and_the_others_are_untouched() {
    let (installation, _address, robots) =
        fleet("{canary: 1, batch: 2, max_failures: 0}", &[("a", 2)]).await;
    let push = installation.push().await;
    assert_eq!(push.started.batches, [1, 2, 2]);
    let (done, nodes) = push.end().await;
    assert_eq!(done.state, "halted");
    assert!(done.why.contains("a: the probe dns failed"), "{}", done.why);
    assert_eq!((done.applied, done.rolled_back, done.waiting), (0, 1, 4));
    assert_eq!(nodes[4].state(), PushNodeState::Waiting);
    for robot in &robots {
        assert_eq!(robot.confirmed().unwrap().0, 1, "{}", robot.name);
        let offered = robot.life.lock().unwrap().offered.contains_key(&2);
        assert_eq!(offered, robot.name == "a");
    }
    // The refuser is wanted on what it runs, like all.
    let report = rollout(&installation).await;
    let targets = report.batches.iter().flat_map(|batch| &batch.nodes);
    assert!(targets.into_iter().all(|node| node.target == 1));
    let status = installation.status().await;
    assert_eq!(status.generation, 2);
    let synced = |name: &str| status.nodes[name].state();
    assert_eq!(synced("b"), SyncState::Stale, "the site is further");
    assert!(status.nodes["b"].error.contains("generation 2"));
}

#[tokio::test]
async fn what_was_changed_is_taken_back_by_itself() {
    let staging = "{canary: 1, batch: 2, max_failures: 0, on_failure: rollback}";
    let (installation, _address, robots) = fleet(staging, &[("b", 2)]).await;
    let before: Vec<_> = robots.iter().map(Robot::confirmed).collect();
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(done.state, "rolled_back", "{nodes:?}");
    assert_eq!((done.applied, done.generation), (0, 3));
    let report = rollout(&installation).await;
    assert_eq!(report.failures, 1, "{}", report.why);
    let request = HistoryRequest {
        site: "site-a".to_owned(),
        limit: 0,
    };
    let mut client = installation.operator().await;
    let history = client.history(request).await.unwrap().into_inner();
    for entry in &history.generations[..2] {
        // The other one of its batch may have taken it before the end.
        assert!(matches!(entry.applied, Some(1 | 2)), "{entry:?}");
        assert_eq!(entry.failed, Some(1));
    }
    // What was taken back was no good one.
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        ..RollbackRequest::default()
    };
    let nowhere = client.rollback(request).await.map(|_| ());
    refused(nowhere, Code::FailedPrecondition);
    for (robot, before) in robots.iter().zip(before) {
        let (generation, digest) = robot.confirmed().unwrap();
        assert_eq!(
            (generation, digest),
            (3, before.unwrap().1),
            "{}",
            robot.name
        );
    }
}

#[tokio::test]
async fn a_held_rollout_survives_a_restart_and_goes_on() {
    let (mut installation, address, robots) =
        fleet("{canary: 1, batch: 1, max_failures: 0, pause: 1h}", &[]).await;
    let mut push = installation.push().await;
    push.until("a", PushNodeState::Applied).await;
    let request = PauseRolloutRequest {
        site: "site-a".to_owned(),
    };
    let mut client = installation.operator().await;
    let report = client.pause_rollout(request).await.unwrap().into_inner();
    assert_eq!(
        (report.state.as_str(), report.why.as_str()),
        ("paused", "paused by ada")
    );
    drop(push);
    installation.stop().await;
    installation.run().await;
    address.send(installation.address()).unwrap();
    all_here(&installation).await;
    installation.clock.advance_ms(5 * 3_600_000);
    assert_eq!(rollout(&installation).await.state, "paused");
    assert_eq!(robots[1].confirmed().unwrap().0, 1);
    let second = installation.try_push(voipfleet_proto::v1::PushRequest {
        site: "site-a".to_owned(),
        ..Default::default()
    });
    refused(second.await.map(|_| ()), Code::FailedPrecondition);

    let request = ResumeRolloutRequest {
        site: "site-a".to_owned(),
    };
    let mut client = installation.operator().await;
    client.resume_rollout(request).await.unwrap();
    let goes_on = async {
        // The canary; the pause after it is over, and a jump now would be one of a node at work.
        let mut passed = 1;
        loop {
            let report = rollout(&installation).await;
            let nodes = report.batches.iter().flat_map(|batch| &batch.nodes);
            let applied = nodes.filter(|node| node.state == "applied").count();
            if report.state == "done" {
                return;
            }
            if applied > passed {
                // The pause after this batch passes at once.
                passed = applied;
                installation.clock.advance_ms(3_700_000);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, goes_on).await.unwrap();
    for robot in &robots {
        assert_eq!(robot.confirmed().unwrap().0, 2, "{}", robot.name);
    }
}

#[tokio::test]
async fn an_offline_node_of_a_halted_rollout_keeps_what_it_runs() {
    let (installation, address, mut robots) =
        fleet("{canary: 1, batch: 4, max_failures: 0}", &[("b", 2)]).await;
    let gone = robots.pop().unwrap();
    let node = Node {
        confirmed: gone.confirmed(),
        ..gone.node.clone()
    };
    drop(gone);
    while installation.status().await.nodes["e"].connected {
        tokio::task::yield_now().await;
    }
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(done.state, "halted", "{nodes:?}");
    let back = Robot::start(node, address.subscribe(), BTreeSet::new());
    all_here(&installation).await;
    assert!(back.life.lock().unwrap().offered.is_empty());
    assert_eq!(back.confirmed().unwrap().0, 1);
}

#[tokio::test]
async fn a_rollback_brings_back_the_same_bytes() {
    let (installation, _address, robots) = fleet("{canary: 2, batch: 50%}", &[]).await;
    let before: Vec<_> = robots.iter().map(Robot::confirmed).collect();
    assert_eq!(installation.push().await.end().await.0.applied, 5);
    let mut client = installation.operator().await;
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        ..RollbackRequest::default()
    };
    let mut events = client.rollback(request.clone()).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    for (robot, before) in robots.iter().zip(before) {
        let (generation, digest) = robot.confirmed().unwrap();
        assert_eq!(
            (generation, digest),
            (3, before.unwrap().1),
            "{}",
            robot.name
        );
    }
    let unknown = RollbackRequest { to: 77, ..request };
    let message = refused(client.rollback(unknown).await.map(|_| ()), Code::NotFound);
    assert!(message.contains("no generation 77"), "{message}");
}

#[tokio::test]
async fn an_abort_can_take_back_what_was_changed() {
    let (installation, _address, robots) =
        fleet("{canary: 1, batch: 1, max_failures: 0, pause: 1h}", &[]).await;
    let before = robots[0].confirmed().unwrap().1;
    let mut push = installation.push().await;
    push.until("a", PushNodeState::Applied).await;
    assert_eq!(installation.abort(true).await.state, "rolling_back");
    let (done, _) = push.end().await;
    assert_eq!((done.state.as_str(), done.rolled_back), ("rolled_back", 5));
    assert_eq!(robots[0].confirmed().unwrap(), (3, before));
}

/// Agents that found nobody dial again within half a minute: until then none is passed over.
#[tokio::test]
async fn a_controller_that_was_away_passes_no_batch_over() {
    let (mut installation, address, robots) =
        fleet("{canary: 1, batch: 2, max_failures: 0, pause: 1h}", &[]).await;
    let mut push = installation.push().await;
    push.until("a", PushNodeState::Applied).await;
    drop(push);
    let nodes = away(robots);
    installation.stop().await;
    installation.clock.advance_ms(2 * 3_600_000);
    installation.run().await;
    address.send_replace(installation.address());
    // Longer than a broken connection is waited for: that nothing happens announces itself by
    // nothing.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let report = rollout(&installation).await;
    assert_eq!((report.state.as_str(), report.released), ("running", 2));
    let back: Vec<Robot> = nodes
        .into_iter()
        .map(|node| Robot::start(node, address.subscribe(), BTreeSet::new()))
        .collect();
    let new = || {
        let confirmed = back.iter().filter_map(Robot::confirmed);
        confirmed.filter(|(number, _)| *number == 2).count()
    };
    let taken = async {
        while new() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, taken).await.unwrap();
    all_here(&installation).await;
    assert_eq!(new(), 3, "the pause holds the others");
    assert_eq!(rollout(&installation).await.released, 2);
}

/// A canary that is offline proves nothing: without one the rollout waits, and says so.
#[tokio::test]
async fn nobody_gets_it_before_a_canary_has_it() {
    let (installation, address, robots) =
        fleet("{canary: 1, batch: 2, max_failures: 0}", &[]).await;
    let nodes = away(robots);
    let gone = async {
        loop {
            let status = installation.status().await;
            if !status.nodes.values().any(|node| node.connected) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    let push = installation.push().await;
    let waits = async {
        loop {
            let report = rollout(&installation).await;
            assert_eq!(report.state, "running");
            if report.why.contains("waits for a canary") {
                return report;
            }
            tokio::task::yield_now().await;
        }
    };
    let report = tokio::time::timeout(LIMIT, waits).await.unwrap();
    assert_eq!(report.released, 1);
    // One that refuses it, as the first that is back: the others are spared.
    let mut back = Vec::new();
    for node in nodes.into_iter().rev() {
        let refuses = if back.is_empty() {
            BTreeSet::from([2])
        } else {
            BTreeSet::new()
        };
        let first = back.is_empty();
        back.push(Robot::start(node, address.subscribe(), refuses));
        let halted = async {
            while first && rollout(&installation).await.state != "halted" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, halted).await.unwrap();
    }
    all_here(&installation).await;
    let (done, _) = push.end().await;
    assert_eq!((done.rolled_back, done.applied), (1, 0));
    for robot in &back {
        assert_eq!(robot.confirmed().unwrap().0, 1, "{}", robot.name);
        let offered = robot.life.lock().unwrap().offered.contains_key(&2);
        assert_eq!(offered, robot.name == "e");
    }
}

async fn roll_back(installation: &Installation) {
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        ..RollbackRequest::default()
    };
    let mut client = installation.operator().await;
    let mut events = client.rollback(request).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
}

/// No failure stops a push to all nodes at once: that it is done says nothing.
#[tokio::test]
async fn what_failed_on_its_nodes_is_not_brought_back() {
    let all = ["a", "b", "c", "d", "e"];
    let refuses: Vec<(&str, u64)> = all.iter().flat_map(|n| [(*n, 2), (*n, 3)]).collect();
    let (installation, _address, robots) = fleet("{confirm_within: 2s}", &refuses).await;
    let first: Vec<_> = robots.iter().map(Robot::confirmed).collect();
    let (done, _) = installation.push().await.end().await;
    assert_eq!((done.state.as_str(), done.rolled_back), ("done", 5));
    installation
        .apply(&site("{confirm_within: 2s}", "203.0.114.0/24"))
        .await;
    assert_eq!(installation.push().await.end().await.0.rolled_back, 5);
    roll_back(&installation).await;
    for (robot, first) in robots.iter().zip(first) {
        assert_eq!(robot.confirmed().unwrap(), (4, first.unwrap().1));
    }
}

/// Whoever has not taken it gets another try in stages, and within the limit of failures.
#[tokio::test]
async fn another_try_goes_through_the_batches_too() {
    let all = ["a", "b", "c", "d", "e"];
    let refuses: Vec<(&str, u64)> = all.iter().map(|name| (*name, 2)).collect();
    let (installation, _address, robots) = fleet("{confirm_within: 2s}", &refuses).await;
    assert_eq!(installation.push().await.end().await.0.rolled_back, 5);
    let staging = "{canary: 1, batch: 2, max_failures: 0}";
    installation.apply(&site(staging, "203.0.112.0/24")).await;
    let before: Vec<usize> = robots.iter().map(tries).collect();
    let push = installation.push().await;
    assert_eq!(push.started.batches, [1, 2, 2]);
    let (done, nodes) = push.end().await;
    assert_eq!((done.generation, done.changed), (2, false), "{nodes:?}");
    assert_eq!(done.state, "halted");
    assert_eq!((done.rolled_back, done.waiting), (1, 4));
    let tried = |(robot, before): (&Robot, usize)| tries(robot) > before;
    let tried = robots.iter().zip(before).filter(|pair| tried(*pair));
    assert_eq!(tried.count(), 1);
    for robot in &robots {
        assert_eq!(robot.confirmed().unwrap().0, 1);
    }
}

/// How often it was offered generation 2.
fn tries(robot: &Robot) -> usize {
    robot
        .life
        .lock()
        .unwrap()
        .tries
        .get(&2)
        .copied()
        .unwrap_or_default()
}
