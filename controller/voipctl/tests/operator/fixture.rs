//! The fixture of every test: a controller, an operator's context file, and a console in memory.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use jiff::Timestamp;
use voipctl::cli::Cli;
use voipctl::console::{Console, Pane};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_testkit::controller::Script;
use voipfleet_testkit::{Credentials, FakeController, TestCa};

pub(crate) const CONTROLLER: &str = "spiffe://fleet.example/controller";
pub(crate) const ADA: &str = "spiffe://fleet.example/operator/ada";

/// The terminal of a run.
#[derive(Clone, Copy)]
pub(crate) enum Terminal {
    /// Output into a pipe, and no answers at stdin.
    None,
    /// A terminal with this width and no colour, at which these answers are typed.
    Plain(usize, &'static str),
    /// The same with colour.
    Colour(usize),
}

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) controller: FakeController,
}

/// The result of a run.
pub(crate) struct Outcome {
    pub(crate) status: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub(crate) fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// `seconds` before [`now`], in the form of the wire.
pub(crate) fn ago(seconds: i64) -> u64 {
    u64::try_from(now().as_millisecond() - seconds * 1000).unwrap()
}

impl Fixture {
    /// A controller and an operator that trust each other.
    pub(crate) async fn new() -> Self {
        let ca = TestCa::new();
        Self::between(&ca.issue(CONTROLLER, 2999), &ca.issue(ADA, 2027)).await
    }

    /// A controller and an operator with these certificates.
    pub(crate) async fn between(theirs: &Credentials, ours: &Credentials) -> Self {
        let controller = FakeController::start(theirs).await;
        let folder = tempfile::tempdir().unwrap();
        let fixture = Self { folder, controller };
        fixture.write_context(&fixture.address(), ours);
        fixture
    }

    pub(crate) fn address(&self) -> String {
        self.controller.address.to_string()
    }

    pub(crate) fn write_context(&self, controller: &str, ours: &Credentials) {
        let text = serde_json::json!({
            "controller": controller, "operator": "ada", "ca": ours.ca,
            "certificate": ours.certificate, "key": ours.key,
        });
        self.write("context.yaml", text.to_string());
        private(&self.path("context.yaml"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        self.controller.script(change);
    }

    /// The requests so far, in the order in which they came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.controller.requests()
    }

    /// Runs voipctl without a terminal.
    pub(crate) async fn run(&self, args: &[&str]) -> Outcome {
        self.run_on(Terminal::None, args).await
    }

    pub(crate) async fn run_on(&self, terminal: Terminal, args: &[&str]) -> Outcome {
        self.run_with(terminal, "", now(), args).await
    }

    pub(crate) async fn run_with(
        &self,
        terminal: Terminal,
        stdin: &'static str,
        now: Timestamp,
        args: &[&str],
    ) -> Outcome {
        let (out, err) = (Shared::default(), Shared::default());
        let pane = |shared: &Shared| match terminal {
            Terminal::None => Pane::plain(shared.clone()),
            Terminal::Plain(width, _) => Pane::terminal(shared.clone(), width, false),
            Terminal::Colour(width) => Pane::terminal(shared.clone(), width, true),
        };
        let (typed, answers) = match terminal {
            Terminal::Plain(_, typed) => (typed, true),
            Terminal::None | Terminal::Colour(_) => (stdin, false),
        };
        let mut console = Console::new(pane(&out), pane(&err), typed.as_bytes(), answers);
        let context = self.path("context.yaml");
        let mut line = vec!["voipctl", "--context", context.to_str().unwrap()];
        line.extend(args);
        let cli = Cli::try_parse_from(line).unwrap();
        let status = voipctl::run(cli, &mut console, now).await;
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let plain = |shared: &Shared| {
            shared
                .text()
                .replace(&folder, "FOLDER")
                .replace(&self.address(), "controller:7443")
        };
        Outcome {
            status: status as u8,
            out: plain(&out),
            err: plain(&err),
        }
    }
}

pub(crate) fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit status {}\n--- stdout\n{}--- stderr\n{}",
            self.status, self.out, self.err
        )
    }
}

/// The refusal of a push while a rollout of the site is in progress.
pub(crate) fn rollout_active(state: &str) -> Refusal {
    let message =
        format!("site-a: the rollout of generation 7 by ben is {state} since 2026-11-23T11:00:00Z");
    Refusal::new(Reason::RolloutActive, message)
        .hint("watch it: voipctl rollout watch site-a")
        .hint("push after it: voipctl push site-a --queue")
        .hint("end it: voipctl rollout abort site-a")
}
