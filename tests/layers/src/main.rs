//! Prints what breaks the layers of this workspace; exit status 1 if something does.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use voipfleet_layers::workspace::{CHECKS, Workspace};

fn main() -> Result<ExitCode> {
    let workspace = Workspace::here()?;
    let mut out = std::io::stdout().lock();
    let mut status = ExitCode::SUCCESS;
    for (name, check) in CHECKS {
        let violations = check(&workspace)?;
        if violations.is_empty() {
            writeln!(out, "{name}: yes")?;
        } else {
            status = ExitCode::FAILURE;
            writeln!(
                out,
                "{name}: no\n  {}",
                violations.join("\n  ").replace("\n    ", "\n      ")
            )?;
        }
    }
    Ok(status)
}
