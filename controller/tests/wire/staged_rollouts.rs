//! Rollouts in stages.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;
use voipfleet_proto::v1::{
    HistoryRequest, PauseRolloutRequest, PushNodeState, ResumeRolloutRequest, RollbackRequest,
    RolloutReport, SyncState,
};
use voipfleet_testkit::RunningAgent;

use super::installation::{Installation, SITE, refused, staged};

/// An installation with nodes `a`, `b` … on generation 1, and what they will refuse later.
async fn fleet(
    staging: Value,
    refuses: &[(&str, u64)],
) -> (Installation, watch::Sender<String>, Vec<RunningAgent>) {
    let installation = Installation::start().await;
    // The first push is not staged: a pause would hold it.
    installation.apply(SITE).await;
    let (address, dial) = watch::channel(installation.address());
    let mut agents = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let node = installation.enrol(name).await;
        let refuses: BTreeSet<u64> = refuses
            .iter()
            .filter(|(refuser, _)| *refuser == name)
            .map(|(_, generation)| *generation)
            .collect();
        agents.push(node.run(dial.clone(), refuses));
    }
    installation.until_connected().await;
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(
        (done.applied, done.state.as_str()),
        (5, "done"),
        "{nodes:?}"
    );
    installation.apply(&staged(staging, "203.0.112.0/24")).await;
    (installation, address, agents)
}

#[tokio::test]
async fn a_failed_canary_halts_the_rollout_before_other_nodes() {
    let (installation, _address, agents) = fleet(
        json!({"canary": 1, "batch": 2, "max_failures": 0}),
        &[("a", 2)],
    )
    .await;
    let push = installation.push().await;
    assert_eq!(push.started.batches, [1, 2, 2]);
    let (done, nodes) = push.end().await;
    assert_eq!(done.state, "halted");
    assert!(done.why.contains("a: the probe dns failed"), "{}", done.why);
    assert_eq!((done.applied, done.rolled_back, done.waiting), (0, 1, 4));
    assert_eq!(nodes[4].state(), PushNodeState::Waiting);
    for agent in &agents {
        assert_eq!(agent.confirmed().unwrap().0, 1, "{}", agent.name());
        let offered = agent.history().offered.contains_key(&2);
        assert_eq!(offered, agent.name() == "a");
    }
    // The refuser is wanted on what it runs, like all.
    let report = installation.rollout().await;
    let targets = report.batches.iter().flat_map(|batch| &batch.nodes);
    assert!(targets.into_iter().all(|node| node.target == 1));
    let status = installation.status().await;
    assert_eq!(status.generation, 2);
    let synced = |name: &str| status.nodes[name].state();
    assert_eq!(synced("b"), SyncState::Stale, "the site is further");
    assert!(status.nodes["b"].error.contains("generation 2"));
}

#[tokio::test]
async fn a_failed_rollout_rolls_back_what_it_changed() {
    let staging = json!({"canary": 1, "batch": 2, "max_failures": 0, "on_failure": "rollback"});
    let (installation, _address, agents) = fleet(staging, &[("b", 2)]).await;
    let before: Vec<_> = agents.iter().map(RunningAgent::confirmed).collect();
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(done.state, "rolled_back", "{nodes:?}");
    assert_eq!((done.applied, done.generation), (0, 3));
    // `a`, `b` and perhaps `c` had it, and `d` and `e` were never given other rules.
    let untouched = nodes
        .iter()
        .filter(|node| node.state() == PushNodeState::Untouched);
    let names: Vec<&str> = untouched.map(|node| node.node.as_str()).collect();
    assert!(names.ends_with(&["d", "e"]), "{nodes:?}");
    assert_eq!(done.waiting as usize, names.len(), "{nodes:?}");
    assert_eq!(done.rolled_back + done.waiting, 5, "{nodes:?}");
    let taken_back =
        |name: usize| nodes[name].state() == PushNodeState::RolledBack && nodes[name].taken_back;
    assert!(taken_back(0), "{nodes:?}");
    assert!(!taken_back(1), "it went back by itself: {nodes:?}");
    assert!(nodes[1].error.contains("the probe dns failed"), "{nodes:?}");
    assert!(
        nodes[0].error.is_empty() && nodes[4].error.is_empty(),
        "{nodes:?}"
    );
    let report = installation.rollout().await;
    assert_eq!(report.failures, 1, "{}", report.why);
    let request = HistoryRequest {
        site: "site-a".to_owned(),
        limit: 0,
    };
    let mut client = installation.operator().await;
    let history = client.history(request).await.unwrap().into_inner();
    let [back, failed, ..] = &history.generations[..] else {
        panic!("{history:?}");
    };
    // The other one of its batch may have taken it before the end.
    assert!(matches!(failed.applied, Some(1 | 2)), "{failed:?}");
    assert_eq!(
        (failed.failed, failed.result.as_str()),
        (Some(1), "rolled_back")
    );
    // The generation that it went back to runs everywhere.
    assert_eq!((back.applied, back.failed), (Some(5), Some(0)), "{back:?}");
    assert_eq!((back.running, back.result.as_str()), (5, "done"));
    assert_eq!(back.changed_nodes.len(), 5, "{back:?}");
    assert_eq!(failed.changed_documents, ["Site/site-a", "Tenant/acme"]);
    // What was taken back was no good one.
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        ..RollbackRequest::default()
    };
    let nowhere = client.rollback(request).await.map(|_| ());
    refused(nowhere, Code::FailedPrecondition);
    for (agent, before) in agents.iter().zip(before) {
        let (generation, digest) = agent.confirmed().unwrap();
        assert_eq!(
            (generation, digest),
            (3, before.unwrap().1),
            "{}",
            agent.name()
        );
    }
}

#[tokio::test]
async fn a_paused_rollout_survives_a_restart_and_can_be_resumed() {
    let (mut installation, address, agents) = fleet(
        json!({"canary": 1, "batch": 1, "max_failures": 0, "pause": "1h"}),
        &[],
    )
    .await;
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
    installation.until_connected().await;
    installation.clock.advance_ms(5 * 3_600_000);
    assert_eq!(installation.rollout().await.state, "paused");
    assert_eq!(agents[1].confirmed().unwrap().0, 1);
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
    // The canary; the pause after it is over, and a jump now would be one of a node at work.
    for passed in 2..5 {
        let applied = |report: &RolloutReport| {
            let nodes = report.batches.iter().flat_map(|batch| &batch.nodes);
            nodes.filter(|node| node.state == "applied").count()
        };
        installation
            .until_rollout(|report| applied(report) >= passed)
            .await;
        // The pause after this batch passes at once.
        installation.clock.advance_ms(3_700_000);
    }
    installation
        .until_rollout(|report| report.state == "done")
        .await;
    for agent in &agents {
        assert_eq!(agent.confirmed().unwrap().0, 2, "{}", agent.name());
    }
}

#[tokio::test]
async fn an_offline_node_of_a_halted_rollout_keeps_what_it_runs() {
    let (installation, address, mut agents) = fleet(
        json!({"canary": 1, "batch": 4, "max_failures": 0}),
        &[("b", 2)],
    )
    .await;
    let node = agents.pop().unwrap().stop();
    installation
        .until_status(|site| !site.nodes["e"].connected)
        .await;
    let (done, nodes) = installation.push().await.end().await;
    assert_eq!(done.state, "halted", "{nodes:?}");
    let back = node.run(address.subscribe(), BTreeSet::new());
    installation.until_connected().await;
    assert!(back.history().offered.is_empty());
    assert_eq!(back.confirmed().unwrap().0, 1);
}

#[tokio::test]
async fn a_rollback_restores_the_same_digests() {
    let (installation, _address, agents) = fleet(json!({"canary": 2, "batch": "50%"}), &[]).await;
    let before: Vec<_> = agents.iter().map(RunningAgent::confirmed).collect();
    assert_eq!(installation.push().await.end().await.0.applied, 5);
    let mut client = installation.operator().await;
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        ..RollbackRequest::default()
    };
    let mut events = client.rollback(request.clone()).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    for (agent, before) in agents.iter().zip(before) {
        let (generation, digest) = agent.confirmed().unwrap();
        assert_eq!(
            (generation, digest),
            (3, before.unwrap().1),
            "{}",
            agent.name()
        );
    }
    let unknown = RollbackRequest { to: 77, ..request };
    let message = refused(client.rollback(unknown).await.map(|_| ()), Code::NotFound);
    assert!(message.contains("no generation 77"), "{message}");
}

#[tokio::test]
async fn an_abort_can_roll_back_what_was_changed() {
    let (installation, _address, agents) = fleet(
        json!({"canary": 1, "batch": 1, "max_failures": 0, "pause": "1h"}),
        &[],
    )
    .await;
    let before = agents[0].confirmed().unwrap().1;
    let mut push = installation.push().await;
    push.until("a", PushNodeState::Applied).await;
    assert_eq!(installation.abort(true).await.state, "rolling_back");
    let (done, _) = push.end().await;
    assert_eq!(
        (done.state.as_str(), done.rolled_back, done.waiting),
        ("rolled_back", 1, 4)
    );
    assert_eq!(agents[0].confirmed().unwrap(), (3, before));
}

/// Agents without a controller dial again within half a minute: until then none is passed over.
#[tokio::test]
async fn a_restarted_controller_skips_no_batch() {
    let (mut installation, address, agents) = fleet(
        json!({"canary": 1, "batch": 2, "max_failures": 0, "pause": "1h"}),
        &[],
    )
    .await;
    let mut push = installation.push().await;
    push.until("a", PushNodeState::Applied).await;
    drop(push);
    let nodes: Vec<_> = agents.into_iter().map(RunningAgent::stop).collect();
    installation.clock.advance_ms(2 * 3_600_000);
    installation
        .until_rollout(|report| report.released == 2)
        .await;
    installation.stop().await;
    installation.run().await;
    address.send_replace(installation.address());
    // The absence of an event has no event to await. This is longer than the wait for a broken
    // connection.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let report = installation.rollout().await;
    assert_eq!((report.state.as_str(), report.released), ("running", 2));
    let back: Vec<RunningAgent> = nodes
        .into_iter()
        .map(|node| node.run(address.subscribe(), BTreeSet::new()))
        .collect();
    let new = || {
        let confirmed = back.iter().filter_map(RunningAgent::confirmed);
        confirmed.filter(|(number, _)| *number == 2).count()
    };
    installation
        .until_status(|site| {
            let nodes = site.nodes.values();
            nodes.filter(|node| node.generation == 2).count() == 3
        })
        .await;
    installation.until_connected().await;
    assert_eq!(new(), 3, "the pause holds the others");
    assert_eq!(installation.rollout().await.released, 2);
}

/// An offline canary proves nothing: without one the rollout waits and gives the reason.
#[tokio::test]
async fn a_rollout_waits_for_an_offline_canary() {
    let (installation, address, agents) =
        fleet(json!({"canary": 1, "batch": 2, "max_failures": 0}), &[]).await;
    let nodes: Vec<_> = agents.into_iter().map(RunningAgent::stop).collect();
    installation
        .until_status(|site| !site.nodes.values().any(|node| node.connected))
        .await;
    let push = installation.push().await;
    let report = installation
        .until_rollout(|report| report.why.contains("waits for a canary"))
        .await;
    assert_eq!((report.state.as_str(), report.released), ("running", 1));
    // One that refuses it, as the first that is back: the others are spared.
    let mut back = Vec::new();
    for node in nodes.into_iter().rev() {
        let refuses = if back.is_empty() {
            BTreeSet::from([2])
        } else {
            BTreeSet::new()
        };
        let first = back.is_empty();
        back.push(node.run(address.subscribe(), refuses));
        if first {
            installation
                .until_rollout(|report| report.state == "halted")
                .await;
        }
    }
    installation.until_connected().await;
    let (done, _) = push.end().await;
    assert_eq!((done.rolled_back, done.applied), (1, 0));
    for agent in &back {
        assert_eq!(agent.confirmed().unwrap().0, 1, "{}", agent.name());
        let offered = agent.history().offered.contains_key(&2);
        assert_eq!(offered, agent.name() == "e");
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

/// A push to all nodes at once ends as done whatever fails: that state alone proves nothing.
#[tokio::test]
async fn a_rollback_skips_generations_that_failed() {
    let all = ["a", "b", "c", "d", "e"];
    let refuses: Vec<(&str, u64)> = all.iter().flat_map(|n| [(*n, 2), (*n, 3)]).collect();
    let (installation, _address, agents) = fleet(json!({"confirm_within": "2s"}), &refuses).await;
    let first: Vec<_> = agents.iter().map(RunningAgent::confirmed).collect();
    let (done, _) = installation.push().await.end().await;
    assert_eq!((done.state.as_str(), done.rolled_back), ("done", 5));
    installation
        .apply(&staged(json!({"confirm_within": "2s"}), "203.0.114.0/24"))
        .await;
    assert_eq!(installation.push().await.end().await.0.rolled_back, 5);
    roll_back(&installation).await;
    for (agent, first) in agents.iter().zip(first) {
        assert_eq!(agent.confirmed().unwrap(), (4, first.unwrap().1));
    }
}

/// Nodes that have not taken it get another try in batches, within the limit of failures.
#[tokio::test]
async fn a_repeated_push_is_staged_as_well() {
    let all = ["a", "b", "c", "d", "e"];
    let refuses: Vec<(&str, u64)> = all.iter().map(|name| (*name, 2)).collect();
    let (installation, _address, agents) = fleet(json!({"confirm_within": "2s"}), &refuses).await;
    assert_eq!(installation.push().await.end().await.0.rolled_back, 5);
    let staging = json!({"canary": 1, "batch": 2, "max_failures": 0});
    installation.apply(&staged(staging, "203.0.112.0/24")).await;
    let before: Vec<usize> = agents.iter().map(tries).collect();
    let push = installation.push().await;
    assert_eq!(push.started.batches, [1, 2, 2]);
    let (done, nodes) = push.end().await;
    assert_eq!((done.generation, done.changed), (2, false), "{nodes:?}");
    assert_eq!(done.state, "halted");
    assert_eq!((done.rolled_back, done.waiting), (1, 4));
    let tried = |(agent, before): (&RunningAgent, usize)| tries(agent) > before;
    let tried = agents.iter().zip(before).filter(|pair| tried(*pair));
    assert_eq!(tried.count(), 1);
    for agent in &agents {
        assert_eq!(agent.confirmed().unwrap().0, 1);
    }
}

/// How often it was offered generation 2.
fn tries(agent: &RunningAgent) -> usize {
    let offers = agent.history().offers;
    offers.get(&2).copied().unwrap_or_default()
}
