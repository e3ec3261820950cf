//! `voipfleet-agent enroll`

use std::process::ExitCode;

use anyhow::bail;
use voipfleet_protocol::identity::JoinToken;

use super::{print, runtime};
use crate::cli::Enroll;
use crate::host::disk;
use crate::host::state_dir::StateDir;
use crate::link::enrolment::{self, Request};

/// The longest file with a token.
const MAX_TOKEN_FILE: usize = 4096;

pub(super) fn enroll(arguments: &Enroll) -> anyhow::Result<ExitCode> {
    let from_file;
    let token = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let Some(text) = disk::read_text(path, MAX_TOKEN_FILE)? else {
                bail!("{} does not exist", path.display());
            };
            from_file = text.parse::<JoinToken>()?;
            &from_file
        }
        (None, None) => bail!("no token given: use --token-file, --token or VOIPFLEET_TOKEN"),
    };
    let state = StateDir::open(&arguments.state.state)?;
    let request = Request {
        controller: &arguments.controller,
        token,
        node: arguments.node.clone(),
        force: arguments.force,
    };
    let config = runtime()?.block_on(enrolment::enroll(&state, request))?;
    print(&format!(
        "enrolled as {}/{} ({}) with the controller at {}; next: voipfleet-agent run",
        config.site,
        config.node,
        config.roles.join(", "),
        config.controller
    ))?;
    Ok(ExitCode::SUCCESS)
}
