//! A real controller that is killed at every step of a rollout, and started again.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
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

/// Long enough for a busy machine; nothing waits for its end.
const LIMIT: Duration = Duration::from_mins(4);

struct Process {
    child: Child,
    address: String,
}

/// Starts the real binary on an installation's data; `failpoint` ends it.
#[allow(clippy::disallowed_methods, reason = "the controller under test")]
async fn start(installation: &Installation, failpoint: Option<String>) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voipfleet-controller"));
    command
        .args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--enrol-listen",
            "127.0.0.1:0",
        ])
        .args(["--log-format", "json", "--data"])
        .arg(installation.files.root())
        .stderr(Stdio::piped());
    if let Some(failpoint) = failpoint {
        command.env("VOIPFLEET_FAILPOINT", failpoint);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let (told, address) = tokio::sync::oneshot::channel();
    // Reads on to the end: a full pipe would hold the controller.
    std::thread::spawn(move || {
        let mut told = Some(told);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = &value["fields"];
            if fields["message"] == "controller started"
                && let (Some(told), Some(address)) = (told.take(), fields["address"].as_str())
            {
                let _heard = told.send(address.to_owned());
            }
            line.clear();
        }
    });
    let address = tokio::time::timeout(LIMIT, address).await.unwrap().unwrap();
    Process { child, address }
}

impl Process {
    /// It has killed itself where it was told to.
    async fn died(mut self, point: &str) {
        let wait = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        let status = tokio::time::timeout(LIMIT, wait).await;
        let status = status.unwrap_or_else(|_| panic!("{point} was never reached"));
        let signal = std::os::unix::process::ExitStatusExt::signal(&status.unwrap());
        assert_eq!(signal, Some(9), "{point}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    process.died(&point).await;

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
