//! The agent's own program on a kernel of its own, and a controller that the test scripts.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use voipfleet_agent::host::state_dir::{NodeConfig, StateDir};
use voipfleet_agent::ledger::Ledger;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::{
    Confirm, ControllerMessage, DynamicSetsNotice, Hello, NodeState, NodeStatus, Offer, Welcome,
};
use voipfleet_ruleset::ruleset::{Digest, DynamicSets, Ruleset};
use voipfleet_testkit::controller::ControllerSession;
use voipfleet_testkit::{Credentials, FakeController, TestCa};

use crate::reconciler::LIMIT;
use crate::support::Place;

/// Long enough that no trial of a test ends by itself.
pub(crate) const LONG: u64 = 600_000;

/// The identities of the controller and of the only node.
pub(crate) const CONTROLLER: &str = "spiffe://voipfleet/controller";
pub(crate) const NODE: &str = "spiffe://voipfleet/site/site-a/node/sip1";

/// A controller in the namespace of the test, and the agent's program beside it.
pub(crate) struct Node<'a> {
    pub(crate) place: &'a Place,
    pub(crate) controller: FakeController,
    pub(crate) state: StateDir,
    agent: Option<Running>,
    /// What all agents of this node have logged.
    log: watch::Sender<String>,
    /// Where the agent says what systemd would hear.
    notices: UnixDatagram,
    /// How often the agent reads the kernel unasked.
    pub(crate) poll: &'static str,
}

impl<'a> Node<'a> {
    pub(crate) async fn start(place: &'a Place) -> Self {
        let mut node = Self::idle(place).await;
        node.run();
        node
    }

    /// The same, with an agent that is not started yet.
    pub(crate) async fn idle(place: &'a Place) -> Self {
        place.tool("ip link set lo up");
        place.add_foreign_rules();
        let ca = TestCa::new();
        let controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
        let identity = ca.issue(NODE, 2100);
        let folder = place.folder.path();
        let state = enrolled(&folder.join("state"), &identity, controller.address);
        let notices = UnixDatagram::bind(folder.join("notices")).unwrap();
        notices.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            place,
            controller,
            state,
            agent: None,
            log: watch::Sender::default(),
            notices,
            poll: "1h",
        }
    }

    pub(crate) fn run(&mut self) {
        self.run_until(None);
    }

    /// Starts the agent; it ends itself at that failpoint.
    pub(crate) fn run_until(&mut self, failpoint: Option<&str>) {
        assert!(self.agent.is_none());
        // What an earlier one said.
        self.notices.set_nonblocking(true).unwrap();
        while self.notices.recv(&mut [0; 64]).is_ok() {}
        self.notices.set_nonblocking(false).unwrap();
        let mut command = program(self.place, "run", &self.folder());
        if let Some(name) = failpoint {
            command.env("VOIPFLEET_FAILPOINT", name);
        }
        let child = command
            .args(["--poll-interval", self.poll])
            .env("RUST_LOG", "info")
            .env("NOTIFY_SOCKET", self.place.folder.path().join("notices"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.agent = Some(Running::new(child, self.log.clone()));
    }

    /// What all agents of this node have logged.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until the log holds these words.
    pub(crate) async fn logs(&self, words: &str) {
        let mut log = self.log.subscribe();
        let logged = log.wait_for(|log| log.contains(words));
        let logged = tokio::time::timeout(LIMIT, logged).await.is_ok();
        assert!(logged, "no {words:?} in\n{}", self.log());
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.place.folder.path().join("state")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("a running agent").child.id()
    }

    /// The most memory that the agent had at any time, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() << 10
    }

    /// Waits until the agent has finished its start: what it found is undone or in force.
    pub(crate) fn wait_ready(&self) {
        let mut notice = [0; 256];
        loop {
            let length = match self.notices.recv(&mut notice) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                received => received.expect("READY=1"),
            };
            if notice[..length].starts_with(b"READY=1") {
                return;
            }
        }
    }

    /// Ends the agent without warning.
    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().expect("a running agent");
        agent.child.kill().unwrap();
        agent.wait();
    }

    /// Waits until the agent has ended by itself. It may dial meanwhile, and hears `word` on
    /// each session that announces a trial.
    pub(crate) async fn ended_in_trial(&mut self, word: Option<Down>) -> ExitStatus {
        let agent = self.agent.take().expect("a running agent");
        let controller = &mut self.controller;
        let answers = async {
            let mut sessions = Vec::new();
            loop {
                let Some((session, hello)) = next(controller).await else {
                    continue;
                };
                if let (Some(_), Some(word)) = (announced(&hello), &word) {
                    say(&session, word.clone()).await;
                }
                sessions.push(session);
            }
        };
        let status = tokio::select! {
            status = agent.ended() => status,
            () = answers => unreachable!(),
        };
        status
    }

    /// The next session, up to its Welcome.
    pub(crate) async fn session(&mut self) -> (ControllerSession, Hello) {
        loop {
            // An agent that was killed may have left half a session behind.
            if let Some(next) = next(&mut self.controller).await {
                return next;
            }
        }
    }

    pub(crate) async fn offer(
        &self,
        session: &ControllerSession,
        nonce: u64,
        ruleset: &Ruleset,
        within_ms: u64,
    ) {
        let content = ruleset.encode();
        let digest = ruleset.digest().as_bytes().to_vec();
        self.controller.serve(&digest, vec![content.clone()]);
        let offer = Offer {
            nonce,
            generation: nonce,
            digest,
            size: content.len() as u64,
            confirm_within_ms: within_ms,
            ..Offer::default()
        };
        say(session, Down::Offer(offer)).await;
    }

    /// Notices dynamic sets; as a delta from others, or as a whole to be fetched.
    pub(crate) async fn notice(
        &self,
        session: &ControllerSession,
        dynamic: &DynamicSets,
        from: Option<&DynamicSets>,
    ) {
        if from.is_none() {
            let content = dynamic.encode();
            let chunks = content.chunks(256 << 10).map(<[u8]>::to_vec).collect();
            self.controller.serve(dynamic.digest().as_bytes(), chunks);
        }
        say(session, Down::DynamicSets(notice_of(dynamic, from))).await;
    }

    /// Offers it, and confirms it on the session that announces its trial.
    pub(crate) async fn push(
        &mut self,
        mut session: ControllerSession,
        nonce: u64,
        ruleset: &Ruleset,
    ) -> ControllerSession {
        self.offer(&session, nonce, ruleset, LONG).await;
        until(&mut session, NodeState::Trial).await;
        let (mut session, hello) = self.session().await;
        assert_eq!(announced(&hello), Some(nonce));
        say(&session, confirm(nonce, ruleset)).await;
        until(&mut session, NodeState::Applied).await;
        session
    }

    pub(crate) fn confirmed(&self) -> Option<u64> {
        let ledger = Ledger::open_read_only(&self.state.ledger());
        let confirmed = ledger.confirmed().unwrap();
        confirmed.map(|confirmed| confirmed.held.generation)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill();
        }
    }
}

/// A state folder as enrolment leaves it.
pub(crate) fn enrolled(folder: &Path, issued: &Credentials, controller: SocketAddr) -> StateDir {
    let state = StateDir::open(folder).unwrap();
    let identity = state.identity_folder();
    std::fs::create_dir_all(&identity).unwrap();
    std::fs::write(identity.join("key.pem"), &issued.key).unwrap();
    std::fs::write(identity.join("cert.pem"), &issued.certificate).unwrap();
    std::fs::write(identity.join("ca.pem"), &issued.ca).unwrap();
    let config = NodeConfig {
        site: "site-a".parse().unwrap(),
        node: "sip1".parse().unwrap(),
        roles: vec!["sip".to_owned()],
        controller: controller.to_string(),
        proxy: None,
    };
    let text = serde_json::to_string(&config).unwrap();
    std::fs::write(state.config_file(), text).unwrap();
    state
}

/// The agent's program with a subcommand, on that state.
pub(crate) fn program(place: &Place, verb: &str, state: &Path) -> Command {
    #[allow(clippy::disallowed_methods)] // a program of ours, not a tool of the node
    let mut command = Command::new(env!("CARGO_BIN_EXE_voipfleet-agent"));
    command
        .arg(verb)
        .arg("--state")
        .arg(state)
        .args(["--tool-path", &place.tool_path()])
        .env_remove("VOIPFLEET_FAILPOINT")
        .env("VOIPFLEET_FAILPOINT_LOG", failpoint_log(place));
    command
}

/// The points that all agents of this node have reached.
pub(crate) fn failpoint_log(place: &Place) -> PathBuf {
    place.folder.path().join("failpoints")
}

/// A running program, and the thread that reads what it logs.
struct Running {
    child: Child,
    reader: JoinHandle<()>,
}

impl Running {
    fn new(mut child: Child, log: watch::Sender<String>) -> Self {
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.send_modify(|log| *log += &(line + "\n"));
            }
        });
        Self { child, reader }
    }

    /// Waits for its end; all that it logged is read then.
    fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        status
    }

    /// Waits until it has ended by itself.
    async fn ended(self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let end = tokio::task::spawn_blocking(|| self.wait());
        let Ok(status) = tokio::time::timeout(LIMIT, end).await else {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("the agent goes on: nothing killed it");
        };
        status.unwrap()
    }
}

/// Whether a program was killed, as its failpoint does.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGKILL as i32)
}

/// The next session, up to its Welcome; none if it ended before its Hello.
pub(crate) async fn next(controller: &mut FakeController) -> Option<(ControllerSession, Hello)> {
    let mut session = tokio::time::timeout(LIMIT, controller.sessions.recv())
        .await
        .expect("a session")
        .unwrap();
    let hello = match hear(&mut session).await {
        Some(Up::Hello(hello)) => hello,
        None => return None,
        Some(other) => panic!("the first word is not Hello: {other:?}"),
    };
    let controller_version = "test".to_owned();
    say(
        &session,
        Down::Welcome(Welcome {
            controller_version,
            ..Welcome::default()
        }),
    )
    .await;
    Some((session, hello))
}

pub(crate) async fn hear(session: &mut ControllerSession) -> Option<Up> {
    let message = tokio::time::timeout(LIMIT, session.messages.message())
        .await
        .expect("a message, or the end");
    // A session whose connection was cut ends with an error.
    message.ok().flatten().and_then(|message| message.kind)
}

/// Says it; to an agent that is gone, in vain.
pub(crate) async fn say(session: &ControllerSession, kind: Down) {
    let message = ControllerMessage { kind: Some(kind) };
    let _heard = session.answers.send(Ok(message)).await;
}

/// Hears statuses until one of `state`.
pub(crate) async fn until(session: &mut ControllerSession, state: NodeState) -> NodeStatus {
    loop {
        match hear(session).await {
            Some(Up::Status(status)) if status.state() == state => return status,
            Some(_) => {}
            None => panic!("the session ended before {state:?}"),
        }
    }
}

/// A notice of dynamic sets, with the delta from others.
pub(crate) fn notice_of(dynamic: &DynamicSets, from: Option<&DynamicSets>) -> DynamicSetsNotice {
    DynamicSetsNotice {
        digest: dynamic.digest().as_bytes().to_vec(),
        size: dynamic.encode().len() as u64,
        delta: from.map(|from| (&dynamic.delta_from(from)).into()),
        delta_from: from.map_or_else(Vec::new, |from| from.digest().as_bytes().to_vec()),
        ..DynamicSetsNotice::default()
    }
}

/// Hears statuses until the node enforces these dynamic sets.
pub(crate) async fn until_live(
    session: &mut ControllerSession,
    dynamic: &DynamicSets,
) -> NodeStatus {
    until_digest(session, dynamic.digest()).await
}

pub(crate) async fn until_digest(session: &mut ControllerSession, digest: Digest) -> NodeStatus {
    loop {
        match hear(session).await {
            Some(Up::Status(status)) if status.dynamic_digest == digest.as_bytes() => {
                return status;
            }
            Some(_) => {}
            None => panic!("the session ended before the dynamic sets were in force"),
        }
    }
}

pub(crate) fn announced(hello: &Hello) -> Option<u64> {
    let status = hello.status.as_ref().unwrap();
    (status.state() == NodeState::Trial).then_some(status.nonce)
}

pub(crate) fn confirm(nonce: u64, ruleset: &Ruleset) -> Down {
    Down::Confirm(Confirm {
        nonce,
        generation: nonce,
        digest: ruleset.digest().as_bytes().to_vec(),
    })
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
