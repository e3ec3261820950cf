use tonic::Code;
use voipfleet_proto::v1::{
    AgentMessage, DeleteRequest, Difference, DifferenceKind, DriftClass, DriftRecord, DriftReport,
    DriftRequest, Listener, Neighbour, StatusRequest, VoipNow, agent_message,
};

use super::installation::{Installation, SITE, refused, with_network};
use super::log::logged;

#[tokio::test]
async fn a_node_reads_its_own_ruleset_only() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node_a = installation.enrol("a").await;
    let node_b = installation.enrol("b").await;
    let (mut a, mut b) = (
        node_a.connect(&installation.address()).await.unwrap(),
        node_b.connect(&installation.address()).await.unwrap(),
    );
    let push = installation.push().await;
    let (offer_a, offer_b) = (a.offer().await, b.offer().await);
    assert_ne!(offer_a.digest, offer_b.digest);
    let message = refused(a.fetch(&offer_b.digest).await, Code::PermissionDenied);
    logged("node asked for another node's ruleset").await;
    // Something that does not exist gets the same answer.
    assert_eq!(
        message,
        refused(a.fetch(&[7; 32]).await, Code::PermissionDenied)
    );
    a.apply(&offer_a).await;
    b.apply(&offer_b).await;
    assert_eq!(push.end().await.0.applied, 2);
    // The one before, after a newer push: no longer, and it says why.
    let before = offer_a.digest.clone();
    installation.apply(&with_network("203.0.112.0/24")).await;
    let _push = installation.push().await;
    a.offer().await;
    let message = refused(a.fetch(&before).await, Code::FailedPrecondition);
    assert!(message.contains("newer"), "{message}");
}

#[tokio::test]
async fn hello_must_name_the_certificates_node() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    installation.enrol("b").await;
    let mut hello = node.hello();
    hello.node = "b".to_owned();
    let mut session = node.open(&installation.address(), hello).await.unwrap();
    let end = session.closed().await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
}

#[tokio::test]
async fn a_deleted_node_is_disconnected_with_the_reason() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/a".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    let end = session.closed().await;
    assert_eq!(end.code(), Code::PermissionDenied);
    assert!(end.message().contains("enrol it again"), "{end}");
    // Its certificate is still good, and opens nothing.
    let (_out, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let result = node
        .client(&installation.address())
        .await
        .unwrap()
        .session(messages)
        .await;
    let message = refused(result, Code::PermissionDenied);
    assert!(message.contains("enrol it again"), "{message}");
    // The name is free, and the new key is another: the old machine stays out.
    installation.enrol("a").await;
    let (_out, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let result = node
        .client(&installation.address())
        .await
        .unwrap()
        .session(messages)
        .await;
    refused(result, Code::PermissionDenied);
}

/// The machine is let in, deleted, and only then says Hello.
#[tokio::test]
async fn a_node_that_is_deleted_before_its_hello_gets_no_session() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    let (out, messages) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut client = node.client(&installation.address()).await.unwrap();
    let mut answers = client.session(messages).await.unwrap().into_inner();
    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/a".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    let kind = Some(agent_message::Kind::Hello(node.hello()));
    out.send(AgentMessage { kind }).await.unwrap();
    let message = refused(answers.message().await, Code::PermissionDenied);
    assert!(message.contains("enrol it again"), "{message}");
}

#[tokio::test]
async fn a_newer_session_replaces_the_older_one() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let mut first = node.connect(&installation.address()).await.unwrap();
    let mut second = node.connect(&installation.address()).await.unwrap();
    let end = first.closed().await;
    assert_eq!(end.code(), Code::Aborted, "{end}");
    let push = installation.push().await;
    let offer = second.offer().await;
    second.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    assert!(installation.status().await.nodes["a"].connected);
}

fn record(id: &str, at_ms: u64) -> DriftRecord {
    DriftRecord {
        id: id.to_owned(),
        at_ms,
        class: DriftClass::Missing.into(),
        chain: "VF-INPUT".to_owned(),
        wanted: "w".repeat(10_000),
        ..DriftRecord::default()
    }
}

#[tokio::test]
async fn drift_records_are_deduplicated_and_bounded() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let report = |records| DriftReport { records };
    let ids = session
        .drift(report(vec![record("1", 10), record("2", 20)]))
        .await;
    assert_eq!(ids, ["1", "2"]);
    // The answer was lost, and meanwhile it was repaired.
    drop(session);
    let mut session = node.connect(&installation.address()).await.unwrap();
    let mut again = record("1", 10);
    again.repaired_after_ms = Some(5);
    assert_eq!(session.drift(report(vec![again])).await, ["1"]);
    let request = DriftRequest::default();
    let found = installation.operator().await.drift(request).await.unwrap();
    let found = found.into_inner().records;
    let records: Vec<_> = found
        .iter()
        .map(|found| found.record.clone().unwrap())
        .collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].id, "2", "newest first");
    assert_eq!(records[1].repaired_after_ms, Some(5));
    assert!(records[0].wanted.len() < 10_000);
    // Records without an id are not kept, nor acknowledged.
    assert!(session.drift(report(vec![record("", 30)])).await.is_empty());
    // Of an endless report a thousand are taken; the rest comes again.
    let endless = (0..5000).map(|n| DriftRecord {
        wanted: String::new(),
        ..record(&format!("endless/{n}"), 40)
    });
    let taken = session.drift(report(endless.collect())).await;
    assert_eq!(taken.len(), 1000);
    // At most a thousand of a node stay: the newest.
    for batch in 0..6 {
        let records = (0..200)
            .map(|n| DriftRecord {
                wanted: String::new(),
                ..record(&format!("{batch}/{n}"), 100 + batch)
            })
            .collect();
        assert_eq!(session.drift(report(records)).await.len(), 200);
    }
    let request = DriftRequest {
        site: "site-a".to_owned(),
        limit: 5000,
        ..DriftRequest::default()
    };
    let found = installation.operator().await.drift(request).await.unwrap();
    let found = found.into_inner().records;
    assert_eq!(found.len(), 1000);
    assert!(
        found
            .iter()
            .all(|found| found.record.as_ref().unwrap().at_ms > 100)
    );
}

#[tokio::test]
async fn facts_of_a_node_are_bounded_and_compared_on_request() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let mut hello = node.hello();
    let facts = hello.facts.as_mut().unwrap();
    let neighbour = Neighbour {
        detail: "x".repeat(5_000),
        ..Neighbour::default()
    };
    facts.neighbours = vec![neighbour; 40];
    facts.listeners = vec![Listener::default(); 1000];
    facts.voipnow = Some(VoipNow {
        roles: vec!["sip".to_owned(), "sql".to_owned()],
        node_id: "y".repeat(10_000),
        ..VoipNow::default()
    });
    let mut session = node.open(&installation.address(), hello).await.unwrap();
    session.next().await.unwrap();
    for (compare, differences) in [(false, 0), (true, 1)] {
        let request = StatusRequest {
            site: "site-a".to_owned(),
            compare,
        };
        let answer = installation.operator().await.status(request).await.unwrap();
        let node = answer.into_inner().sites.remove(0).nodes.remove(0);
        let found: Vec<_> = node.differences.iter().map(Difference::kind).collect();
        assert_eq!(found, vec![DifferenceKind::RoleNotEnrolled; differences]);
        let facts = node.facts.unwrap();
        assert_eq!((facts.neighbours.len(), facts.listeners.len()), (32, 64));
        assert!(facts.neighbours[0].detail.len() < 5_000);
        assert_eq!(facts.voipnow.unwrap().node_id.len(), 255);
    }
}
