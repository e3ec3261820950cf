//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use voipfleet_protocol::identity::JoinToken;
use voipfleet_ruleset::identifiers::NodeName;

use crate::host::exec::DEFAULT_TOOL_PATH;
use crate::host::state_dir::DEFAULT_STATE;

/// Applies, proves and keeps this node's firewall.
#[derive(Debug, Parser)]
#[command(name = "voipfleet-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine a node, with a token of `voipctl token create`.
    Enroll(Enroll),
    /// Keep the rules, and obey the controller.
    Run(Run),
    /// Put the confirmed rules and sets back from disk, without a controller.
    Restore(Common),
    /// Remove every rule and set of ours from the kernel.
    Teardown(Teardown),
    /// Show what should run, and how the kernel differs. Exits 1 if it does.
    Status(Status),
}

/// The folder of the agent's state.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// The agent's folder.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, env = "VOIPFLEET_STATE")]
    pub state: PathBuf,
}

/// What every command that touches the kernel takes.
#[derive(Debug, Args)]
pub struct Common {
    /// The agent's folder.
    #[command(flatten)]
    pub state: StateArgs,
    /// Where iptables and ipset are looked for.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_TOOL_PATH)]
    pub tool_path: String,
    /// How logs look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `enroll`.
#[derive(Debug, Args)]
pub struct Enroll {
    /// HOST:PORT of the controller's enrolment listener.
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// The token.
    #[arg(
        long,
        env = "VOIPFLEET_TOKEN",
        hide_env_values = true,
        required_unless_present = "token_file"
    )]
    pub token: Option<JoinToken>,
    /// A file with the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The node's name; else the hostname's first label.
    #[arg(long)]
    pub node: Option<NodeName>,
    /// Replace the identity that this machine has.
    #[arg(long)]
    pub force: bool,
    /// The agent's folder.
    #[command(flatten)]
    pub state: StateArgs,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// State, tools and logs.
    #[command(flatten)]
    pub common: Common,
    /// How often the kernel is read although it announced no change.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub poll_interval: Duration,
}

/// `teardown`.
#[derive(Debug, Args)]
pub struct Teardown {
    /// State, tools and logs.
    #[command(flatten)]
    pub common: Common,
    /// Forget the confirmed ruleset too: the next boot restores nothing.
    #[arg(long)]
    pub purge: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// State, tools and logs.
    #[command(flatten)]
    pub common: Common,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `500ms`, `15s` or `2m`; 100 ms to a day.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and ms, s, m or h, for example 15s".to_owned())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("the unit must be ms, s, m or h, for example 15s".to_owned()),
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
    fn durations() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
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
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
