//! A site that only observes: nothing is dropped, everything that would be is counted, and the
//! way to enforcing is a push like any other.

use anyhow::{Context as _, Result, ensure};
use voipfleet_packets::{Kind, Outcome, Reach};
use voipfleet_tests::lab::{Family, Lab, Options};

/// Stores the sample site with that mode.
fn set_mode(lab: &Lab, mode: &str) -> Result<()> {
    let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
    let changed = sample.replace("mode: enforce", &format!("mode: {mode}"));
    let applied = lab.apply(&changed)?;
    ensure!(applied.success(), "{}", applied.output());
    Ok(())
}

/// Whether `voipctl status` names the mode, for people and for programs.
fn status_says(lab: &Lab, mode: &str) -> Result<()> {
    let site: serde_json::Value =
        serde_json::from_str(&lab.voipctl_ok(&["status", "site-a", "-o", "json"])?)?;
    let says = site.get("mode").and_then(|mode| mode.as_str());
    ensure!(says == Some(mode), "not {mode}: {site}");
    let table = lab.voipctl_ok(&["status", "site-a"])?;
    let observes = table.contains("observe: nothing is dropped");
    ensure!(observes == (mode == "observe"), "{table}");
    Ok(())
}

fn strangers_find(lab: &Lab, expect: Reach) -> Result<()> {
    let mut probes = Vec::new();
    for node in lab.nodes() {
        for family in Family::BOTH {
            for port in [(Kind::Udp, 5060), (Kind::Tcp, 22), (Kind::Tcp, 3306)] {
                probes.push(lab.probe("stranger", &node.name, family, port, expect)?);
                // By a deny list, which stands above all else.
                probes.push(lab.probe("denied", &node.name, family, port, expect)?);
            }
        }
    }
    let outcomes = voipfleet_packets::run(&probes)?;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_right())
        .map(Outcome::to_string)
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Packets that the rules which stand for `label` have counted, of one family.
fn counted(lab: &Lab, node: &str, family: Family, label: &str) -> Result<u64> {
    let saved = lab.edit(node, &format!("{}-save -c -t filter", family.tool()))?;
    let comment = format!("\"vf:{label}\"");
    let counters = saved
        .lines()
        .filter(|line| line.contains(&comment))
        .map(|line| {
            let packets = line.trim_start_matches('[').split(':').next();
            packets.unwrap_or_default().parse::<u64>()
        });
    let all: Result<Vec<u64>, _> = counters.collect();
    let all = all.with_context(|| saved.clone())?;
    ensure!(!all.is_empty(), "no rule says {label}: {saved}");
    Ok(all.iter().sum())
}

#[test]
fn observing_drops_nothing_and_counts_what_it_would_drop() -> Result<()> {
    let options = Options {
        nodes: 2,
        roles: "all",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        strangers_find(lab, Reach::Closed)?;

        set_mode(lab, "observe")?;
        status_says(lab, "enforce").context("what is not pushed does not count")?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        ensure!(push.count("applied")? == 2, "{}", push.done);
        status_says(lab, "observe")?;
        let mut before = Vec::new();
        for node in lab.nodes() {
            for family in Family::BOTH {
                before.push(counted(lab, &node.name, family, "default")?);
            }
        }
        strangers_find(lab, Reach::Open)?;
        let mut before = before.into_iter();
        for node in lab.nodes() {
            for family in Family::BOTH {
                let after = counted(lab, &node.name, family, "default")?;
                let seen = after - before.next().unwrap_or_default();
                ensure!(seen >= 3, "{}, {family}: {seen} packets", node.name);
            }
        }

        set_mode(lab, "enforce")?;
        status_says(lab, "observe").context("what is not pushed does not count")?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        ensure!(push.count("applied")? == 2, "{}", push.done);
        status_says(lab, "enforce")?;
        strangers_find(lab, Reach::Closed)?;
        lab.wait_synced()?;
        Ok(())
    })
}
