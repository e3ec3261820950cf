//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use voipfleet_proto::proxy::Proxy;
use voipfleet_protocol::identity::JoinToken;
use voipfleet_ruleset::identifiers::NodeName;

use crate::host::exec::DEFAULT_TOOL_PATH;
use crate::host::state_dir::DEFAULT_STATE;

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

Set up:
  enroll          Enrol this machine as a node, with a token of `voipctl token create`
  set-controller  Set the controller's address or proxy, once the controller answers there

Enforce (systemd starts these):
  run             Enforce the confirmed ruleset, and take pushes from the controller
  restore         Load the confirmed ruleset from disk, without a controller

Inspect and remove:
  status          Compare the kernel with the confirmed ruleset
  teardown        Remove all rules and sets of Voipfleet from the kernel

Options:
{options}{after-help}
";

const EXAMPLES: &str = "\
Examples:
  voipfleet-agent enroll --controller vf.example.net:7444 --token-file token
  voipfleet-agent set-controller fw2.example.net:7443
  voipfleet-agent status
  voipfleet-agent teardown --purge

`voipfleet-agent COMMAND --help` describes a command.";

/// Enforces this node's firewall policy, proves it, and repairs drift
#[derive(Debug, Parser)]
#[command(
    name = "voipfleet-agent",
    version,
    help_template = TEMPLATE,
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrol this machine as a node
    ///
    /// The key is made here and stays here; the controller signs it. Run the same command again
    /// if it is interrupted: the token stays valid for this machine.
    Enroll(Enroll),
    /// Set the controller's address, once the controller answers there
    ///
    /// For a controller that moves. The address is kept only if the controller of this node's CA
    /// answers there and knows the node; otherwise everything stays as it is. The running agent
    /// takes it when it dials next; to make it dial now: systemctl restart voipfleet-agent
    SetController(SetController),
    /// Enforce the confirmed ruleset, and take pushes from the controller
    ///
    /// Runs until it is stopped. The confirmed rules stay in force after that; a push on trial is
    /// rolled back.
    Run(Run),
    /// Load the confirmed ruleset from disk, without a controller
    ///
    /// The boot unit runs it before the network is up. A push that was not confirmed before the
    /// agent ended is rolled back.
    Restore(Tools),
    /// Compare the kernel with the confirmed ruleset; exit with 1 if it is not
    /// fully in force
    ///
    /// Changes nothing, and may run beside the agent.
    Status(Status),
    /// Remove all rules and sets of Voipfleet from the kernel
    ///
    /// Stop the agent first: it would load them again.
    Teardown(Teardown),
}

#[derive(Debug, Args)]
pub struct StateArgs {
    /// Folder of the agent's state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, env = "VOIPFLEET_STATE")]
    pub state: PathBuf,
}

/// The options of every command that reads or changes the kernel.
#[derive(Debug, Args)]
pub struct Tools {
    #[command(flatten)]
    pub state: StateArgs,
    /// Folders to search for iptables and ipset
    #[arg(long, value_name = "PATH", default_value = DEFAULT_TOOL_PATH)]
    pub tool_path: String,
    /// Format of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Args)]
pub struct Enroll {
    /// Enrolment address of the controller
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// The join token; prefer --token-file, which other users cannot see
    #[arg(
        long,
        env = "VOIPFLEET_TOKEN",
        hide_env_values = true,
        required_unless_present = "token_file"
    )]
    pub token: Option<JoinToken>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Name of the node [default: first label of the hostname]
    #[arg(long, value_name = "NAME")]
    pub node: Option<NodeName>,
    /// Replace the identity that this machine already has
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub proxy: ProxyArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

/// How to reach the controller.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "HTTP proxy to the controller, kept for later: http://[USER:PASSWORD@]HOST:PORT \
                [default: $HTTPS_PROXY when enrolling, else as it is]"
    )]
    pub proxy: Option<Proxy>,
    /// Connect directly, whatever the environment says
    #[arg(long, conflicts_with = "proxy")]
    pub no_proxy: bool,
}

#[derive(Debug, Args)]
pub struct SetController {
    /// Address of the controller for agents
    #[arg(value_name = "HOST:PORT")]
    pub controller: String,
    #[command(flatten)]
    pub proxy: ProxyArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub tools: Tools,
    /// How often to inspect the kernel when it announces no change
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub poll_interval: Duration,
}

#[derive(Debug, Args)]
pub struct Teardown {
    #[command(flatten)]
    pub tools: Tools,
    /// Remove the confirmed ruleset from disk too: the next boot restores nothing
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub tools: Tools,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `500ms`, `15s`, `2m` or `1d`; 100 ms to a day.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and ms, s, m, h, d or w, for example 15s".to_owned())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err("the unit must be ms, s, m, h, d or w, for example 15s".to_owned()),
    };
    let duration = Duration::from_millis(number.saturating_mul(milliseconds));
    if (Duration::from_millis(100)..=Duration::from_hours(24)).contains(&duration) {
        Ok(duration)
    } else {
        Err("it must be between 100ms and 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_sensible_range() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1d"), Ok(Duration::from_hours(24)));
        assert!(duration("1w").unwrap_err().contains("between"));
        for bad in [
            "",
            "15",
            "s",
            "-1s",
            "1ms",
            "2d",
            "99999999999999999999s",
            "25h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_lists_every_command_in_a_group() {
        use clap::CommandFactory;
        let command = Cli::command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let name = format!("\n  {:<16}", subcommand.get_name());
            assert!(TEMPLATE.contains(&name), "{name}");
        }
    }
}
