//! `voipfleet-agent enroll`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use voipfleet_protocol::identity::JoinToken;

use super::{print, runtime};
use crate::cli::Enroll;
use crate::host::disk;
use crate::host::state_dir::StateDir;
use crate::link::enrolment::{self, Enrolled, Request};

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
    let Enrolled {
        config,
        clock_ahead_ms,
    } = runtime()?.block_on(enrolment::enroll(&state, request))?;
    print(&format!(
        "enrolled as {}/{} ({}) with the controller at {}; next: voipfleet-agent run",
        config.site,
        config.node,
        config.roles.join(", "),
        config.controller
    ))?;
    if let Some(ahead_ms) = clock_ahead_ms {
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let line = format!(
            "warning: this machine's clock is {} s {side} the controller's; check time \
             synchronization on both",
            ahead_ms.unsigned_abs() / 1000
        );
        writeln!(std::io::stderr(), "{line}").context("cannot write to standard error")?;
    }
    Ok(ExitCode::SUCCESS)
}
