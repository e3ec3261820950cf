//! `voipfleet-agent restore`

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use voipfleet_protocol::errors::chain;

use super::{find_tools, print, start_log, with_fleet_clock};
use crate::cli::Tools;
use crate::enforcement::recovery::{self, Interrupted};
use crate::host::state_dir::StateDir;
use crate::ledger::Ledger;

pub(super) fn restore(tools: &Tools) -> anyhow::Result<ExitCode> {
    start_log(tools.log_format);
    let state = StateDir::open(&tools.state.state)?;
    let _lock = state.lock()?;
    let system = find_tools(tools)?;
    let ledger = Ledger::open(&state.ledger())?;
    let mut system = with_fleet_clock(system, &ledger, &Arc::default());
    let recovered = recovery::recover(&mut system, &ledger);
    if let Some(fallback) = &recovered.fallback {
        bail!("{}", fallback.describe());
    }
    if let Some(lost) = &recovered.lost {
        bail!("the confirmed ruleset is lost; the rules in the kernel were left alone: {lost}");
    }
    match &recovered.interrupted {
        Some(Interrupted::Known(journal)) => print(&format!(
            "rolled back generation {}: the agent stopped before it was confirmed",
            journal.held.generation
        ))?,
        Some(Interrupted::Unknown(error)) => print(&format!(
            "rolled back a ruleset: the agent stopped before it was confirmed ({})",
            chain(error)
        ))?,
        None => {}
    }
    if let Some(failed) = &recovered.failed {
        bail!("the confirmed ruleset is not in force: {}", chain(failed));
    }
    if let Some(error) = recovered.dynamic_sets.error() {
        print(&error)?;
    }
    match &recovered.confirmed {
        Some(confirmed) => print(&format!(
            "generation {} ({}) is in force: {} rules and {} sets, read back and compared",
            confirmed.held.generation,
            confirmed.held.digest.short(),
            confirmed.ruleset.rule_count(),
            confirmed.ruleset.sets.len()
        ))?,
        None => print("nothing to restore: no push was ever confirmed on this node")?,
    }
    Ok(ExitCode::SUCCESS)
}
