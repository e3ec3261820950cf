//! `voipctl completions SHELL`.

use clap_complete::{Shell, generate};

use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl completions`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs it; `command` is the command line to complete.
pub fn run(
    args: &Args,
    command: &mut clap::Command,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    generate(args.shell, command, "voipctl", &mut script);
    session.console.data(&String::from_utf8_lossy(&script));
    Ok(ExitStatus::Done)
}
