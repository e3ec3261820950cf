//! What an agent costs that has nothing to do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use voipfleet_tests::lab::{Lab, Options};

use super::figures::say;

pub(crate) fn run(minutes: u64) -> Result<()> {
    let options = Options {
        nodes: 2,
        backend: "mixed",
        // What agents do unless they are told otherwise.
        poll_interval: "15s",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let idle = Duration::from_secs(minutes * 60);
        say(&format!(
            "\nidle agents, {minutes} minutes, poll 15 s\n{:<24} {:>20} {:>16} {:>12}",
            "", "processor time", "with its tools", "resident"
        ))?;
        let mut before = Vec::new();
        for node in lab.nodes() {
            before.push(spent(lab, &node.name)?);
        }
        std::thread::sleep(idle);
        for (node, before) in lab.nodes().iter().zip(before) {
            let now = spent(lab, &node.name)?;
            let percent = |before: u64, now: u64| -> Result<String> {
                let spent = seconds(now.saturating_sub(before))?;
                Ok(format!("{:.3} %", spent / idle.as_secs_f64() * 100.0))
            };
            say(&format!(
                "{:<24} {:>20} {:>16} {:>12}",
                node.backend,
                percent(before.own, now.own)?,
                percent(before.own + before.tools, now.own + now.tools)?,
                super::push::mib(super::push::resident(lab, &node.name)?)
            ))?;
        }
        Ok(())
    })
}

/// Clock ticks of a process.
struct Spent {
    own: u64,
    /// Of the tools that it ran and that have ended.
    tools: u64,
}

fn seconds(ticks: u64) -> Result<f64> {
    let rate = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock rate")?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand ticks")]
    let seconds = ticks as f64 / rate as f64;
    Ok(seconds)
}

fn spent(lab: &Lab, process: &str) -> Result<Spent> {
    let pid = lab
        .running(process)?
        .with_context(|| format!("{process} does not run"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name: state is field 3, utime 14, stime 15, cutime 16, cstime 17.
    let (_, fields) = stat.rsplit_once(") ").context("a strange stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |number: usize| -> Result<u64> {
        let text = fields.get(number - 3).context("a short stat")?;
        Ok(text.parse()?)
    };
    Ok(Spent {
        own: field(14)? + field(15)?,
        tools: field(16)? + field(17)?,
    })
}
