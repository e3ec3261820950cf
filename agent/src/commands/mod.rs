//! The subcommands, one file each.

mod enroll;
mod restore;
mod run;
mod status;
mod teardown;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, LogFormat, Tools};
use crate::host::clock::FleetClock;
use crate::host::exec::Runner;
use crate::kernel::System;
use crate::ledger::Ledger;

/// Runs the subcommand that the command line names.
pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Enroll(arguments) => enroll::enroll(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Restore(arguments) => restore::restore(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Teardown(arguments) => teardown::teardown(&arguments),
    }
}

/// Prints a line on standard output.
fn print(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second start in one process (tests) keeps the first.
    let _started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // One thread: there is one connection. The kernel has a thread of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// The tools, with the ends of set elements measured by the controller's clock as the ledger knows
/// it.
fn with_fleet_clock(system: System, ledger: &Ledger, clock: &Arc<FleetClock>) -> System {
    if let Some(reading) = ledger.clock() {
        clock.restore(reading);
    }
    system.measured_by(Arc::clone(clock))
}

fn find_tools(tools: &Tools) -> anyhow::Result<System> {
    System::find(Runner::new(&tools.tool_path)).context("cannot use this machine's firewall tools")
}
