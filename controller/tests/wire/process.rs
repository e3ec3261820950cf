//! The controller's real binary, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::installation::Installation;

/// Long enough for a busy machine; nothing waits for its end.
pub(crate) const LIMIT: Duration = Duration::from_mins(4);

/// What `run` is given besides the data directory.
const RUN: &str =
    "run --log-format json --listen 127.0.0.1:0 --enrol-listen 127.0.0.1:0 --resolver 127.0.0.1:9";

/// A process that accepts connections.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it wrote to stderr.
    pub(crate) text: String,
}

/// The command that runs an installation.
#[allow(clippy::disallowed_methods, reason = "the controller under test")]
pub(crate) fn controller(installation: &Installation) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voipfleet-controller"));
    command.args(RUN.split(' ')).arg("--data");
    command.arg(installation.files.root());
    command
}

/// The same from a shell, after `setup`. In it `$1` is the data directory, and `$2` an empty
/// one; the controller runs on `$data`.
#[allow(clippy::disallowed_methods, reason = "the controller under test")]
pub(crate) fn controller_after(installation: &Installation, setup: &str, empty: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(format!(
        "set -e; data=$1; {setup}\nexec \"$3\" {RUN} --data \"$data\""
    ));
    command.arg("sh").arg(installation.files.root()).arg(empty);
    command.arg(env!("CARGO_BIN_EXE_voipfleet-controller"));
    command
}

/// Starts a controller; an error if it ends before it accepts connections.
pub(crate) async fn start(mut command: Command) -> Result<Process, Ended> {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut from = BufReader::new(child.stderr.take().unwrap());
    let (told, address) = oneshot::channel();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    // Reads on to the end: a full pipe would hold the controller.
    let reader = std::thread::spawn(move || {
        let mut told = Some(told);
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|read| read > 0) {
            kept.lock().unwrap().push(line.clone());
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
    let address = tokio::time::timeout(LIMIT, address).await.unwrap();
    let process = Process {
        child,
        address: address.clone().unwrap_or_default(),
        lines,
        reader: Some(reader),
    };
    match address {
        Ok(_) => Ok(process),
        Err(_) => Err(process.ended().await),
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A path as the process sees it, in its own mount namespace.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    pub(crate) fn terminate(&self) {
        let id = nix::unistd::Pid::from_raw(self.id().try_into().unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// A number of kilobytes of `/proc/PID/status`.
    pub(crate) fn kilobytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let lines = Arc::clone(&self.lines);
        let reader = self.reader.take().unwrap();
        let wait = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().unwrap();
            reader.join().unwrap();
            status
        });
        let status = tokio::time::timeout(LIMIT, wait).await;
        let status = status.expect("the controller does not end").unwrap();
        let text = lines.lock().unwrap().concat();
        Ended { status, text }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
