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

/// Runs it.
pub fn run(args: &Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    generate(
        args.shell,
        &mut crate::cli::command(),
        "voipctl",
        &mut script,
    );
    session.console.data(&String::from_utf8_lossy(&script));
    Ok(ExitStatus::Done)
}
