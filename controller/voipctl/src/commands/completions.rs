//! `voipctl completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::Session;
use crate::cli::Cli;
use crate::failure::{ExitStatus, Failure};

/// `voipctl completions`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "voipctl", &mut script);
    session.console.data(&String::from_utf8_lossy(&script));
    Ok(ExitStatus::Done)
}
