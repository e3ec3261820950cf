use tonic::Code;
use voipfleet_proto::v1::{
    DeleteRequest, NodeState, NodeStatus, PushNodeState, PushRequest, SyncState,
};

use super::installation::{
    Installation, NETWORK, SITE, acme, apply, connected, refused, site, with_network,
};

fn site_a() -> PushRequest {
    PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    }
}

#[tokio::test]
async fn a_second_push_of_the_same_content_changes_nothing() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    installation.enrol("gone").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let push = installation.push().await;
    assert_eq!((push.started.generation, push.started.changed), (1, true));
    let offer = session.offer().await;
    session.apply(&offer).await;
    let (done, nodes) = push.end().await;
    assert_eq!((done.applied, done.failed, done.offline), (1, 0, 1));
    assert_eq!(nodes[0].state(), PushNodeState::Applied);
    assert_eq!(nodes[1].state(), PushNodeState::Offline);
    let status = installation.status().await;
    assert_eq!(status.generation, 1);
    assert_eq!(status.nodes["a"].state(), SyncState::Synced);
    assert_eq!(status.nodes["a"].digest, offer.digest);
    assert_eq!(status.nodes["gone"].state(), SyncState::Offline);

    let push = installation.push().await;
    assert_eq!((push.started.generation, push.started.changed), (1, false));
    let (done, nodes) = push.end().await;
    assert_eq!((done.applied, done.changed), (1, false));
    assert_eq!(nodes[0].state(), PushNodeState::Unchanged);
}

#[tokio::test]
async fn a_failed_node_reports_the_reason_and_is_retried_by_the_next_push() {
    let (installation, _, mut session) = connected().await;
    let words = "iptables-restore: line 7 failed: No such file or directory";
    let push = installation.push().await;
    let offer = session.offer().await;
    session.report(&offer, NodeState::Failed, words).await;
    let (done, nodes) = push.end().await;
    assert_eq!((done.applied, done.failed), (0, 1));
    assert_eq!(nodes[0].state(), PushNodeState::Failed);
    assert_eq!(nodes[0].error, words);
    let status = installation.status().await;
    assert_eq!(status.nodes["a"].state(), SyncState::Error);
    assert_eq!(status.nodes["a"].error, words);

    let push = installation.push().await;
    assert!(!push.started.changed);
    let again = session.offer().await;
    assert_eq!(again.generation, offer.generation);
    assert_ne!(again.nonce, offer.nonce);
    // A late word about the first try is not the answer to the second.
    session.report(&offer, NodeState::Failed, "late").await;
    session.apply(&again).await;
    let (done, nodes) = push.end().await;
    assert_eq!(done.applied, 1, "{nodes:?}");
}

#[tokio::test]
async fn an_offline_node_gets_the_generation_on_reconnect() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let push = installation
        .try_push(PushRequest {
            site: "site-a".to_owned(),
            wait_offline_ms: 60_000,
            ..PushRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(push.started.nodes[0].state(), PushNodeState::Offline);
    let mut session = node.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
}

/// The push does not wait for offline nodes, but this one is only between two
/// connections.
#[tokio::test]
async fn a_reconnecting_node_does_not_count_as_offline() {
    let (mut installation, node, session) = connected().await;
    drop(session);
    installation
        .until_status(|site| !site.nodes["a"].connected)
        .await;
    let push = installation.push().await;
    assert_eq!(push.started.nodes[0].state(), PushNodeState::Offline);
    let mut session = node.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);

    // Nor one whose controller was started anew.
    tokio::join!(session.closed(), installation.stop());
    installation.run().await;
    installation.apply(&with_network("203.0.112.0/24")).await;
    let push = installation.push().await;
    assert_eq!(push.started.nodes[0].state(), PushNodeState::Offline);
    let mut session = session
        .agent
        .connect(&installation.address())
        .await
        .unwrap();
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
}

#[tokio::test]
async fn a_push_does_not_wait_for_a_deleted_node() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    installation.enrol("b").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let request = PushRequest {
        site: "site-a".to_owned(),
        wait_offline_ms: 3_600_000,
        ..PushRequest::default()
    };
    let push = installation.try_push(request).await.unwrap();
    session.offer().await;
    for node in ["a", "b"] {
        let request = DeleteRequest {
            kind: "node".to_owned(),
            name: format!("site-a/{node}"),
        };
        installation.operator().await.delete(request).await.unwrap();
    }
    let (done, nodes) = push.end().await;
    assert_eq!((done.failed, done.offline), (2, 0), "{nodes:?}");
    assert!(nodes[0].error.contains("deleted"), "{nodes:?}");
}

/// What failed in its trial and could not be undone at once is not offered again by itself, not in
/// another session, and not by an agent that started anew.
#[tokio::test]
async fn a_trial_whose_undo_is_late_is_not_offered_again_by_itself() {
    let (installation, node, mut session) = connected().await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.report(&offer, NodeState::Trial, "").await;
    session
        .report_stuck(&offer, "the rollback failed too")
        .await;
    assert_eq!(push.end().await.0.failed, 1);
    let stuck = session.about(&offer, NodeState::Failed, "the rollback failed too");
    drop(session);
    for (undo_due, restarted) in [(true, false), (false, true)] {
        let mut hello = node.hello();
        if !restarted {
            hello.status = Some(NodeStatus {
                undo_due,
                ..stuck.clone()
            });
        }
        let mut session = node.welcomed(&installation.address(), hello).await.unwrap();
        // Else it would be stale: an offer would be on its way.
        let state = installation.status().await.nodes["a"].state();
        assert_eq!(state, SyncState::Error, "restarted: {restarted}");
        // A push asks for it again: nothing was offered before.
        if restarted {
            let push = installation.push().await;
            let again = session.offer().await;
            assert_ne!(again.nonce, offer.nonce);
            session.apply(&again).await;
            assert_eq!(push.end().await.0.applied, 1);
        }
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.enrol("a").await;
    let request = PushRequest {
        site: "site-a".to_owned(),
        dry_run: true,
        ..PushRequest::default()
    };
    let push = installation.try_push(request).await.unwrap();
    assert!(push.started.changed);
    push.end().await;
    assert_eq!(installation.status().await.generation, 0);
}

/// An offline node that never got the generation does not "stay as it is".
#[tokio::test]
async fn a_dry_run_lists_offline_nodes_without_the_generation() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    installation.enrol("b").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    drop(session);
    let request = PushRequest {
        site: "site-a".to_owned(),
        dry_run: true,
        ..PushRequest::default()
    };
    let push = installation.try_push(request).await.unwrap();
    assert!(!push.started.changed);
    let (done, nodes) = push.end().await;
    assert_eq!(
        nodes[0].state(),
        PushNodeState::Unchanged,
        "runs it, and is away"
    );
    assert_eq!(nodes[1].state(), PushNodeState::Offline, "never got it");
    assert_eq!((done.applied, done.offline), (1, 1));
}

#[tokio::test]
async fn a_dry_run_accepts_unstored_documents() {
    let (installation, _, mut session) = connected().await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    let with = |text: String, dry_run| PushRequest {
        site: "site-a".to_owned(),
        dry_run,
        sources: apply(&text).sources,
        ..PushRequest::default()
    };
    let same = with(SITE.to_owned(), true);
    let push = installation.try_push(same).await.unwrap();
    assert!(!push.started.changed);
    assert_eq!(push.started.nodes[0].state(), PushNodeState::Unchanged);
    let other = with_network("203.0.112.0/24");
    let push = installation
        .try_push(with(other.clone(), true))
        .await
        .unwrap();
    assert!(push.started.changed);
    assert_eq!(push.started.nodes[0].state(), PushNodeState::Sent);
    push.end().await;
    assert_eq!(installation.status().await.generation, 1);
    let pushed = installation.try_push(with(other, false)).await;
    refused(pushed.map(|_| ()), Code::InvalidArgument);
    let broken = site().tenants(&["unknown"]) + acme(NETWORK);
    let pushed = installation.try_push(with(broken, true)).await;
    let message = refused(pushed.map(|_| ()), Code::InvalidArgument);
    assert!(message.contains("site.yaml:"), "{message}");
}

#[tokio::test]
async fn an_unknown_site_is_named() {
    let installation = Installation::start().await;
    let request = PushRequest {
        site: "site-z".to_owned(),
        ..PushRequest::default()
    };
    let message = refused(
        installation.try_push(request).await.map(|_| ()),
        Code::NotFound,
    );
    assert!(message.contains("site-z"), "{message}");
}

/// One rollout of a site at a time: a second push is refused, and once the first was ended, the
/// second takes its place.
#[tokio::test]
async fn a_second_push_is_refused_until_the_first_has_ended() {
    let (installation, _, mut session) = connected().await;
    let first = installation.push().await;
    let offer = session.offer().await;
    installation.apply(&with_network("203.0.112.0/24")).await;
    let second = installation.try_push(site_a()).await.map(|_| ());
    let message = refused(second, Code::FailedPrecondition);
    for words in [
        "generation 1 by ada is running",
        "voipctl rollout abort site-a",
    ] {
        assert!(message.contains(words), "{message}");
    }
    installation.abort(false).await;
    let (done, nodes) = first.end().await;
    assert_eq!((done.applied, done.rolled_back), (0, 1), "{nodes:?}");
    assert_eq!(done.state, "aborted");

    let second = installation.push().await;
    assert_eq!(second.started.generation, 2);
    let newer = session.offer().await;
    assert_eq!(newer.generation, 2);
    assert_ne!(newer.nonce, offer.nonce);
    session.apply(&newer).await;
    assert_eq!(second.end().await.0.applied, 1);
}

#[tokio::test]
async fn simultaneous_pushes_make_one_generation() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let (a, b, c) = tokio::join!(
        installation.push(),
        installation.push(),
        installation.push()
    );
    let numbers = [&a, &b, &c].map(|push| push.started.generation);
    assert_eq!(numbers, [1, 1, 1]);
    let new = [&a, &b, &c]
        .iter()
        .filter(|push| push.started.changed)
        .count();
    assert_eq!(new, 1);
}

#[tokio::test]
async fn old_generations_are_pruned_and_the_current_one_is_kept() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    for number in 1..=25 {
        let network = format!("203.0.{number}.0/24");
        installation.apply(&with_network(&network)).await;
        let push = installation.push().await;
        assert_eq!(push.started.generation, number);
        let offer = session.offer().await;
        session.apply(&offer).await;
        push.end().await;
    }
}
