//! `packets serve` answers on many ports; `packets probe` finds out who reaches them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use voipfleet_packets::Outcome;

/// Real packets between the network namespaces of the lab.
#[derive(Debug, Parser)]
#[command(name = "packets")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Echo on every given port, IPv4 and IPv6; prints "ready" when all are bound
    Serve {
        /// TCP ports
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        /// UDP ports
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
    },
    /// Try every line of a plan; exit status 1 if one differs from what is expected
    ///
    /// A line is: WHO NETNS|- SOURCE|- NODE ADDRESS tcp|udp|ping PORT open|closed
    Probe {
        /// The plan
        plan: PathBuf,
        /// Print JSON lines instead of a table
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().verb {
        Verb::Serve { tcp, udp } => serve(&tcp, &udp),
        Verb::Probe { plan, json } => probe(&plan, json),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(tcp: &[u16], udp: &[u16]) -> Result<ExitCode> {
    voipfleet_packets::serve(tcp, udp, || {
        // Whoever waits for this line has gone if it cannot be written.
        let _gone = writeln!(std::io::stdout(), "ready");
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

fn probe(plan: &std::path::Path, json: bool) -> Result<ExitCode> {
    let text = std::fs::read_to_string(plan)
        .with_context(|| format!("cannot read the plan {}", plan.display()))?;
    let outcomes = voipfleet_packets::run(&voipfleet_packets::read_plan(&text)?)?;
    let mut out = std::io::stdout().lock();
    if json {
        for outcome in &outcomes {
            writeln!(out, "{}", serde_json::to_string(outcome)?)?;
        }
    } else {
        write!(out, "{}", voipfleet_packets::table(&outcomes))?;
    }
    let wrong: Vec<&Outcome> = outcomes.iter().filter(|one| !one.is_right()).collect();
    if !json {
        let right = outcomes.len() - wrong.len();
        writeln!(out, "\n{right} of {} as expected", outcomes.len())?;
        for one in &wrong {
            writeln!(out, "  {one}")?;
        }
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
