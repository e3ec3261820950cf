//! `rollout`, `rollback`, and a push of several sites.

use serde_json::Value;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_proto::v1::{self, PushNodeState, Reason};

use crate::fixture::{Fixture, Terminal, ago};

fn node(name: &str, state: &str, error: &str, target: u64) -> v1::RolloutNode {
    v1::RolloutNode {
        node: name.to_owned(),
        state: state.to_owned(),
        error: error.to_owned(),
        at_ms: ago(40),
        target,
    }
}

fn halted() -> v1::RolloutReport {
    let batch = |nodes: Vec<v1::RolloutNode>| v1::RolloutBatch { nodes };
    v1::RolloutReport {
        site: "site-a".to_owned(),
        number: 3,
        generation: 7,
        back: 0,
        state: "halted".to_owned(),
        why: "sip1: the probe dns failed; 1 failed, and max_failures is 0".to_owned(),
        by: "ada".to_owned(),
        started_ms: ago(90),
        ended_ms: ago(40),
        released: 1,
        batches: vec![
            batch(vec![node("sip1", "rolled_back", "the probe dns failed", 6)]),
            batch(vec![
                node("pbx1", "waiting", "", 6),
                node("sip2", "waiting", "", 6),
            ]),
        ],
        max_failures: 0,
        failures: 1,
        waiting: Vec::new(),
    }
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.rollouts.rollouts = vec![halted()]);
    fixture
}

#[tokio::test]
async fn halted_rollout() {
    let fixture = fixture().await;
    insta::assert_snapshot!(fixture.run(&["rollout", "status", "site-a"]).await);
}

#[tokio::test]
async fn halted_rollout_on_a_narrow_terminal() {
    let fixture = fixture().await;
    let terminal = Terminal::Plain(60, "");
    let shown = fixture.run_on(terminal, &["rollout", "status"]).await;
    assert!(
        shown.out.lines().all(|line| line.chars().count() <= 70),
        "{shown}"
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn halted_rollout_as_json() {
    let fixture = fixture().await;
    let shown = fixture.run(&["rollout", "status", "-o", "json"]).await;
    let value: Value = serde_json::from_str(&shown.out).unwrap();
    let rollout = &value["rollouts"][0];
    assert_eq!(rollout["state"], "halted");
    assert_eq!(rollout["batches"][0][0]["target"], 6);
    assert_eq!(rollout["batches"][0][0]["error"], "the probe dns failed");
}

fn held() -> v1::RolloutReport {
    let waits = |ticket: u64, by: &str, planned: bool| v1::QueuedPush {
        ticket,
        by: by.to_owned(),
        at_ms: ago(30),
        planned,
    };
    v1::RolloutReport {
        state: "paused".to_owned(),
        why: "paused by ada".to_owned(),
        ended_ms: 0,
        failures: 0,
        waiting: vec![waits(4, "ben", true), waits(5, "ada", false)],
        ..halted()
    }
}

#[tokio::test]
async fn queued_pushes_are_listed() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.rollouts.rollouts = vec![held()]);
    let line = ["rollout", "status", "site-a"];
    let mut shown = fixture.run(&line).await.to_string();
    let terminal = Terminal::Plain(60, "");
    shown.push_str(&fixture.run_on(terminal, &line).await.to_string());
    insta::assert_snapshot!(shown);
    let json = fixture.run(&[&line[..], &["-o", "json"]].concat()).await;
    let value: Value = serde_json::from_str(&json.out).unwrap();
    let waiting = &value["rollouts"][0]["waiting"];
    assert_eq!(waiting[0]["ticket"], 4);
    assert_eq!(waiting[0]["by"], "ben");
    assert_eq!(waiting[0]["at"], "2026-11-23T11:59:30Z");
    assert_eq!(waiting[0]["planned"], true);
    assert_eq!(waiting[1]["planned"], false);
}

#[tokio::test]
async fn each_command_sends_its_request() {
    let fixture = fixture().await;
    for line in [
        &["rollout", "pause", "site-a"][..],
        &["rollout", "resume", "site-a"],
        &["rollout", "abort", "site-a", "--rollback", "--yes"],
        &["rollback", "site-a", "--to", "4", "--yes", "--detach"],
    ] {
        fixture.run(line).await;
    }
    let asked = fixture.requests().join("\n");
    for words in [
        "PauseRolloutRequest { site: \"site-a\" }",
        "ResumeRolloutRequest { site: \"site-a\" }",
        "AbortRolloutRequest { site: \"site-a\", roll_back: true }",
        "RollbackRequest { site: \"site-a\", to: 4,",
    ] {
        assert!(asked.contains(words), "{words} is not in\n{asked}");
    }
}

fn push() -> Vec<Kind> {
    let node = |state: PushNodeState, error: &str| v1::PushNode {
        node: "sip1".to_owned(),
        roles: vec!["sip".to_owned()],
        state: state.into(),
        error: error.to_owned(),
        elapsed_ms: 142,
        flows_cut: 0,
        ..v1::PushNode::default()
    };
    vec![
        Kind::Started(v1::PushStarted {
            generation: 7,
            changed: true,
            nodes: vec![node(PushNodeState::Sent, "")],
            ..v1::PushStarted::default()
        }),
        Kind::Node(node(PushNodeState::RolledBack, "the probe dns failed")),
        Kind::Done(v1::PushDone {
            generation: 7,
            changed: true,
            rolled_back: 1,
            waiting: 3,
            elapsed_ms: 412,
            state: "halted".to_owned(),
            why: "sip1: the probe dns failed; 1 failed, and max_failures is 0".to_owned(),
            ..v1::PushDone::default()
        }),
    ]
}

#[tokio::test]
async fn several_sites_are_pushed() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.push = push());
    let line = ["push", "site-b", "site-a", "--yes", "--parallel", "1"];
    insta::assert_snapshot!(fixture.run(&line).await);
    let shown = fixture.run(&[&line[..], &["-o", "json"]].concat()).await;
    let events: Vec<Value> = shown
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |site: &str| {
        let own = events.iter().filter(|event| event["site"] == site);
        own.map(|event| event["event"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("site-a"), ["started", "node", "done"]);
    assert_eq!(of("site-b"), ["started", "node", "done"]);
    assert_eq!(shown.status, 1);
}

#[tokio::test]
async fn failures_of_several_sites() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.push = push();
        let unknown = Refusal::new(Reason::UnknownSite, "no site named nowhere")
            .hint("to list the sites: voipctl get site");
        script.push_refused = Some(unknown.into());
    });
    let line = ["push", "nowhere", "nobody", "--yes", "--parallel", "1"];
    let none = fixture.run(&line).await;
    assert_eq!(none.status, 2, "{none}");
    assert!(!none.err.contains("rollout status"), "{none}");
    let json = fixture.run(&[&line[..], &["-o", "json"]].concat()).await;
    assert_eq!(json.status, 2, "{json}");
    assert_eq!(json.out.matches("\"event\":\"failed\"").count(), 2);
    let mut shown = none.to_string();
    shown.push_str(&json.to_string());
    // The stream of each ends early.
    fixture.script(|script| {
        script.push_refused = None;
        script.push.pop();
    });
    let late = fixture.run(&line).await;
    assert_eq!(late.status, 1, "{late}");
    shown.push_str(&late.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn timed_out_node_is_not_called_connected() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.push = push();
        let gone = "it went offline when it had its turn, and did not answer within 60 s";
        if let Some(Kind::Node(node)) = script.push.get_mut(1) {
            node.state = v1::PushNodeState::TimedOut.into();
            gone.clone_into(&mut node.error);
        }
    });
    let shown = fixture.run(&["push", "site-a", "--yes"]).await;
    assert!(shown.err.contains("sip1: no answer in time"), "{shown}");
    assert!(!shown.to_string().contains("connected"), "{shown}");
}

fn queued(ahead: u32) -> Kind {
    Kind::Queued(v1::PushQueued {
        ticket: 5,
        ahead,
        generation: 12,
        by: "ada".to_owned(),
        ..v1::PushQueued::default()
    })
}

#[tokio::test]
async fn queued_push_reports_its_position() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.push = [vec![queued(1), queued(0)], push()].concat();
    });
    let line = ["push", "site-a", "--yes", "--queue"];
    let mut shown = fixture.run(&line).await.to_string();
    let terminal = Terminal::Plain(60, "");
    shown.push_str(&fixture.run_on(terminal, &line).await.to_string());
    for more in [&["-o", "json"][..], &["--detach"], &["site-b", "--detach"]] {
        let line = [&line[..], more].concat();
        shown.push_str(&fixture.run(&line).await.to_string());
    }
    insta::assert_snapshot!(shown);
    // After its plan.
    assert!(fixture.requests()[1].contains("queue: true"));
}

#[tokio::test]
async fn dropped_push_is_a_failure() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.push = vec![queued(0)];
        let dropped = Refusal::new(
            Reason::QueueEntryGone,
            "push 5 was dropped from the queue: the rollout of generation 12 was halted",
        );
        script.push_breaks = Some(dropped.into());
    });
    let line = ["push", "site-a", "--yes", "--queue"];
    let mut shown = fixture.run(&line).await.to_string();
    let several = [
        "push",
        "site-a",
        "site-b",
        "--yes",
        "--queue",
        "--parallel",
        "1",
    ];
    shown.push_str(&fixture.run(&several).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn tenant_option_selects_its_sites() {
    let fixture = Fixture::new().await;
    let site = |name: &str, tenant: &str| v1::StoredDocument {
        kind: "Site".to_owned(),
        name: name.to_owned(),
        yaml: format!("kind: Site\nname: {name}\ntenants: [{tenant}]\n"),
        ..v1::StoredDocument::default()
    };
    fixture.script(|script| {
        script.push = push();
        script.documents.documents = vec![
            site("site-a", "acme"),
            site("site-b", "globex"),
            site("site-c", "acme"),
        ];
    });
    fixture.run(&["push", "--tenant", "acme", "--yes"]).await;
    let asked = fixture.requests().join("\n");
    assert!(asked.contains("PushRequest { site: \"site-a\""), "{asked}");
    assert!(asked.contains("PushRequest { site: \"site-c\""), "{asked}");
    assert!(!asked.contains("PushRequest { site: \"site-b\""), "{asked}");
    let shown = fixture.run(&["push", "--tenant", "nobody", "--yes"]).await;
    assert_eq!(shown.status, 2);
    assert!(
        shown.err.contains("no site serves tenant nobody"),
        "{shown}"
    );
}
