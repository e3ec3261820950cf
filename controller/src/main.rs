//! Holds one firewall policy per VoipNow site and pushes it to the agents.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use voipfleet_controller::{cli, panics};

fn main() -> ExitCode {
    panics::report();
    let cli = cli::Cli::parse();
    let ended = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(cli.run());
            // A read or write that hangs would hold the runtime, and the process with it.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // stderr may be closed: then nobody can be told.
            let _ = writeln!(std::io::stderr(), "voipfleet-controller: {error:#}");
            ExitCode::from(cli::exit_status(&error))
        }
    }
}
