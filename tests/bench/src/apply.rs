//! One node's apply, with staging, journal, read-back and ledger, against the bare tools.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use voipfleet_agent::enforcement::apply::Prepared;
use voipfleet_agent::host::exec::{DEFAULT_TOOL_PATH, Runner};
use voipfleet_agent::kernel::{Kernel, System};
use voipfleet_agent::ledger::Ledger;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::iptables::{Failsafe, restore_input, set_create_input};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use super::figures::{Series, ratio, say, show};
use super::site;

pub(crate) fn run(times: usize) -> Result<()> {
    let system = System::find(Runner::new(DEFAULT_TOOL_PATH))?;
    say(&format!(
        "apply on an empty kernel, iptables {} ({}), medians of {times}\n\
         (ours: stage in a scratch namespace, journal, apply, read back, ledger; both families)\n\
         {:<28} {:>12} {:>12} {:>7}",
        system.version(),
        system.backend(),
        "",
        "bare tools",
        "voipfleet",
        "ratio"
    ))?;
    for (what, rules, denied) in [
        ("100 rules", 100, 0),
        ("1,000 rules", 1_000, 0),
        ("10,000 rules", 10_000, 0),
        ("100,000-entry set", 1, 100_000),
    ] {
        let ruleset = site::ruleset(rules, denied)?;
        let (mut floor, mut ours) = (Series::default(), Series::default());
        for _ in 0..times {
            floor.add(bare(&system, &ruleset)?);
            ours.add(full(&system, &ruleset)?);
        }
        say(&format!(
            "{what:<28} {:>12} {:>12} {:>7}",
            show(floor.median()),
            show(ours.median()),
            ratio(ours.median(), floor.median())
        ))?;
    }
    Ok(())
}

fn empty_kernel(system: &System) -> Result<Box<dyn Kernel>> {
    system
        .scratch()
        .map_err(|why| anyhow!("{why}: the bench needs network namespaces"))
}

fn bare(system: &System, ruleset: &Ruleset) -> Result<Duration> {
    let mut kernel = empty_kernel(system)?;
    let sets = set_create_input(&ruleset.sets, 0);
    let rules =
        Family::BOTH.map(|family| (family, restore_input(ruleset, &Failsafe::default(), family)));
    let start = Instant::now();
    kernel.ipset_restore(&sets)?;
    for (family, input) in &rules {
        kernel.restore(*family, input)?;
    }
    Ok(start.elapsed())
}

fn full(system: &System, ruleset: &Ruleset) -> Result<Duration> {
    let mut kernel = empty_kernel(system)?;
    let folder = tempfile::tempdir()?;
    let ledger = Ledger::open(folder.path())?;
    let held = Held {
        generation: 1,
        digest: ruleset.digest(),
    };
    let start = Instant::now();
    let prepared = Prepared::preflight(
        kernel.as_ref(),
        held,
        ruleset.clone(),
        None,
        Failsafe::default(),
    )?;
    prepared.begin(&ledger, 1, SystemTime::UNIX_EPOCH)?;
    let confirmed = prepared.enforce(kernel.as_mut())?;
    ledger.confirm(&confirmed)?;
    ledger.settle()?;
    Ok(start.elapsed())
}
