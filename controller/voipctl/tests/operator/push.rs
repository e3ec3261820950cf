//! `push`.

use serde_json::Value;
use tonic::Status;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_proto::v1::{self, PushNodeState};

use crate::fixture::{Fixture, Terminal, rollout_active};

fn node(name: &str, state: PushNodeState, error: &str, elapsed_ms: u64) -> v1::PushNode {
    v1::PushNode {
        node: name.to_owned(),
        roles: vec!["sip".to_owned()],
        state: state.into(),
        error: error.to_owned(),
        elapsed_ms,
        ..v1::PushNode::default()
    }
}

fn started(changed: bool, nodes: Vec<v1::PushNode>) -> Kind {
    Kind::Started(v1::PushStarted {
        site: "site-a".to_owned(),
        generation: 7,
        changed,
        nodes,
        ..v1::PushStarted::default()
    })
}

fn done(applied: u32, failed: u32, rolled_back: u32, offline: u32, changed: bool) -> Kind {
    Kind::Done(v1::PushDone {
        site: "site-a".to_owned(),
        generation: 7,
        changed,
        applied,
        failed,
        rolled_back,
        offline,
        elapsed_ms: 412,
        ..v1::PushDone::default()
    })
}

fn everything_works() -> Vec<Kind> {
    vec![
        started(
            true,
            vec![
                node("sip1", PushNodeState::Sent, "", 0),
                node("http1", PushNodeState::Sent, "", 0),
            ],
        ),
        Kind::Node(node("sip1", PushNodeState::Applying, "", 20)),
        Kind::Node(node("sip1", PushNodeState::Applied, "", 142)),
        Kind::Node(node("http1", PushNodeState::Applied, "", 412)),
        done(2, 0, 0, 0, true),
    ]
}

fn everything_happens() -> Vec<Kind> {
    let words = "iptables-restore v1.8.9 (nf_tables): Couldn't load match `hashlimit':No such file or directory\n\
                 Error occurred at line: 12";
    vec![
        started(
            true,
            vec![
                node("sip1", PushNodeState::Sent, "", 0),
                node("pbx1", PushNodeState::Offline, "", 0),
                node("http1", PushNodeState::Sent, "", 0),
                node("sql1", PushNodeState::Sent, "", 0),
                node("wk1", PushNodeState::Unchanged, "", 0),
            ],
        ),
        Kind::Node(node("sip1", PushNodeState::Applied, "", 142)),
        Kind::Node(node("http1", PushNodeState::Failed, words, 88)),
        Kind::Node(node(
            "sql1",
            PushNodeState::RolledBack,
            "no answer from 192.0.2.1:7443",
            30_120,
        )),
        done(2, 1, 1, 1, true),
    ]
}

async fn fixture(push: Vec<Kind>) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.push = push);
    fixture
}

/// The requests that start a push.
fn pushes(fixture: &Fixture) -> Vec<String> {
    let asked = fixture.requests().into_iter();
    asked
        .filter(|asked| asked.starts_with("PushRequest"))
        .collect()
}

fn batched(name: &str, batch: u32, state: PushNodeState) -> v1::PushNode {
    v1::PushNode {
        batch,
        ..node(name, state, "", 40)
    }
}

/// A rollout that is taken back: the cause is named once, and nodes that were never touched are
/// not blamed.
#[tokio::test]
async fn rollback_names_the_cause_and_blames_no_other_node() {
    let cause = "this node's kernel refuses it: iptables-restore: line 4 failed";
    let mut nodes = vec![batched("sip1", 1, PushNodeState::Sent)];
    nodes.extend((2..=12).map(|n| batched(&format!("sip{n}"), 2, PushNodeState::Waiting)));
    let Kind::Started(started) = started(true, nodes) else {
        unreachable!()
    };
    let mut events = vec![Kind::Started(v1::PushStarted {
        batches: vec![1, 11],
        ..started
    })];
    events.push(Kind::Node(v1::PushNode {
        error: cause.to_owned(),
        ..batched("sip1", 1, PushNodeState::Rejected)
    }));
    let untouched = |n| Kind::Node(batched(&format!("sip{n}"), 2, PushNodeState::Untouched));
    events.extend((3..=12).map(untouched));
    events.push(Kind::Node(v1::PushNode {
        taken_back: true,
        ..batched("sip2", 2, PushNodeState::RolledBack)
    }));
    events.push(Kind::Done(v1::PushDone {
        site: "site-a".to_owned(),
        generation: 8,
        changed: true,
        failed: 1,
        rolled_back: 1,
        waiting: 10,
        elapsed_ms: 412,
        state: "rolled_back".to_owned(),
        why: format!("sip1: {cause}; 1 failed, and max_failures is 0"),
        ..v1::PushDone::default()
    }));
    let fixture = fixture(events).await;
    let shown = fixture.run(&["push", "site-a", "--yes"]).await;
    assert_eq!(shown.status, 1);
    assert!(!shown.err.contains("sip3"), "{shown}");
    assert!(
        !shown.to_string().contains("a probe was unreachable"),
        "{shown}"
    );
    insta::assert_snapshot!(shown);
}

/// What was the same on many nodes is said once.
#[tokio::test]
async fn equal_errors_are_shown_once() {
    let words = "probe trunk: no answer from sip.carrier.example:5060 within 3 s";
    let names: Vec<String> = (1..=12).map(|n| format!("sip{n}")).collect();
    let nodes = names
        .iter()
        .map(|name| node(name, PushNodeState::Sent, "", 0));
    let mut events = vec![started(true, nodes.collect())];
    let failed = |name: &String| Kind::Node(node(name, PushNodeState::RolledBack, words, 3_100));
    events.extend(names.iter().map(failed));
    events.push(done(0, 0, 12, 0, true));
    let fixture = fixture(events).await;
    let shown = fixture.run(&["push", "site-a", "--yes"]).await;
    assert_eq!(
        shown.to_string().matches("no answer from").count(),
        1,
        "{shown}"
    );
    assert_eq!(shown.err.matches("hint:").count(), 1, "{shown}");
    assert!(
        shown.err.contains("12 nodes (sip1, sip2, sip3 and 9 more)"),
        "{shown}"
    );
}

/// A log of CI says what was pushed, and every danger of it.
#[tokio::test]
async fn push_with_yes_prints_the_sum_and_all_warnings() {
    let warning = "your own address 198.51.100.10 would lose SSH to sip1";
    let mut events = everything_works();
    events.insert(
        1,
        Kind::Diagnostic(v1::Diagnostic {
            severity: v1::Severity::Warning.into(),
            message: warning.to_owned(),
            ..v1::Diagnostic::default()
        }),
    );
    let fixture = fixture(events).await;
    fixture.script(|script| {
        script.plan = v1::PlanResponse {
            site: "site-a".to_owned(),
            generation: 7,
            current: 6,
            changed: true,
            nodes: vec![v1::PlannedNode {
                node: "sip1".to_owned(),
                state: v1::PlannedState::Changed.into(),
                ..v1::PlannedNode::default()
            }],
            warnings: vec![warning.to_owned()],
            to: 5,
            ..v1::PlanResponse::default()
        };
    });
    for command in ["push", "rollback"] {
        let shown = fixture.run(&[command, "site-a", "--yes"]).await;
        assert!(
            shown
                .out
                .starts_with("site-a: rolling back to 5 would create"),
            "{shown}"
        );
        assert!(
            shown.out.contains("its node changes, 1 warning\n"),
            "{shown}"
        );
        assert_eq!(shown.err.matches(warning).count(), 1, "{shown}");
    }
    let json = fixture
        .run(&["push", "site-a", "--yes", "-o", "json"])
        .await;
    let first: Value = serde_json::from_str(json.out.lines().next().unwrap()).unwrap();
    assert_eq!(first["event"], "plan");
    assert_eq!(first["changed_nodes"][0], "sip1");
    assert_eq!(first["warnings"][0], warning);
    let both = fixture.run(&["push", "site-a", "site-b", "--yes"]).await;
    assert_eq!(both.err.matches(warning).count(), 2, "{both}");
}

#[tokio::test]
async fn all_nodes_apply() {
    let fixture = fixture(everything_works()).await;
    insta::assert_snapshot!(fixture.run(&["push", "site-a", "--yes"]).await);
}

#[tokio::test]
async fn failed_offline_and_rolled_back_nodes() {
    let fixture = fixture(everything_happens()).await;
    insta::assert_snapshot!(fixture.run(&["push", "site-a", "--yes"]).await);
}

#[tokio::test]
async fn terminal_shows_the_same_data() {
    let fixture = fixture(everything_happens()).await;
    let piped = fixture.run(&["push", "site-a", "--yes"]).await.out;
    let terminal = Terminal::Plain(60, "y\n");
    let shown = fixture.run_on(terminal, &["push", "site-a", "--yes"]).await;
    assert_eq!(shown.out, piped);
}

#[tokio::test]
async fn events_as_json() {
    let fixture = fixture(everything_happens()).await;
    let shown = fixture
        .run(&["push", "site-a", "--yes", "-o", "json"])
        .await;
    let events: Vec<Value> = shown
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = events.last().unwrap();
    for name in [
        "site",
        "generation",
        "applied",
        "failed",
        "rolled_back",
        "elapsed_ms",
    ] {
        assert!(last.get(name).is_some(), "{name} is missing: {last}");
    }
    assert_eq!(last["event"], "done");
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn cut_flows_are_counted() {
    let sip1 = v1::PushNode {
        flows_cut: 3,
        ..node("sip1", PushNodeState::Applied, "", 142)
    };
    let Kind::Done(all) = done(1, 0, 0, 0, true) else {
        unreachable!()
    };
    let fixture = fixture(vec![
        started(true, vec![node("sip1", PushNodeState::Sent, "", 0)]),
        Kind::Node(sip1),
        Kind::Done(v1::PushDone {
            flows_cut: 3,
            ..all
        }),
    ])
    .await;
    let shown = fixture.run(&["push", "site-a", "--yes"]).await;
    assert!(shown.out.contains("142 ms, 3 flows cut\n"), "{shown}");
    assert!(shown.out.ends_with("412 ms; 3 flows cut\n"), "{shown}");
}

#[tokio::test]
async fn unchanged_generation() {
    let unchanged = |name| node(name, PushNodeState::Unchanged, "", 0);
    let fixture = fixture(vec![
        started(false, vec![unchanged("sip1"), unchanged("http1")]),
        done(2, 0, 0, 0, false),
    ])
    .await;
    insta::assert_snapshot!(fixture.run(&["push", "site-a", "--yes"]).await);
}

#[tokio::test]
async fn site_without_nodes() {
    let fixture = fixture(vec![started(true, Vec::new()), done(0, 0, 0, 0, true)]).await;
    insta::assert_snapshot!(fixture.run(&["push", "site-a", "--yes"]).await);
}

#[tokio::test]
async fn dry_run() {
    let nodes = vec![
        node("sip1", PushNodeState::Sent, "", 0),
        node("pbx1", PushNodeState::Offline, "", 0),
        node("wk1", PushNodeState::Unchanged, "", 0),
    ];
    let fixture = fixture(vec![started(true, nodes), done(1, 0, 0, 1, true)]).await;
    insta::assert_snapshot!(fixture.run(&["push", "site-a", "--dry-run"]).await);
    assert!(fixture.requests()[0].contains("dry_run: true"));
    fixture.script(|script| {
        for kind in &mut script.push {
            match kind {
                Kind::Started(started) => started.dry_run = true,
                Kind::Done(done) => done.dry_run = true,
                _ => {}
            }
        }
    });
    let json = fixture
        .run(&["push", "site-a", "--dry-run", "-o", "json"])
        .await;
    let events = json
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = events.collect();
    assert!(
        events.iter().all(|event| event["dry_run"] == true),
        "{json}"
    );
}

#[tokio::test]
async fn dry_run_of_documents() {
    let nodes = vec![node("sip1", PushNodeState::Sent, "", 0)];
    let fixture = fixture(vec![started(true, nodes), done(0, 0, 0, 0, true)]).await;
    fixture.write("acme.yaml", "kind: Tenant\nname: acme\n");
    let file = fixture.path("acme.yaml");
    fixture.script(|script| {
        script.apply.changes = vec![v1::DocumentChange {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            change: v1::Change::Changed.into(),
            ..v1::DocumentChange::default()
        }];
    });
    fixture.script(|script| {
        let field = v1::FieldDifference {
            field: "networks.offices".to_owned(),
            added: vec!["203.0.113.0/24".to_owned()],
            ..v1::FieldDifference::default()
        };
        "site-a".clone_into(&mut script.plan.site);
        script.plan.documents = vec![v1::DocumentDifference {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            change: "changed".to_owned(),
            fields: vec![field],
        }];
    });
    let line = ["push", "site-a", "-f", file.to_str().unwrap(), "--dry-run"];
    let ended = fixture.run(&line).await;
    assert!(ended.to_string().contains("1 node would change"), "{ended}");
    let asked = fixture.requests();
    assert!(asked[0].contains("dry_run: true"), "{asked:?}");
    assert!(asked[1].starts_with("PlanRequest"), "{asked:?}");
    assert!(asked[1].contains("name: acme"), "{asked:?}");
    assert!(asked[2].contains("dry_run: true"), "{asked:?}");
    assert!(asked[2].contains("name: acme"), "{asked:?}");
    let json = fixture.run(&[&line[..], &["-o", "json"]].concat()).await;
    insta::assert_snapshot!(format!("{ended}{json}"));
}

#[tokio::test]
async fn options_reach_the_controller() {
    let fixture = fixture(everything_works()).await;
    fixture
        .run(&[
            "push",
            "site-a",
            "--yes",
            "--wait",
            "--confirm-within",
            "5s",
        ])
        .await;
    fixture
        .run(&["push", "site-a", "--yes", "--wait", "2m"])
        .await;
    let asked = pushes(&fixture);
    assert!(
        asked[0].contains("wait_offline_ms: 60000, confirm_within_ms: 5000"),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("wait_offline_ms: 120000, confirm_within_ms: 0"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn interrupted_stream_is_a_failure() {
    let mut events = everything_works();
    events.pop();
    let fixture = fixture(events).await;
    let mut shown = fixture.run(&["push", "site-a", "--yes"]).await.to_string();
    let stopping = "controller is stopping; the nodes go on by themselves";
    fixture.script(|script| script.push_breaks = Some(Status::unavailable(stopping)));
    shown.push_str(&fixture.run(&["push", "site-a", "--yes"]).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn documents_are_stored_first_and_errors_stop_the_push() {
    let fixture = fixture(everything_works()).await;
    fixture.write(
        "acme.yaml",
        "kind: Tenant\nname: acme\nnetworks: {offices: [203.0.113.0/24]}\n",
    );
    let file = fixture.path("acme.yaml");
    let line = [
        "push",
        "site-a",
        "--yes",
        "-f",
        file.to_str().unwrap(),
        "-o",
        "json",
    ];
    fixture.script(|script| {
        script.apply.changes = vec![v1::DocumentChange {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            change: v1::Change::Changed.into(),
            ..v1::DocumentChange::default()
        }];
    });
    let mut shown = fixture.run(&line).await.to_string();
    // Both were only asked about first.
    assert_eq!(fixture.requests().len(), 5);
    fixture.script(|script| {
        script.apply.diagnostics = vec![v1::Diagnostic {
            severity: v1::Severity::Error.into(),
            path: file.to_str().unwrap().to_owned(),
            offset: 23,
            length: 8,
            line: 3,
            column: 1,
            message: "no".to_owned(),
            ..Default::default()
        }];
    });
    shown.push_str(&fixture.run(&line).await.to_string());
    insta::assert_snapshot!(shown);
    assert_eq!(fixture.requests().len(), 7);
}

/// Exit status 2 means that nothing was stored.
#[tokio::test]
async fn refused_push_reports_what_was_stored() {
    let fixture = fixture(everything_works()).await;
    fixture.write("acme.yaml", "kind: Tenant\nname: acme\n");
    let file = fixture.path("acme.yaml").to_str().unwrap().to_owned();
    fixture.script(|script| {
        script.push_refused = Some(rollout_active("running").into());
        script.push_rehearsed = true;
    });
    let line = ["push", "site-a", "--yes", "-f", &file];
    let refused = fixture.run(&line).await;
    assert_eq!(refused.status, 2);
    let stored =
        |asked: &String| asked.starts_with("ApplyRequest") && !asked.contains("dry_run: true");
    assert!(!fixture.requests().iter().any(stored));
    let mut shown = refused.to_string();
    let both = ["push", "site-a", "site-b", "--yes", "-f", &file];
    assert_eq!(fixture.run(&both).await.status, 2);
    assert!(!fixture.requests().iter().any(stored));
    // A rollout that starts after the question.
    fixture.script(|script| script.push_rehearsed = false);
    let late = fixture.run(&line).await;
    assert!(fixture.requests().iter().any(stored));
    shown.push_str(&late.to_string());
    insta::assert_snapshot!(shown);
}
