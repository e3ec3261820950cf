//! The subcommands, one file each.

mod enroll;
mod restore;
mod run;
mod set_controller;
mod status;
mod teardown;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use voipfleet_log::Form;

use crate::cli::{Cli, Command, LogFormat, Tools};
use crate::host::clock::FleetClock;
use crate::host::exec::Runner;
use crate::kernel::System;
use crate::ledger::Ledger;

/// Runs the subcommand that the command line names.
pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Enroll(arguments) => enroll::enroll(&arguments),
        Command::SetController(arguments) => set_controller::set_controller(&arguments),
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
    let form = match format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::FlatJson,
    };
    voipfleet_log::start(form, false);
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
