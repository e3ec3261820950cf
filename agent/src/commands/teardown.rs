//! `voipfleet-agent teardown`

use std::process::ExitCode;

use anyhow::anyhow;
use voipfleet_protocol::errors::chain;

use super::{find_tools, print, start_log};
use crate::cli::Teardown;
use crate::enforcement::recovery;
use crate::host::state_dir::StateDir;
use crate::ledger::Ledger;

pub(super) fn teardown(arguments: &Teardown) -> anyhow::Result<ExitCode> {
    let tools = &arguments.tools;
    start_log(tools.log_format);
    let state = StateDir::open(&tools.state.state)?;
    let _lock = state.lock()?;
    let mut system = find_tools(tools)?;
    let ledger = Ledger::open(&state.ledger())?;
    recovery::teardown(&mut system, &ledger, arguments.purge)
        .map_err(|error| anyhow!("not everything was removed: {}", chain(&error)))?;
    print(if arguments.purge {
        "removed all rules and sets of Voipfleet, and the confirmed ruleset"
    } else {
        "removed all rules and sets of Voipfleet; `run` or `restore` loads the confirmed ruleset \
         again (--purge removes it too)"
    })?;
    Ok(ExitCode::SUCCESS)
}
