//! Holds one firewall policy per VoipNow site and pushes it to the agents.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use voipfleet_controller::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // stderr may be closed: then nobody can be told.
            let _ = writeln!(std::io::stderr(), "voipfleet-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
