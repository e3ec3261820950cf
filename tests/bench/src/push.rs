//! `voipctl push` to many nodes, against the bare restore of the same rules on all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::lab::{Lab, Options};

use super::figures::{Series, ratio, say, show};
use super::site;

/// With the rules that every site has, a node comes to about 100.
const CUSTOM_RULES: usize = 90;

pub(crate) fn run(nodes: u32, times: usize) -> Result<()> {
    let options = Options {
        nodes,
        backend: "nft",
        poll_interval: "15s",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let (mut ours, mut floor) = (Series::default(), Series::default());
        let mut rules = 0;
        // The first round compiles and loads a site that is new to every node.
        for round in 0..=times {
            let stored = lab.apply(&site::document(CUSTOM_RULES, 0, round))?;
            ensure!(stored.success(), "apply: {}", stored.output());
            let start = Instant::now();
            let push = lab.push()?;
            let took = start.elapsed();
            ensure!(
                push.ended.success() && push.count("applied")? == u64::from(nodes),
                "push: {}",
                push.ended.output()
            );
            if round > 0 {
                ours.add(took);
            }
            let (bare, count) = bare_restore(lab)?;
            rules = count;
            if round > 0 {
                floor.add(bare);
            }
        }
        say(&format!(
            "\npush to {nodes} nodes, {rules} rules a family and node, medians of {times}\n\
             {:<52} {:>10}\n{:<52} {:>10}\n{:<52} {:>10}",
            "bare iptables-restore and ip6tables-restore, parallel",
            show(floor.median()),
            "voipctl push, from start to exit, every node proved",
            show(ours.median()),
            "ratio",
            ratio(ours.median(), floor.median())
        ))?;
        memory(lab)
    })
}

/// The same texts into all nodes at once by the bare tools, into chains of other names.
fn bare_restore(lab: &Lab) -> Result<(Duration, usize)> {
    let mut scripts = Vec::new();
    let mut rules = 0;
    for node in lab.nodes() {
        let mut files = Vec::new();
        for (part, tool) in [("iptables", "iptables"), ("ip6tables", "ip6tables")] {
            let text =
                lab.voipctl_ok(&["render", "site-a", "--node", &node.name, "--part", part])?;
            rules = text.lines().filter(|line| line.starts_with("-A ")).count();
            let path = lab.state().join(format!("bench-{}-{part}", node.name));
            // Nothing jumps to them: an INPUT that decides before our chain would be repaired.
            let chains: String = text
                .lines()
                .filter(|line| !line.starts_with("-A INPUT "))
                .flat_map(|line| [line, "\n"])
                .collect();
            std::fs::write(&path, chains.replace("VF-", "BENCH-"))?;
            files.push((tool, path));
        }
        let command = |restore: &str| {
            files
                .iter()
                .map(|(tool, path)| format!("{tool}-restore {restore} {}", path.display()))
                .collect::<Vec<_>>()
                .join(" && ")
        };
        scripts.push((node, command("--noflush")));
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = scripts
            .iter()
            .map(|(node, script)| scope.spawn(|| lab.on(&node.name, &["sh", "-c", script])))
            .collect();
        for thread in running {
            let ended = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread ended early"))??;
            ensure!(ended.success(), "bare restore: {}", ended.output());
        }
        Ok(())
    })?;
    let took = start.elapsed();
    // Nobody jumps to these chains; they go, so that the next round loads them anew.
    for (node, _) in &scripts {
        for tool in ["iptables", "ip6tables"] {
            let remove = format!(
                "{tool}-save -t filter | sed -n 's/^:\\(BENCH-[A-Z0-9-]*\\) .*/\\1/p' | \
                 while read -r c; do {tool} -F $c; done; \
                 {tool}-save -t filter | sed -n 's/^:\\(BENCH-[A-Z0-9-]*\\) .*/\\1/p' | \
                 while read -r c; do {tool} -X $c; done"
            );
            let ended = lab.on(&node.name, &["sh", "-c", &remove])?;
            ensure!(ended.success(), "cleaning up: {}", ended.output());
        }
    }
    Ok((took, rules))
}

fn memory(lab: &Lab) -> Result<()> {
    let mut agents = Vec::new();
    for node in lab.nodes() {
        agents.push(resident(lab, &node.name)?);
    }
    agents.sort_unstable();
    say(&format!(
        "\nresident memory\n{:<52} {:>10}\n{:<52} {:>10}\n{:<52} {:>10}",
        "agent, idle, median",
        mib(agents.get(agents.len() / 2).copied().unwrap_or_default()),
        "agent, idle, largest",
        mib(agents.last().copied().unwrap_or_default()),
        format!("controller with {} nodes", lab.nodes().len()),
        mib(resident(lab, "controller")?)
    ))
}

/// `9.9 MiB`.
pub(crate) fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// `VmRSS` of a process of the lab, KiB.
pub(crate) fn resident(lab: &Lab, process: &str) -> Result<u64> {
    let pid = lab
        .running(process)?
        .with_context(|| format!("{process} does not run"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .with_context(|| format!("no VmRSS of {process}"))
}
