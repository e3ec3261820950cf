use voipfleet_proto::v1::controller_message::Kind;
use voipfleet_proto::v1::{
    Confirm, DriftReport, Hello, NodeState, NodeStatus, Offer, PushNodeState, PushRequest,
    SyncState,
};
use voipfleet_testkit::{AgentSession, FakeAgent};

use super::installation::{Installation, connected, with_network};

/// Hello of a node that has tried an offer.
fn hello(node: &FakeAgent, offer: &Offer, state: NodeState, error: &str) -> Hello {
    let mut hello = node.hello();
    let status = hello.status.get_or_insert_default();
    status.nonce = offer.nonce;
    status.generation = offer.generation;
    status.digest.clone_from(&offer.digest);
    status.state = state.into();
    error.clone_into(&mut status.error);
    hello
}

async fn welcomed(node: &FakeAgent, installation: &Installation, hello: Hello) -> AgentSession {
    let mut session = node.open(&installation.address(), hello).await.unwrap();
    let first = session.next().await.unwrap();
    assert!(matches!(first, Some(Kind::Welcome(_))), "{first:?}");
    session
}

/// Nothing was said to the node before the answer to this.
async fn nothing_more(session: &mut AgentSession) {
    session.drift(DriftReport::default()).await;
}

#[tokio::test]
async fn a_trial_is_confirmed_on_the_session_that_announces_it() {
    let (installation, mut node, mut old) = connected().await;
    let mut push = installation.push().await;
    let offer = old.offer().await;
    assert_eq!(offer.confirm_within_ms, 30_000);
    old.report(&offer, NodeState::Trial, "").await;
    push.until("a", PushNodeState::Trial).await;
    // An open stream is no proof.
    nothing_more(&mut old).await;
    assert_eq!(
        installation.status().await.nodes["a"].state(),
        SyncState::Stale
    );

    let trial = hello(&node, &offer, NodeState::Trial, "");
    let mut new = welcomed(&node, &installation, trial).await;
    let confirm = new.next().await.unwrap();
    let right = Kind::Confirm(Confirm {
        nonce: offer.nonce,
        generation: offer.generation,
        digest: offer.digest.clone(),
    });
    assert_eq!(confirm, Some(right));
    while let Ok(message) = old.next().await {
        assert!(!matches!(message, Some(Kind::Confirm(_))));
    }
    node.confirmed = Some((offer.generation, offer.digest.clone()));
    new.agent = node;
    new.report(&offer, NodeState::Applied, "").await;
    let (done, nodes) = push.end().await;
    assert_eq!((done.applied, done.rolled_back), (1, 0), "{nodes:?}");
    // Once, and it is offered nothing more.
    nothing_more(&mut new).await;
}

#[tokio::test]
async fn a_rolled_back_generation_is_not_offered_again_before_the_next_push() {
    const WORDS: &str = "no new connection to the controller came through";
    let (installation, node, mut session) = connected().await;
    let push = installation
        .try_push(PushRequest {
            site: "site-a".to_owned(),
            confirm_within_ms: 1500,
            ..PushRequest::default()
        })
        .await
        .unwrap();
    let offer = session.offer().await;
    assert_eq!(offer.confirm_within_ms, 1500);
    session.report(&offer, NodeState::Trial, "").await;
    drop(session); // its new connections do not come through

    let back = hello(&node, &offer, NodeState::RolledBack, WORDS);
    let mut session = welcomed(&node, &installation, back).await;
    let (done, nodes) = push.end().await;
    assert_eq!((done.applied, done.failed, done.rolled_back), (0, 0, 1));
    assert_eq!(nodes[0].state(), PushNodeState::RolledBack);
    assert_eq!(nodes[0].error, WORDS);
    nothing_more(&mut session).await;
    let is_told = async || {
        let status = installation.status().await;
        assert_eq!(status.nodes["a"].state(), SyncState::Error);
        assert_eq!(status.nodes["a"].error, WORDS);
    };
    is_told().await;

    // An agent that was started anew has forgotten it.
    let mut forgetful = node.hello();
    forgetful.status = Some(NodeStatus::default());
    let mut session = welcomed(&node, &installation, forgetful).await;
    nothing_more(&mut session).await;
    is_told().await;

    let again = installation
        .try_push(PushRequest {
            site: "site-a".to_owned(),
            confirm_within_ms: 60_000,
            ..PushRequest::default()
        })
        .await
        .unwrap();
    assert!(!again.started.changed);
    let second = session.offer().await;
    assert_eq!(second.digest, offer.digest);
    assert_ne!(second.nonce, offer.nonce);
    assert_eq!(second.confirm_within_ms, 60_000);
    session.report(&second, NodeState::RolledBack, WORDS).await;
    assert_eq!(again.end().await.0.rolled_back, 1);

    // Other content is another matter.
    installation.apply(&with_network("203.0.112.0/24")).await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
}

#[tokio::test]
async fn an_outdated_trial_is_not_confirmed() {
    let (installation, node, mut session) = connected().await;
    let first = installation.push().await;
    let offer = session.offer().await;
    session.report(&offer, NodeState::Trial, "").await;
    drop(session);
    installation.apply(&with_network("203.0.112.0/24")).await;
    installation.abort(false).await;
    assert_eq!(first.end().await.0.rolled_back, 1);
    let second = installation
        .try_push(PushRequest {
            site: "site-a".to_owned(),
            wait_offline_ms: 60_000,
            ..PushRequest::default()
        })
        .await
        .unwrap();
    let trial = hello(&node, &offer, NodeState::Trial, "");
    let mut session = welcomed(&node, &installation, trial).await;
    let newer = session.offer().await;
    assert_eq!(newer.generation, 2);
    session.apply(&newer).await;
    assert_eq!(second.end().await.0.applied, 1);
}
