//! A real controller that is killed at every step of a rollout, and started again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use voipfleet_controller::failpoint::{self, At};
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    PauseRolloutRequest, PushRequest, ResumeRolloutRequest, RolloutReport, RolloutStatusRequest,
    WatchRolloutRequest,
};
use voipfleet_testkit::RunningAgent;

use super::installation::{Installation, staged};
use super::process::{self, LIMIT, Process};

/// Starts the real binary on an installation's data; `failpoint` ends it.
async fn start(installation: &Installation, failpoint: Option<String>) -> Process {
    let mut command = process::controller(installation);
    if let Some(failpoint) = failpoint {
        command.env("VOIPFLEET_FAILPOINT", failpoint);
    }
    process::start(command)
        .await
        .unwrap_or_else(|ended| panic!("{ended:?}"))
}

async fn died(process: Process, point: &str) {
    let ended = process.ended().await;
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
    assert_eq!(signal, Some(9), "{point}");
}

async fn client(
    installation: &Installation,
    address: &str,
) -> OperatorClient<tonic::transport::Channel> {
    OperatorClient::new(installation.admin.connect(address).await.unwrap())
}

async fn report(installation: &Installation, address: &str) -> RolloutReport {
    let request = RolloutStatusRequest {
        site: "site-a".to_owned(),
    };
    let mut client = client(installation, address).await;
    let answer = client.rollout_status(request).await;
    answer.unwrap().into_inner().rollouts.remove(0)
}

fn push() -> PushRequest {
    PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    }
}

/// Follows the rollout to its end, and resumes it where it is paused.
async fn ended(installation: &Installation, address: &str) -> RolloutReport {
    let site = || "site-a".to_owned();
    let mut operator = client(installation, address).await;
    let ends = async {
        loop {
            let report = report(installation, address).await;
            if report.ended_ms != 0 {
                return report;
            }
            if report.state == "paused" {
                let request = ResumeRolloutRequest { site: site() };
                operator.resume_rollout(request).await.unwrap();
            }
            // The events of a running rollout end with it.
            let request = WatchRolloutRequest { site: site() };
            let mut events = operator.watch_rollout(request).await.unwrap().into_inner();
            while events.message().await.unwrap().is_some() {}
        }
    };
    if let Ok(report) = tokio::time::timeout(LIMIT, ends).await {
        return report;
    }
    panic!("no end: {:?}", report(installation, address).await);
}

fn agents_run_their_targets(agents: &[RunningAgent], report: &RolloutReport) -> bool {
    let mut nodes = report.batches.iter().flat_map(|batch| &batch.nodes);
    nodes.all(|node| {
        let agent = agents.iter().find(|agent| agent.name() == node.node);
        agent.and_then(|agent| agent.history().generation()) == Some(node.target)
    })
}

async fn killed_at(step: &'static str, at: At) {
    let point = failpoint::name(step, at);
    let on_failure = if step == "back" { "rollback" } else { "halt" };
    // The pause makes an answer a step of its own.
    let staging = json!({
        "canary": 1, "batch": 2, "max_failures": 0, "pause": "1s", "on_failure": on_failure,
    });
    let mut installation = Installation::start().await;
    installation
        .apply(&staged(staging.clone(), "203.0.113.0/24"))
        .await;
    let fails = matches!(step, "halt" | "back");
    let (address, dial) = watch::channel(installation.address());
    let mut agents = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let node = installation.enrol(name).await;
        let refuses = if fails && name == "b" {
            BTreeSet::from([2])
        } else {
            BTreeSet::new()
        };
        agents.push(node.run(dial.clone(), refuses));
    }
    let settled = installation.push().await.end().await.0;
    // Nodes that had not dialled in yet get it now.
    assert_eq!(settled.failed, 0);
    for agent in &agents {
        agent.until(|history| history.confirmed.is_some()).await;
    }
    let before: Vec<Vec<u8>> = agents.iter().map(|r| r.confirmed().unwrap().1).collect();
    installation.apply(&staged(staging, "203.0.112.0/24")).await;
    installation.stop().await;

    let process = start(&installation, Some(point.clone())).await;
    address.send(process.address.clone()).unwrap();
    let mut operator = client(&installation, &process.address).await;
    // It may die before it answers.
    let _events = operator.push(push()).await;
    if step == "command" {
        let request = PauseRolloutRequest {
            site: "site-a".to_owned(),
        };
        let _died = operator.pause_rollout(request).await;
    }
    died(process, &point).await;

    let process = start(&installation, None).await;
    address.send(process.address.clone()).unwrap();
    let mut operator = client(&installation, &process.address).await;
    if report(&installation, &process.address).await.generation == 1 {
        assert_eq!((step, at), ("start", At::Decided), "a push was lost");
        operator.push(push()).await.unwrap();
    }
    let wanted = match step {
        "halt" => "halted",
        "back" => "rolled_back",
        _ => "done",
    };
    let end = ended(&installation, &process.address).await;
    assert_eq!(end.state, wanted, "{point}: {end:?}");
    let settled = async {
        while !agents_run_their_targets(&agents, &report(&installation, &process.address).await) {
            // A poll: another process announces nothing about a rollout that has ended,
            // and learns only then what nodes did that were at work at its end.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let settled = tokio::time::timeout(LIMIT, settled).await;
    assert!(settled.is_ok(), "{point}: nodes do not run their targets");
    for (agent, before) in agents.iter().zip(before) {
        let history = agent.history();
        for (generation, contents) in &history.offered {
            assert_eq!(
                contents.len(),
                1,
                "{point}: {} at {generation}",
                agent.name()
            );
        }
        let (generation, digest) = history.confirmed.clone().unwrap();
        match step {
            "back" => assert_eq!(
                (generation, digest),
                (3, before),
                "{point}: {}",
                agent.name()
            ),
            "halt" => assert!(generation == 2 || digest == before, "{point}"),
            _ => assert_eq!(generation, 2, "{point}: {}", agent.name()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_any_step_resumes_its_rollout() {
    // A few at a time: each is a controller with four nodes.
    for points in failpoint::ALL.chunks(5) {
        let mut running = tokio::task::JoinSet::new();
        for (step, at) in points {
            running.spawn(killed_at(step, *at));
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}
