//! How long an outside edit stands, seen from outside the agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use voipfleet_tests::lab::{Family, Lab, Options};

use super::figures::{Series, say, show};

const EDITS: usize = 100;
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn run() -> Result<()> {
    say(&format!(
        "\ndrift: {EDITS} edits, from the end of the editor's command until iptables-save prints \
         what was there before\n{:<28} {:>12} {:>12} {:>12}",
        "", "median", "p99", "max"
    ))?;
    for (backend, poll) in [("nft", "15s"), ("legacy", "1s")] {
        let options = Options {
            nodes: 1,
            backend,
            poll_interval: poll,
            ..Options::default()
        };
        let mut series = Series::default();
        Lab::run(&options, |lab| {
            let node = lab
                .nodes()
                .first()
                .context("the lab has no node")?
                .name
                .clone();
            for round in 0..EDITS {
                series.add(edit(lab, &node, round)?);
            }
            Ok(())
        })?;
        say(&format!(
            "{:<28} {:>12} {:>12} {:>12}",
            format!("{backend}, poll {poll}"),
            show(series.median()),
            show(series.p99()),
            show(series.max())
        ))?;
    }
    Ok(())
}

fn edit(lab: &Lab, node: &str, round: usize) -> Result<Duration> {
    let before = lab.rules(node)?;
    let rules = before.chain(Family::V4, "VF-INPUT").len();
    let tool = if round.is_multiple_of(2) {
        "iptables"
    } else {
        "ip6tables"
    };
    let change = match round % 4 {
        0 | 1 => format!(
            "{tool} -w -D VF-INPUT {}",
            2 + round % rules.saturating_sub(2).max(1)
        ),
        2 => format!("{tool} -w -I VF-INPUT 1 -p tcp --dport 3306 -j ACCEPT"),
        _ => format!("{tool} -w -D INPUT -j VF-INPUT"),
    };
    lab.edit(node, &change)?;
    let start = Instant::now();
    while lab.rules(node)? != before {
        if start.elapsed() > PATIENCE {
            bail!("{change:?} still stands after {} s", PATIENCE.as_secs());
        }
    }
    Ok(start.elapsed())
}
