//! `voipfleet-agent`: applies, proves and keeps a node's firewall.

use std::process::ExitCode;

use clap::Parser;
use voipfleet_agent::cli::Cli;
use voipfleet_agent::commands;

fn main() -> ExitCode {
    commands::main(Cli::parse()).unwrap_or_else(|error| {
        use std::io::Write;
        // If standard error is closed, there is nowhere left to report that.
        let _unheard = writeln!(std::io::stderr(), "voipfleet-agent: {error:#}");
        ExitCode::FAILURE
    })
}
