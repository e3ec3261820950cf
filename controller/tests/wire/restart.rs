use tonic::Code;
use voipfleet_controller::run::Controller;
use voipfleet_controller::store::{Embedded, Store as _, keys};
use voipfleet_proto::v1::{NodeState, PushNodeState, SyncState};

use super::installation::{Installation, SITE, with_network};

#[tokio::test]
async fn a_restart_resumes_a_running_push() {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    let node_a = installation.enrol("a").await;
    let node_b = installation.enrol("b").await;
    let mut a = node_a.connect(&installation.address()).await.unwrap();
    let mut b = node_b.connect(&installation.address()).await.unwrap();
    let mut push = installation.push().await;
    let offer = a.offer().await;
    a.apply(&offer).await;
    push.until("a", PushNodeState::Applied).await;
    let offer = b.offer().await;
    b.report(&offer, NodeState::Applying, "").await;

    let (end, ()) = tokio::join!(a.closed(), installation.stop());
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(end.message(), "controller is stopping");
    drop(b);
    installation.run().await;

    let status = installation.status().await;
    assert_eq!(status.generation, 1);
    assert_eq!(status.nodes["a"].state(), SyncState::Offline);
    assert_eq!(status.nodes["a"].generation, 1);
    // What applied it is offered nothing; what did not gets the same generation again.
    let mut b = node_b.connect(&installation.address()).await.unwrap();
    let again = b.offer().await;
    assert_eq!((again.generation, &again.digest), (1, &offer.digest));
    b.apply(&again).await;
    let _a = a.agent.connect(&installation.address()).await.unwrap();
    let (done, _) = installation.push().await.end().await;
    assert_eq!((done.generation, done.changed, done.applied), (1, false, 2));
}

/// A store from a backup knows less than the nodes do: the next push must still reach them.
#[tokio::test]
async fn a_node_ahead_of_the_store_is_reached_by_the_next_push() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut node = installation.enrol("a").await;
    node.confirmed = Some((41, vec![1; 32]));
    let mut session = node.connect(&installation.address()).await.unwrap();
    let push = installation.push().await;
    assert_eq!(push.started.generation, 42);
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
}

#[tokio::test]
async fn a_second_controller_fails_because_the_store_is_in_use() {
    let installation = Installation::start().await;
    let error = Controller::start(installation.options()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("in use by another process"), "{message}");
}

#[tokio::test]
async fn an_address_in_use_is_reported() {
    let installation = Installation::start().await;
    let mut options = installation.options();
    options.listen = installation.address().parse().unwrap();
    let error = Controller::start(options).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("another program has it"), "{message}");
}

#[tokio::test]
async fn only_the_last_generations_stay_in_the_store() {
    let mut installation = Installation::start().await;
    let node = installation.enrol("a").await;
    for number in 1..=30 {
        let network = format!("203.0.{number}.0/24");
        installation.apply(&with_network(&network)).await;
        installation.push().await.end().await;
    }
    installation.stop().await;
    let store = Embedded::open(&installation.store_path()).unwrap();
    let kept = store.all(&keys::generations("site-a"), 1000).await.unwrap();
    // Pruning runs beside the pushes; the last one may have been cut by the stop.
    assert!((20..=22).contains(&kept.len()), "{}", kept.len());
    let rulesets = store.all("ruleset/", 1000).await.unwrap();
    assert_eq!(rulesets.len(), kept.len());
    store.close().await;
    installation.run().await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let offer = session.offer().await;
    assert_eq!(offer.generation, 30);
    session.apply(&offer).await;
}
