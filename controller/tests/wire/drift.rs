//! Drift records of many nodes, and of one that lies.

use voipfleet_proto::v1::{
    DriftClass, DriftDifference, DriftRecord, DriftReport, DriftRequest, DriftResponse,
};

use super::installation::Installation;
use super::log;

fn record(id: &str, at_ms: u64) -> DriftRecord {
    DriftRecord {
        id: id.to_owned(),
        at_ms,
        class: DriftClass::Missing.into(),
        chain: "VF-INPUT".to_owned(),
        ..DriftRecord::default()
    }
}

fn report(records: impl IntoIterator<Item = DriftRecord>) -> DriftReport {
    DriftReport {
        records: records.into_iter().collect(),
    }
}

async fn ask(installation: &Installation, request: DriftRequest) -> DriftResponse {
    let answer = installation.operator().await.drift(request).await;
    answer.unwrap().into_inner()
}

fn nodes(answer: &DriftResponse) -> Vec<&str> {
    answer.records.iter().map(|it| it.node.as_str()).collect()
}

#[tokio::test]
async fn one_node_does_not_hide_the_drift_of_others() {
    let installation = Installation::start().await;
    let (quiet, loud) = (
        installation.enrol("a").await,
        installation.enrol("loud").await,
    );
    let mut quiet = quiet.connect(&installation.address()).await.unwrap();
    let mut loud = loud.connect(&installation.address()).await.unwrap();
    let mut policy = record("policy", 5);
    policy.class = DriftClass::Policy.into();
    quiet.drift(report([record("old", 5), policy])).await;
    installation.clock.advance_ms(60_000);
    // Its clock, or a lie, puts them all into the future.
    let future = u64::MAX / 2;
    loud.drift(report((0..999).map(|n| record(&n.to_string(), future))))
        .await;
    installation.clock.advance_ms(60_000);
    quiet.drift(report([record("new", 6)])).await;

    let request = DriftRequest {
        limit: 100,
        ..DriftRequest::default()
    };
    let answer = ask(&installation, request.clone()).await;
    assert_eq!(answer.records.len(), 100);
    assert!(answer.more);
    let of_quiet = nodes(&answer).iter().filter(|node| **node == "a").count();
    assert_eq!(of_quiet, 3);
    let newest = answer.records[0].record.as_ref().unwrap();
    assert_eq!(newest.id, "new", "by arrival, not by the node's clock");

    let only = DriftRequest {
        nodes: vec!["a".to_owned()],
        ..request.clone()
    };
    assert_eq!(nodes(&ask(&installation, only).await), ["a", "a", "a"]);
    let only = DriftRequest {
        classes: vec![DriftClass::Policy.into()],
        ..request.clone()
    };
    let found = ask(&installation, only).await;
    assert_eq!(
        (nodes(&found).as_slice(), found.more),
        (["a"].as_slice(), false)
    );
    let only = DriftRequest {
        nodes: vec!["a".to_owned()],
        within_ms: 30_000,
        ..request
    };
    let found = ask(&installation, only).await;
    assert_eq!(found.records.len(), 1);
    assert_eq!(found.records[0].record.as_ref().unwrap().id, "new");
}

#[tokio::test]
async fn differences_of_an_act_are_bounded() {
    let installation = Installation::start().await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let mut act = record("1", 5);
    let more = DriftDifference {
        class: DriftClass::Set.into(),
        observed: "x".repeat(50),
        ..DriftDifference::default()
    };
    act.more = vec![more; 1000];
    act.left_out = 7;
    assert_eq!(session.drift(report([act.clone()])).await, ["1"]);
    let request = DriftRequest {
        classes: vec![DriftClass::Set.into()],
        ..DriftRequest::default()
    };
    let found = ask(&installation, request.clone()).await;
    let stored = found.records[0].record.as_ref().unwrap();
    assert_eq!(stored.count(), act.count());
    assert!(stored.more.len() < 128, "{}", stored.more.len());
    let received = stored.received_ms;
    // Repaired meanwhile: the same act, received when it first came.
    installation.clock.advance_ms(1000);
    act.repaired_after_ms = Some(3);
    session.drift(report([act])).await;
    let found = ask(&installation, request).await;
    assert_eq!(found.records.len(), 1);
    let stored = found.records[0].record.as_ref().unwrap();
    assert_eq!(
        (stored.received_ms, stored.repaired_after_ms),
        (received, Some(3))
    );
}

#[tokio::test]
async fn a_node_does_not_fill_the_log() {
    log::keep();
    let installation = Installation::start().await;
    let node = installation.enrol("noisy").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let began = std::time::Instant::now();
    let long = |n: usize| DriftRecord {
        chain: format!("only-of-this-test{}", "y".repeat(4000)),
        ..record(&n.to_string(), 5)
    };
    for batch in 0..5 {
        let records = (0..40).map(|n| long(batch * 40 + n));
        session.drift(report(records)).await;
    }
    log::logged("more lines in a second than are logged of=\"node\" source=\"site-a/noisy\"").await;
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let lines = log::count("only-of-this-test");
    assert!((1..=10 * (seconds + 2)).contains(&lines), "{lines}");
    assert!(!log::was_logged(&"y".repeat(200)), "texts are cut");
}
