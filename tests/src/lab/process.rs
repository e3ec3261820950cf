//! Processes of the lab: ended, stopped and started again.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Lab;

impl Lab {
    /// Sends a signal to `controller` or to a node's agent.
    pub fn signal(&self, process: &str, signal: Signal) -> Result<()> {
        let pid = self
            .running(process)?
            .with_context(|| format!("{process} does not run"))?;
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {process}"))
    }

    /// Ends a process without warning, and waits until it is gone.
    pub fn kill(&self, process: &str) -> Result<()> {
        self.signal(process, Signal::SIGKILL)?;
        self.wait(&format!("end of {process}"), || {
            Ok(self.running(process)?.is_none().then_some(()))
        })
    }

    /// Starts `controller` or a node's agent again, as the lab does.
    pub fn start(&self, process: &str) -> Result<()> {
        self.start_polling(process, self.poll_interval)
    }

    /// The same with another poll interval for an agent.
    pub fn start_polling(&self, process: &str, poll_interval: &str) -> Result<()> {
        let ended = self.quickstart_polling(&["start", process], poll_interval)?;
        ensure!(
            ended.success(),
            "cannot start {process}: {}",
            ended.output()
        );
        Ok(())
    }

    /// Ends a process as an operator would, and waits until it is gone.
    pub fn stop(&self, process: &str) -> Result<()> {
        let ended = self.quickstart(&["stop", process])?;
        ensure!(ended.success(), "cannot stop {process}: {}", ended.output());
        Ok(())
    }

    /// The process id, if the process that the lab recorded still runs: an id with another
    /// start time is somebody else's.
    pub fn running(&self, process: &str) -> Result<Option<Pid>> {
        let path = self.state().join("pid").join(process);
        let record = std::fs::read_to_string(&path)
            .with_context(|| format!("the lab has no process {process}"))?;
        let (pid, start) = record
            .trim()
            .split_once(' ')
            .with_context(|| format!("{} is damaged", path.display()))?;
        let Ok(line) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Ok(None);
        };
        // The name in the second field may hold spaces and parentheses.
        let fields: Vec<&str> = line
            .rsplit_once(") ")
            .map(|(_, rest)| rest.split(' ').collect())
            .unwrap_or_default();
        let alive = fields.first().is_some_and(|state| *state != "Z");
        let same = fields.get(19).is_some_and(|at| *at == start);
        Ok((alive && same)
            .then(|| pid.parse().map(Pid::from_raw))
            .transpose()?)
    }
}
