//! Nodes that enrol after a push: the generation reaches them by itself.

use voipfleet_proto::v1::{DeleteRequest, NodeState, SyncState};
use voipfleet_ruleset::ruleset::Ruleset;
use voipfleet_testkit::RunningAgent;

use super::installation::{Installation, SITE, connected, staged, with_network};

/// The first push went to node `a`.
async fn pushed() -> (Installation, RunningAgent) {
    let (installation, _, mut session) = connected().await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    // Enrolled in the same moment, a node would belong to the push.
    installation.clock.advance_ms(1000);
    (installation, session.run())
}

fn networks(ruleset: &Ruleset) -> String {
    format!("{:?}", ruleset.sets)
}

#[tokio::test]
async fn a_late_node_gets_the_pushed_generation_by_itself() {
    let (installation, _first) = pushed().await;
    // Stored and not pushed: it is for the next push.
    installation.apply(&with_network("192.0.2.0/24")).await;
    let new = installation.enrol("b").await;
    let away = &installation.status().await.nodes["b"];
    assert_eq!(away.state(), SyncState::Offline);
    assert!(away.error.contains("when it connects"), "{}", away.error);

    let mut session = new.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    assert_eq!(offer.generation, 1);
    assert!(offer.confirm_within_ms > 0, "it is tried like any other");
    let here = &installation.status().await.nodes["b"];
    assert_ne!(here.state(), SyncState::Synced);
    let ruleset = session.fetch_offered(&offer).await.unwrap();
    let sets = networks(&ruleset);
    assert!(sets.contains("203.0.113.0/24"), "{sets}");
    assert!(!sets.contains("192.0.2.0/24"), "{sets}");
    session.apply(&offer).await;
    let site = installation
        .until_status(|site| site.nodes["b"].state() == SyncState::Synced)
        .await;
    assert_eq!(site.nodes["b"].error, "");
    assert_eq!((site.generation, site.nodes["a"].generation), (1, 1));
}

#[tokio::test]
async fn a_push_finds_a_late_node_settled() {
    let (installation, _first) = pushed().await;
    let new = installation.enrol("b").await;
    let session = new.connect(&installation.address()).await.unwrap();
    let running = session.run();
    running
        .until(|history| history.generation() == Some(1))
        .await;
    installation
        .until_status(|site| site.nodes["b"].state() == SyncState::Synced)
        .await;
    let push = installation.push().await;
    assert_eq!((push.started.generation, push.started.changed), (1, false));
}

#[tokio::test]
async fn a_machine_that_takes_a_name_gets_what_is_made_for_it() {
    let (installation, _first) = pushed().await;
    let old = installation.status().await.nodes["a"].digest.clone();
    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/a".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    let again = installation.enrol_as("a", &["pbx"]).await;
    let mut session = again.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    assert_eq!(offer.generation, 1);
    assert_ne!(offer.digest, old, "its role is another one");
    session.apply(&offer).await;
    let site = installation
        .until_status(|site| site.nodes["a"].state() == SyncState::Synced)
        .await;
    assert_eq!(site.nodes["a"].error, "");
}

#[tokio::test]
async fn a_late_node_that_refuses_is_not_offered_again() {
    let (installation, _first) = pushed().await;
    let new = installation.enrol("b").await;
    let mut session = new.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    session
        .report(&offer, NodeState::RolledBack, "the probe dns failed")
        .await;
    let site = installation
        .until_status(|site| site.nodes["b"].state() == SyncState::Error)
        .await;
    assert_eq!(site.nodes["b"].error, "the probe dns failed");
    assert_eq!(site.nodes["a"].state(), SyncState::Synced);
    // A push tries it again.
    installation.push().await;
    let again = session.offer().await;
    assert_eq!(again.digest, offer.digest);
}

#[tokio::test]
async fn a_late_node_gets_no_generation_that_was_halted() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let staging = serde_json::json!({"canary": 1, "max_failures": 0});
    installation.apply(&staged(staging, "203.0.113.0/24")).await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.report(&offer, NodeState::Failed, "no").await;
    let (done, _) = push.end().await;
    assert_eq!(done.state, "halted");
    installation.clock.advance_ms(1000);
    let new = installation.enrol("b").await;
    let mut late = new.connect(&installation.address()).await.unwrap();
    let site = installation
        .until_status(|site| site.nodes["b"].connected)
        .await;
    let error = &site.nodes["b"].error;
    assert!(error.contains("halted"), "{error}");
    assert!(error.contains("voipctl push site-a"), "{error}");
    // What is offered to it first is the next push's.
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(late.offer().await.generation, push.started.generation);
}
