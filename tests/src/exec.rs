//! The only place of this crate that starts programs.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

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
    pub fn output(&self) -> String {
        format!(
            "exit status {:?}\n{}{}",
            self.status, self.stdout, self.stderr
        )
    }
}

/// A program that still runs.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: std::process::Child,
    stdout: BufReader<ChildStdout>,
    /// What was read of its standard output.
    read: String,
}

impl Running {
    fn new(what: String, mut child: std::process::Child) -> Result<Self> {
        let stdout = child.stdout.take().context("it has no standard output")?;
        Ok(Self {
            what,
            child,
            stdout: BufReader::new(stdout),
            read: String::new(),
        })
    }

    /// Reads its standard output up to a line from which `find` takes something. Fails when it
    /// ends before that.
    pub fn await_line<T>(
        &mut self,
        what: &str,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        loop {
            let start = self.read.len();
            let length = self.stdout.read_line(&mut self.read)?;
            ensure!(
                length > 0,
                "{} ended before {what}:\n{}",
                self.what,
                self.read
            );
            if let Some(found) = self
                .read
                .get(start..)
                .and_then(|line| find(line.trim_end()))
            {
                return Ok(found);
            }
        }
    }

    /// Waits for its end and gives what it wrote.
    pub fn finish(mut self) -> Result<Ended> {
        let stdout = &mut self.stdout;
        let read = &mut self.read;
        let mut stderr = String::new();
        let mut errors = self
            .child
            .stderr
            .take()
            .context("it has no standard error")?;
        // Both at once: a full pipe would stop it.
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| errors.read_to_string(&mut stderr));
            stdout.read_to_string(read)?;
            reader
                .join()
                .map_err(|_| std::io::Error::other("a reader panicked"))?
        })
        .with_context(|| format!("cannot read what {} writes", self.what))?;
        let status = self
            .child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.what))?;
        Ok(Ended {
            status: status.code(),
            stdout: self.read,
            stderr,
        })
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
    Running::new(what, child)
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
    Running::new(what, child)?.finish()
}
