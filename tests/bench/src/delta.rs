//! A hundred changes in a set of a hundred thousand, against the bare tool given their lines.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use voipfleet_agent::enforcement::apply::Prepared;
use voipfleet_agent::host::clock;
use voipfleet_agent::host::exec::{DEFAULT_TOOL_PATH, Runner};
use voipfleet_agent::kernel::{Kernel, System};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::drift::compare_sets;
use voipfleet_ruleset::iptables::{Failsafe, Slack, count_sets, parse_ipset_save, set_plan};
use voipfleet_ruleset::ruleset::{AddressSet, Ruleset};

use super::figures::{Series, say, show};
use super::site;

const ELEMENTS: usize = 100_000;
/// Half of the changes: so many elements go, and as many come.
const HALF: usize = 50;

pub(crate) fn run(times: usize) -> Result<()> {
    let system = System::find(Runner::new(DEFAULT_TOOL_PATH))?;
    let mut kernel = system
        .scratch()
        .map_err(|why| anyhow!("{why}: the bench needs network namespaces"))?;
    let mut ruleset = site::ruleset(1, ELEMENTS)?;
    Prepared::preflight(
        kernel.as_ref(),
        held(&ruleset),
        ruleset.clone(),
        None,
        Failsafe::default(),
    )?
    .enforce(kernel.as_mut())?;
    let mut series: [Series; 6] = Default::default();
    for round in 0..times {
        // Every round changes as much: its elements come, and those of the last one go.
        let next = moved(&ruleset, round)?;
        let measured = one(kernel.as_mut(), &next)?;
        for (series, measured) in series.iter_mut().zip(measured) {
            series.add(measured);
        }
        ruleset = next;
    }
    let [restore, save, ours, write, prove, beside] = series.map(|series| show(series.median()));
    say(&format!(
        "\ndelta: {} changes in a set of {ELEMENTS} elements, medians of {times}\n\
         {:<58} {restore:>10}\n{:<58} {save:>10}\n{:<58} {ours:>10}\n{:<58} {write:>10}\n\
         {:<58} {prove:>10}\n{:<58} {beside:>10}",
        2 * HALF,
        "bare ipset restore of their lines",
        "bare ipset save, once",
        "voipfleet, sets and rules read, changed and read back",
        "  of it: read, compare, change",
        "  of it: read back, compare, count",
        "  reading and comparing aside from the tools",
    ))
}

fn held(ruleset: &Ruleset) -> Held {
    Held {
        generation: 1,
        digest: ruleset.digest(),
    }
}

/// Other elements at both ends of the largest set.
fn moved(ruleset: &Ruleset, round: usize) -> Result<Ruleset> {
    let mut next = ruleset.clone();
    let set = next
        .sets
        .iter_mut()
        .max_by_key(|set| set.len())
        .ok_or_else(|| anyhow!("the bench's ruleset has no set"))?;
    let kept = set.elements.iter().skip(HALF).copied();
    let new = (0..HALF).map(|index| {
        let number = u32::try_from(round * HALF + index).unwrap_or_default();
        // Above every other element.
        IpNet::from(std::net::IpAddr::from(
            (0x2e00_0000 + number * 2).to_be_bytes(),
        ))
    });
    *set = AddressSet::new(set.name.clone(), kept.chain(new));
    Ok(next)
}

/// Bare restore, bare save, ours, its two parts, and what of it is no tool's.
fn one(kernel: &mut dyn Kernel, next: &Ruleset) -> Result<[Duration; 6]> {
    let now = clock::unix(clock::now());
    let start = Instant::now();
    let saved = kernel.ipset_save()?;
    let save = start.elapsed();

    let start = Instant::now();
    let plan = set_plan(next, &parse_ipset_save(&saved)?, now);
    let observed = parse_ipset_save(&saved)?;
    let differences = compare_sets(next, &observed, now, Slack::WRITTEN);
    let count = count_sets(next, &observed, now);
    let beside = start.elapsed();
    let expected = usize::try_from(count.wanted - count.enforced)?;
    let after = plan.after.to_string();
    let lines = plan.before.lines().count() + after.lines().count();
    anyhow::ensure!(
        (expected, differences.len(), lines) == (HALF, 2 * HALF, 2 * HALF),
        "{lines} lines for {} differences",
        differences.len()
    );

    // The same lines, and back again, so that ours finds as much to do.
    let start = Instant::now();
    kernel.ipset_restore(&(plan.before.clone() + &after))?;
    let restore = start.elapsed();
    let back = |text: &str, from: &str, to: &str| -> String {
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.replacen(from, to, 1) + "\n")
            .collect();
        lines.concat()
    };
    kernel.ipset_restore(&(back(&plan.before, "add", "del") + &back(&after, "del", "add")))?;

    let mut prepared =
        Prepared::preflight(kernel, held(next), next.clone(), None, Failsafe::default())?;
    let start = Instant::now();
    prepared.write(kernel)?;
    let write = start.elapsed();
    prepared.read_back(kernel)?;
    let ours = start.elapsed();
    Ok([
        restore,
        save,
        ours,
        write,
        ours.saturating_sub(write),
        beside,
    ])
}
