//! `voipfleet-agent set-controller`

use std::process::ExitCode;

use super::{print, runtime};
use crate::cli::SetController;
use crate::host::state_dir::{NodeConfig, StateDir};
use crate::link::reachability;

pub(super) fn set_controller(arguments: &SetController) -> anyhow::Result<ExitCode> {
    let state = StateDir::at(&arguments.state.state);
    let before = state.config()?;
    let proxy = if arguments.proxy.no_proxy {
        None
    } else {
        arguments.proxy.proxy.clone().or(before.proxy.clone())
    };
    let config = NodeConfig {
        controller: arguments.controller.clone(),
        proxy,
        ..before.clone()
    };
    // The old address stays until the controller has answered at the new one.
    runtime()?.block_on(reachability::check(&state, &config))?;
    state.write_config(&config)?;
    let through = config
        .proxy
        .as_ref()
        .map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    print(&format!(
        "the controller answers at {}{through}; the address was {}\n\
         the running agent takes it when it dials next; to make it dial now: systemctl restart \
         voipfleet-agent",
        config.controller, before.controller
    ))?;
    Ok(ExitCode::SUCCESS)
}
