//! `voipfleet-agent enroll`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use voipfleet_proto::proxy::{Proxy, is_exempt};
use voipfleet_protocol::identity::JoinToken;

use super::{print, runtime};
use crate::cli::{Enroll, ProxyArgs};
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
    let proxy = proxy(&arguments.proxy, &arguments.controller)?;
    let request = Request {
        controller: &arguments.controller,
        token,
        node: arguments.node.clone(),
        force: arguments.force,
        proxy: proxy.as_ref(),
    };
    let Enrolled {
        config,
        clock_ahead_ms,
    } = runtime()?.block_on(enrolment::enroll(&state, request))?;
    let through = config
        .proxy
        .as_ref()
        .map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    print(&format!(
        "enrolled as {}/{} ({}) with the controller at {}{through}; next: voipfleet-agent run",
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

/// The proxy that was asked for, or that of the environment.
fn proxy(given: &ProxyArgs, controller: &str) -> anyhow::Result<Option<Proxy>> {
    if given.proxy.is_some() || given.no_proxy {
        return Ok(given.proxy.clone());
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |upper: &str, lower: &str| variable(upper).or_else(|| variable(lower));
    let Some(url) = either("HTTPS_PROXY", "https_proxy") else {
        return Ok(None);
    };
    let host = controller
        .rsplit_once(':')
        .map_or(controller, |(host, _)| host);
    if either("NO_PROXY", "no_proxy").is_some_and(|list| is_exempt(&list, host)) {
        return Ok(None);
    }
    let proxy = url
        .parse()
        .context("HTTPS_PROXY cannot be used; set it, or pass --proxy URL or --no-proxy")?;
    Ok(Some(proxy))
}
