//! The only place of this crate that starts programs.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// What a program that has ended left behind.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The exit status; none: ended by a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Whether it ended with status 0.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// Everything that it wrote, for messages of failed tests.
    pub fn said(&self) -> String {
        format!(
            "exit status {:?}\n{}{}",
            self.status, self.stdout, self.stderr
        )
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A program that still runs.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: std::process::Child,
}

impl Running {
    /// Waits for its end and gives what it wrote.
    pub fn finish(self) -> Result<Ended> {
        let output = self
            .child
            .wait_with_output()
            .with_context(|| format!("cannot wait for {}", self.what))?;
        Ok(output.into())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the lab runs the product's programs and the kernel's tools as an operator would"
)]
fn command<S: AsRef<OsStr>>(argv: &[S]) -> Result<(String, std::process::Command)> {
    let Some((program, arguments)) = argv.split_first() else {
        bail!("nothing to run");
    };
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    Ok((program.as_ref().to_string_lossy().into_owned(), command))
}

/// Starts a program with pipes on its outputs and nothing on its input.
pub fn start<S: AsRef<OsStr>>(argv: &[S], environment: &[(&str, &OsStr)]) -> Result<Running> {
    let (what, mut command) = command(argv)?;
    let child = command
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    Ok(Running { what, child })
}

/// A program that writes to a file, and is ended when dropped.
#[derive(Debug)]
pub struct Logged {
    child: std::process::Child,
}

impl Logged {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts a program whose outputs go to the end of a file.
pub fn start_logged<S: AsRef<OsStr>>(argv: &[S], log: &Path) -> Result<Logged> {
    let (what, mut command) = command(argv)?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    Ok(Logged { child })
}

/// Runs a program to its end, whatever its exit status.
pub fn run<S: AsRef<OsStr>>(argv: &[S], environment: &[(&str, &OsStr)]) -> Result<Ended> {
    start(argv, environment)?.finish()
}

/// Runs a program to its end with `input` on its standard input.
pub fn run_with_input<S: AsRef<OsStr>>(argv: &[S], input: &str) -> Result<Ended> {
    let (what, mut command) = command(argv)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    // The tools of the lab read all of their input before they write more than a pipe holds.
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("{what} did not read its input"))?;
    }
    Running { what, child }.finish()
}
