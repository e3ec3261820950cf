//! How long an outside edit stands.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use voipfleet_tests::lab::{Family, Lab, Options, Rules};

use super::announce::Announcements;
use super::figures::{Series, say, show};

const EDITS: usize = 200;
/// More in a row would be a fight, which the agent backs off from.
const BURST: usize = 24;
/// After which a repair counts as one that stands.
const QUIET: Duration = Duration::from_secs(11);
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn run() -> Result<()> {
    say(&format!(
        "\ndrift: {EDITS} edits of rules, both families in turn\n\
         {:<44} {:>9} {:>9} {:>9}",
        "", "median", "p99", "max"
    ))?;
    let node = |backend, poll| Options {
        nodes: 1,
        backend,
        poll_interval: poll,
        ..Options::default()
    };
    // A poll in an hour: only announcements can find an edit.
    Lab::run(&node("nft", "1h"), |lab| {
        let mut bare = Series::default();
        for _ in 0..EDITS {
            bare.add(bare_read_and_write(lab)?);
        }
        row("floor: iptables-save, then one-rule restore", &bare)?;
        row("nft: edit in force until undone in force", &announced(lab)?)
    })?;
    Lab::run(&node("legacy", "1s"), |lab| {
        row("legacy: end of edit until seen undone", &watched(lab)?)
    })
}

fn row(what: &str, series: &Series) -> Result<()> {
    say(&format!(
        "{what:<44} {:>9} {:>9} {:>9}",
        show(series.median()),
        show(series.p99()),
        show(series.max())
    ))
}

fn only_node(lab: &Lab) -> Result<String> {
    let node = lab.nodes().first().context("the lab has no node")?;
    Ok(node.name.clone())
}

/// The two tools that a repair must run, in a chain of their own beside ours, from a shell that
/// runs already.
fn bare_read_and_write(lab: &Lab) -> Result<Duration> {
    let script = "iptables -w -N bench 2>/dev/null; iptables -w -A bench -p tcp --dport 1; \
                  s=$(date +%s%N); iptables-save -t filter >/dev/null; \
                  printf '*filter\\n-D bench 1\\nCOMMIT\\n' | iptables-restore --noflush; \
                  e=$(date +%s%N); iptables -w -X bench; echo $((e-s))";
    let ended = lab.on(&only_node(lab)?, &["sh", "-c", script])?;
    let nanoseconds = ended.stdout.trim().parse();
    Ok(Duration::from_nanos(
        nanoseconds.with_context(|| ended.output())?,
    ))
}

/// By the kernel's own announcements: from the transaction of the edit to the one of the repair.
fn announced(lab: &Lab) -> Result<Series> {
    let node = only_node(lab)?;
    let announcements = Announcements::of(&node)?;
    let mut series = Series::default();
    let before = lab.rules(&node)?;
    for round in 0..EDITS {
        pause(round);
        let (tool, change) = edit(&before, round);
        announcements.forget();
        lab.edit(&node, &change)?;
        let made = announcements.next(|comm| comm == tool, PATIENCE)?;
        let undone = announcements.next(|comm| comm.contains("tables-rest"), PATIENCE)?;
        series.add(undone.saturating_duration_since(made));
        settle(lab, &node, &before, &change)?;
    }
    Ok(series)
}

/// From outside: until `iptables-save` prints what it printed before.
fn watched(lab: &Lab) -> Result<Series> {
    let node = only_node(lab)?;
    let mut series = Series::default();
    let before = lab.rules(&node)?;
    for round in 0..EDITS {
        pause(round);
        let (tool, change) = edit(&before, round);
        let family = if tool == "iptables" {
            Family::V4
        } else {
            Family::V6
        };
        let save = format!("{tool}-save -t filter");
        let lines = |text: &str| text.lines().filter(|line| line.starts_with("-A")).count();
        let wanted = before
            .of(family)
            .iter()
            .filter(|line| line.starts_with("-A"))
            .count();
        lab.edit(&node, &change)?;
        let start = Instant::now();
        while lines(&lab.edit(&node, &save)?) != wanted {
            if start.elapsed() > PATIENCE {
                bail!("{change:?} still stands after {} s", PATIENCE.as_secs());
            }
        }
        series.add(start.elapsed());
        settle(lab, &node, &before, &change)?;
    }
    Ok(series)
}

fn settle(lab: &Lab, node: &str, before: &Rules, change: &str) -> Result<()> {
    let start = Instant::now();
    while lab.rules(node)? != *before {
        if start.elapsed() > PATIENCE {
            bail!("{change:?} still stands after {} s", PATIENCE.as_secs());
        }
    }
    Ok(())
}

fn pause(round: usize) {
    if round > 0 && round.is_multiple_of(BURST) {
        std::thread::sleep(QUIET);
    }
}

/// Rules removed, rules put in, and the jump removed, in both families.
fn edit(before: &Rules, round: usize) -> (&'static str, String) {
    let rules = before.chain(Family::V4, "VF-INPUT").len();
    let tool = if round.is_multiple_of(2) {
        "iptables"
    } else {
        "ip6tables"
    };
    let change = match round % 6 {
        0 | 1 => format!(
            "{tool} -w -D VF-INPUT {}",
            2 + round % rules.saturating_sub(2).max(1)
        ),
        2 | 3 => format!("{tool} -w -I VF-INPUT 1 -p tcp --dport 3306 -j ACCEPT"),
        _ => format!("{tool} -w -D INPUT -j VF-INPUT"),
    };
    (tool, change)
}
