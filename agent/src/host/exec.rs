//! Runs the node's firewall tools: argv only, a clean environment, bounded in time and output.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Folders that are searched for the tools by default.
pub const DEFAULT_TOOL_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// The longest that a tool may take. The xtables lock is waited for 10 s of it; 10,000 rules
/// load in 0.3 s, 100,000 set elements in 0.4 s.
const TIME_LIMIT: Duration = Duration::from_mins(1);
/// The longest standard output that is read: `iptables-save` and `ipset save` of all that a
/// ruleset may hold, and as much of others.
const MAX_OUTPUT: usize = 128 << 20;
/// The longest standard error that is kept; the rest is read and dropped.
const MAX_WORDS: usize = 4096;
/// How many of the processes started last are known as ours: a table that is read chain by chain
/// takes two hundred.
const OWN_PIDS: usize = 512;

/// A tool failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It is nowhere on the tool path.
    #[error("{program} is not installed (looked in {path})")]
    NotInstalled {
        /// The tool.
        program: String,
        /// The folders that were searched.
        path: String,
    },
    /// The system did not start it, or its pipes broke.
    #[error("{program} could not be run")]
    Run {
        /// The tool.
        program: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} did not end within {} s, and was killed", limit.as_secs())]
    TimedOut {
        /// The tool.
        program: String,
        /// The time that it had.
        limit: Duration,
    },
    /// It printed more than is read.
    #[error("{program} printed more than {limit} bytes, and was killed")]
    TooMuchOutput {
        /// The tool.
        program: String,
        /// The most that is read.
        limit: usize,
    },
    /// It exited with an error.
    #[error("{program} {how}: {words}")]
    Refused {
        /// The tool.
        program: String,
        /// How it ended: `exited with status 1`.
        how: String,
        /// Its standard error, on one line.
        words: String,
    },
}

/// The output of a tool that succeeded.
#[derive(Debug)]
pub struct Output {
    /// Its standard output. Bytes that are no text, as comments of others may have, are
    /// U+FFFD, which nothing of ours contains.
    pub stdout: String,
    /// Its standard error, on one line, bounded.
    pub words: String,
}

/// The output of a tool, whether it succeeded or not.
#[derive(Debug)]
pub struct Ended {
    /// What it printed by then.
    pub output: Output,
    /// How it failed: `exited with status 1`.
    pub failed: Option<String>,
}

/// Processes that this agent started, so that kernel events that they cause are known as ours.
#[derive(Debug, Clone, Default)]
pub struct OwnProcesses(Arc<Mutex<VecDeque<u32>>>);

impl OwnProcesses {
    /// Whether `pid` was started here, not long ago.
    pub fn contains(&self, pid: u32) -> bool {
        let pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pids.contains(&pid)
    }

    fn add(&self, pid: u32) {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pids.len() == OWN_PIDS {
            pids.pop_front();
        }
        pids.push_back(pid);
    }
}

/// Finds tools on a path of its own, and runs them.
#[derive(Debug, Clone)]
pub struct Runner {
    path: String,
    limit: Duration,
    own: OwnProcesses,
    /// The file that the tools lock in place of the xtables lock.
    lock_file: Option<String>,
}

impl Runner {
    /// Tools are searched in `path`, folders separated by colons.
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            limit: TIME_LIMIT,
            own: OwnProcesses::default(),
            lock_file: None,
        }
    }

    /// The same while the xtables lock is held: its tools lock `file` instead.
    #[must_use]
    pub fn with_lock_file(mut self, file: String) -> Self {
        self.lock_file = Some(file);
        self
    }

    /// The processes that this runner and its clones started.
    pub fn own(&self) -> OwnProcesses {
        self.own.clone()
    }

    /// The file behind a tool's name.
    pub fn find(&self, program: &str) -> Result<PathBuf, ExecError> {
        self.path
            .split(':')
            .filter(|folder| folder.starts_with('/'))
            .map(|folder| PathBuf::from(folder).join(program))
            .find(|file| file.is_file())
            .ok_or_else(|| ExecError::NotInstalled {
                program: program.to_owned(),
                path: self.path.clone(),
            })
    }

    /// Runs `program` with `input` on its standard input. Succeeds when it exits with 0.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[A],
        input: &str,
    ) -> Result<Output, ExecError> {
        self.start(program, arguments)?.finish(input)
    }

    /// Starts `program`, which waits for its input.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[A],
    ) -> Result<Started, ExecError> {
        let file = self.find(program)?;
        #[allow(clippy::disallowed_methods)] // the one caller that the ban allows
        let mut command = Command::new(file);
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", &self.path)
            .envs(self.lock_file.iter().map(|file| ("XTABLES_LOCKFILE", file)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: when time is up, what it started goes with it.
            .process_group(0);
        let child = command.spawn().map_err(|source| ExecError::Run {
            program: program.to_owned(),
            source,
        })?;
        self.own.add(child.id());
        Ok(Started {
            program: program.to_owned(),
            child,
            ended: false,
            limit: self.limit,
        })
    }
}

/// A tool that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Started {
    program: String,
    child: Child,
    /// It is reaped: its id may be another's.
    ended: bool,
    limit: Duration,
}

impl Started {
    /// Writes its input, and waits for its end. Succeeds when it exits with 0. The time that
    /// it may take is counted from now.
    pub fn finish(self, input: &str) -> Result<Output, ExecError> {
        let program = self.program.clone();
        let Ended { output, failed } = self.end(input)?;
        match failed {
            None => Ok(output),
            Some(how) => Err(ExecError::Refused {
                program,
                how,
                words: output.words,
            }),
        }
    }

    /// The same, with what a tool that failed has printed.
    pub fn end(mut self, input: &str) -> Result<Ended, ExecError> {
        let deadline = Instant::now() + self.limit;
        let ended = converse(&mut self.child, input.as_bytes(), deadline)
            .and_then(|(stdout, words)| Ok((wait(&mut self.child, deadline)?, stdout, words)));
        let program = self.program.clone();
        let (status, stdout, words) = match ended {
            Ok(ended) => ended,
            Err(Stop::Io(source)) => return Err(ExecError::Run { program, source }),
            Err(Stop::TooMuch) => {
                return Err(ExecError::TooMuchOutput {
                    program,
                    limit: MAX_OUTPUT,
                });
            }
            Err(Stop::Late) => {
                return Err(ExecError::TimedOut {
                    program,
                    limit: self.limit,
                });
            }
        };
        self.ended = true;
        let stdout = String::from_utf8(stdout)
            .unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned());
        Ok(Ended {
            output: Output {
                stdout,
                words: one_line(&words),
            },
            failed: (!status.success()).then(|| describe(status)),
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.ended {
            kill(&mut self.child);
        }
    }
}

enum Stop {
    Io(std::io::Error),
    TooMuch,
    Late,
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Stop::Io(error)
    }
}

impl From<nix::Error> for Stop {
    fn from(error: nix::Error) -> Self {
        Stop::Io(error.into())
    }
}

fn nonblocking(fd: impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

fn left(deadline: Instant) -> Result<PollTimeout, Stop> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Stop::Late);
    }
    // Rounded up, so that the last millisecond is not spent spinning.
    let left = left + Duration::from_millis(1);
    Ok(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
}

/// Feeds the input and reads both outputs until the child has closed them.
fn converse(
    child: &mut Child,
    mut input: &[u8],
    deadline: Instant,
) -> Result<(Vec<u8>, Vec<u8>), Stop> {
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    if let Some(pipe) = &stdin {
        nonblocking(pipe)?;
    }
    if let Some(pipe) = &stdout {
        nonblocking(pipe)?;
    }
    if let Some(pipe) = &stderr {
        nonblocking(pipe)?;
    }
    let (mut output, mut words) = (Vec::new(), Vec::new());
    loop {
        if input.is_empty() {
            stdin = None; // the end of the input
        }
        if stdout.is_none() && stderr.is_none() {
            return Ok((output, words));
        }
        let mut waits: Vec<PollFd<'_>> = Vec::with_capacity(3);
        waits.extend(
            stdin
                .as_ref()
                .map(|p| PollFd::new(p.as_fd(), PollFlags::POLLOUT)),
        );
        waits.extend(
            stdout
                .as_ref()
                .map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)),
        );
        waits.extend(
            stderr
                .as_ref()
                .map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut waits, left(deadline)?) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        drop(waits);
        // All are non-blocking: one that is not ready returns at once.
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(taken) => input = input.get(taken..).unwrap_or_default(),
                Err(error) if is_later(&error) => {}
                // It stopped reading: its exit status explains more than a broken pipe would.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => input = &[],
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(pipe) = &mut stdout
            && !drain(pipe, &mut output, MAX_OUTPUT + 1)?
        {
            stdout = None;
        }
        if output.len() > MAX_OUTPUT {
            return Err(Stop::TooMuch);
        }
        if let Some(pipe) = &mut stderr
            && !drain(pipe, &mut words, MAX_WORDS)?
        {
            stderr = None;
        }
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Reads what is there, keeps up to `keep` bytes in all. False at the end of the stream.
fn drain(pipe: &mut impl Read, into: &mut Vec<u8>, keep: usize) -> Result<bool, Stop> {
    let mut buffer = [0; 16 << 10];
    match pipe.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(read) => {
            let room = keep.saturating_sub(into.len()).min(read);
            into.extend(buffer.iter().take(room));
            Ok(true)
        }
        Err(error) if is_later(&error) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Reaps a child that has closed its outputs: it is about to exit, if it has not yet.
fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus, Stop> {
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        left(deadline)?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill(child: &mut Child) {
    // It is not reaped yet, so its id, which is its group's, is still its own.
    if let Ok(group) = i32::try_from(child.id()) {
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _reaped = child.wait();
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Tool output as one line of printable text.
fn one_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .map(|line| line.trim().to_owned())
        // "Try `iptables-restore -h' …" does not help here.
        .filter(|line| !line.is_empty() && !line.starts_with("Try `"))
        .collect();
    lines.join("; ")
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
