//! Prints figures, each beside the floor measured in the same run: bare iptables-restore and
//! ipset. Nothing is asserted: machines differ, and are shared.

mod announce;
mod apply;
mod delta;
mod drift;
mod figures;
mod idle;
mod lockout;
mod plan;
mod push;
mod scale;
mod site;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 1,000 and 10,000 rules and a 100,000-entry set on one kernel.
    Apply,
    /// 100 changes in a 100,000-entry set.
    Delta,
    /// A push to many nodes with 100 rules each, and the memory of controller and agents.
    Push,
    /// A plan of a large site: compile and comparison alone.
    Plan,
    /// 20 sites of 30 simulated nodes and 2,000 tenants: the daily calls, the controller's memory.
    Scale,
    /// Outside edits noticed and repaired.
    Drift,
    /// A push that locks people out, until they are back in.
    Lockout,
    /// What idle agents cost.
    Idle,
}

/// Prints figures of Voipfleet on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; by default everything.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Nodes of the push.
    #[arg(long, default_value_t = 50)]
    nodes: u32,
    /// Times that each figure is taken; the median is printed.
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// How long agents are idle.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benches need root, for network namespaces and iptables: run sudo tests/bench.sh"
    );
    let wanted = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    if wanted(Part::Apply) {
        apply::run(arguments.times)?;
    }
    if wanted(Part::Delta) {
        delta::run(arguments.times)?;
    }
    if wanted(Part::Plan) {
        plan::run(arguments.times)?;
    }
    if wanted(Part::Scale) {
        scale::run(scale::FULL, arguments.times)?;
    }
    if wanted(Part::Drift) {
        drift::run()?;
    }
    if wanted(Part::Lockout) {
        lockout::run()?;
    }
    if wanted(Part::Idle) {
        idle::run(arguments.minutes)?;
    }
    if wanted(Part::Push) {
        push::run(arguments.nodes, arguments.times)?;
    }
    Ok(())
}
