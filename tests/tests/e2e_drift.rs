//! Whatever somebody changes behind the agent's back is noticed, reported and put right.

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::lab::{DriftRecord, Family, Foreign, Lab, Options, Rules};

/// The only node of a single-node lab.
const NODE: &str = "all1";

/// A change by hand, in one transaction of `iptables-restore`.
struct Edit {
    what: &'static str,
    /// The class under which it must be reported.
    class: &'static str,
    /// The lines that do it.
    lines: fn(&Target) -> Vec<String>,
    /// The lines that take away what is not ours to repair.
    undo: &'static [&'static str],
}

/// A rule of ours to work on.
struct Target {
    chain: String,
    /// From 1.
    number: usize,
    /// Without `-A CHAIN`.
    body: String,
    /// The jump from INPUT, without `-A INPUT`.
    jump: String,
}

impl Target {
    /// A rule that opens ports, and is not the first of its chain.
    fn find(rules: &Rules, family: Family) -> Result<Self> {
        let jump = rules
            .chain(family, "INPUT")
            .into_iter()
            .find(|rule| rule.contains("-j VF-INPUT"))
            .and_then(|rule| rule.strip_prefix("-A INPUT "))
            .context("INPUT does not jump to VF-INPUT")?
            .to_owned();
        for line in rules.of(family) {
            let Some((chain, body)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let number = 1 + rules
                .chain(family, chain)
                .iter()
                .position(|rule| rule == line)
                .context("a rule is not in its chain")?;
            let opens = body.contains("--dports") && body.ends_with("-j ACCEPT");
            if chain.starts_with("VF-") && chain != "VF-FAILSAFE" && opens && number > 1 {
                return Ok(Self {
                    chain: chain.to_owned(),
                    number,
                    body: body.to_owned(),
                    jump,
                });
            }
        }
        anyhow::bail!(
            "no rule of ours opens ports ({family}): {:#?}",
            rules.of(family)
        )
    }
}

const EDITS: &[Edit] = &[
    Edit {
        what: "a rule removed",
        class: "missing",
        lines: |t| vec![format!("-D {} {}", t.chain, t.number)],
        undo: &[],
    },
    Edit {
        what: "a rule's verdict altered, its comment kept",
        class: "altered",
        lines: |t| {
            let body = t.body.replace("-j ACCEPT", "-j DROP");
            vec![format!("-R {} {} {body}", t.chain, t.number)]
        },
        undo: &[],
    },
    Edit {
        what: "a rule added to our chain",
        class: "extra",
        lines: |_| vec!["-I VF-INPUT 2 -p tcp -m tcp --dport 3306 -j ACCEPT".to_owned()],
        undo: &[],
    },
    Edit {
        what: "a rule moved to the top of its chain",
        class: "order",
        lines: |t| {
            vec![
                format!("-D {} {}", t.chain, t.number),
                format!("-I {} 1 {}", t.chain, t.body),
            ]
        },
        undo: &[],
    },
    Edit {
        what: "our jump removed",
        class: "missing",
        lines: |t| vec![format!("-D INPUT {}", t.jump)],
        undo: &[],
    },
    Edit {
        what: "an ACCEPT above our jump",
        class: "bypass",
        lines: |_| vec!["-I INPUT 2 -p tcp -m tcp --dport 8443 -j ACCEPT".to_owned()],
        undo: &["-D INPUT -p tcp -m tcp --dport 8443 -j ACCEPT"],
    },
    Edit {
        what: "an ACCEPT above everything",
        class: "bypass",
        lines: |_| vec!["-I INPUT 1 -p tcp -m tcp --dport 8443 -j ACCEPT".to_owned()],
        undo: &["-D INPUT -p tcp -m tcp --dport 8443 -j ACCEPT"],
    },
    Edit {
        what: "our jump moved to the end, below an ACCEPT",
        class: "bypass",
        lines: |t| {
            vec![
                format!("-D INPUT {}", t.jump),
                "-A INPUT -p tcp -m tcp --dport 8443 -j ACCEPT".to_owned(),
                format!("-A INPUT {}", t.jump),
            ]
        },
        undo: &["-D INPUT -p tcp -m tcp --dport 8443 -j ACCEPT"],
    },
    Edit {
        what: "our chain flushed",
        class: "missing",
        lines: |_| vec!["-F VF-INPUT".to_owned()],
        undo: &[],
    },
];

fn restore(lab: &Lab, family: Family, lines: &[String]) -> Result<()> {
    let input = format!("*filter\n{}\nCOMMIT\n", lines.join("\n"));
    let tool = format!("{}-restore", family.tool());
    let ended = lab.on_with_input(NODE, &[&tool, "-w", "--noflush"], &input)?;
    ensure!(ended.success(), "{input}{}", ended.output());
    Ok(())
}

/// Waits for a record with this class and family, repaired, among those after `known`; then
/// for the kernel to hold exactly what it held before.
fn noticed_and_repaired(
    lab: &Lab,
    known: &[DriftRecord],
    class: &str,
    family: Family,
    before: &Rules,
    is_right: impl Fn(&Rules) -> bool,
) -> Result<DriftRecord> {
    let mut seen = Vec::new();
    let record = lab.wait("a repaired drift record", || {
        seen = DriftRecord::newer(lab.drift()?, known);
        Ok(seen
            .iter()
            .find(|record| {
                record.node == NODE
                    && record.class == class
                    && record.family == Some(family.to_string())
                    && record.repaired_after_ms.is_some()
            })
            .cloned())
    });
    let record = record.with_context(|| format!("of class {class}, {family}; seen: {seen:#?}"))?;
    let mut now = before.clone();
    lab.wait("the kernel as it was", || {
        now = lab.rules(NODE)?;
        Ok(is_right(&now).then_some(()))
    })
    .with_context(|| before.difference(&now))?;
    Ok(record)
}

fn edits_of_rules(lab: &Lab) -> Result<()> {
    for edit in EDITS {
        for family in Family::BOTH {
            let before = lab.rules(NODE)?;
            let target = Target::find(&before, family)?;
            let known = lab.drift()?;
            restore(lab, family, &(edit.lines)(&target))?;
            let undo: Vec<String> = edit.undo.iter().map(|&line| line.to_owned()).collect();
            let is_right = |now: &Rules| match edit.undo.first() {
                None => *now == before,
                Some(accept) => is_above(now, &before, family, &target.jump, accept),
            };
            let record = noticed_and_repaired(lab, &known, edit.class, family, &before, is_right)
                .with_context(|| format!("{} ({family})", edit.what))?;
            check_texts(edit, &target, &record)
                .with_context(|| format!("{} ({family}): {record:#?}", edit.what))?;
            if !undo.is_empty() {
                restore(lab, family, &undo)?;
                // Nothing is remembered of the cause: the order returns.
                let mut now = before.clone();
                lab.wait("the order as it was", || {
                    now = lab.rules(NODE)?;
                    Ok((now == before).then_some(()))
                })
                .with_context(|| format!("{} ({family})", edit.what))
                .with_context(|| before.difference(&now))?;
            }
            Foreign::check(&lab.rules(NODE)?)?;
        }
    }
    Ok(())
}

/// Whether what a foreign ACCEPT would let in comes to our chain first, by the jump or by a guard
/// above it; the jump is there once, and all else is as it was. The ACCEPT is not ours, and stays.
fn is_above(now: &Rules, before: &Rules, family: Family, jump: &str, undo: &str) -> bool {
    let accept = undo.replacen("-D", "-A", 1);
    let jump = format!("-A INPUT {jump}");
    let input = now.chain(family, "INPUT");
    let place = |rule: &str| input.iter().position(|line| *line == rule);
    let is_guard = |line: &str| line.contains("vf:guard") && line.ends_with("-j VF-INPUT");
    let first = input
        .iter()
        .position(|line| *line == jump || is_guard(line));
    let above = first.is_some() && place(&jump).is_some() && first < place(&accept);
    let once = input.iter().filter(|line| **line == jump).count() == 1;
    let rest = |rules: &Rules| {
        let mut rules = rules.clone();
        for lines in [&mut rules.v4, &mut rules.v6] {
            lines.retain(|line| *line != accept && *line != jump && !is_guard(line));
        }
        rules
    };
    above && once && rest(now) == rest(before)
}

fn check_texts(edit: &Edit, target: &Target, record: &DriftRecord) -> Result<()> {
    let wanted = record.wanted.as_deref().unwrap_or_default();
    let observed = record.observed.as_deref().unwrap_or_default();
    match edit.what {
        "a rule removed" => {
            ensure!(wanted.contains(&target.body), "wanted is not the rule");
            ensure!(observed.is_empty(), "something was observed");
            ensure!(
                record.chain.as_ref() == Some(&target.chain),
                "another chain"
            );
        }
        "a rule's verdict altered, its comment kept" => {
            ensure!(wanted.contains(&target.body), "wanted is not the rule");
            ensure!(observed.contains("-j DROP"), "observed is not the change");
        }
        "a rule added to our chain" => {
            ensure!(
                observed.contains("--dport 3306"),
                "observed is not the rule"
            );
            ensure!(wanted.is_empty(), "something was wanted");
        }
        "our jump removed" => {
            ensure!(record.chain.as_deref() == Some("INPUT"), "another chain");
            ensure!(wanted.contains("-j VF-INPUT"), "wanted is not the jump");
        }
        "an ACCEPT above our jump" => {
            ensure!(
                observed.contains("--dport 8443"),
                "observed is not the rule"
            );
        }
        _ => {}
    }
    Ok(())
}

fn edits_of_sets(lab: &Lab) -> Result<()> {
    for (family, stranger) in [
        (Family::V4, "198.51.100.66"),
        (Family::V6, "2001:db8:66::66"),
    ] {
        let before = lab.rules(NODE)?;
        let member = before
            .sets
            .iter()
            .filter_map(|line| line.strip_prefix("add "))
            .find(|member| member.contains(':') == (family == Family::V6))
            .context("no set of ours has a member")?
            .to_owned();
        let set = member.split(' ').next().unwrap_or_default().to_owned();
        for (what, edit) in [
            ("a member removed", format!("ipset del {member}")),
            ("a member added", format!("ipset add {set} {stranger}")),
            ("a set emptied", format!("ipset flush {set}")),
        ] {
            let known = lab.drift()?;
            lab.edit(NODE, &edit)?;
            let record =
                noticed_and_repaired(lab, &known, "set", family, &before, |now| now == &before)
                    .with_context(|| format!("{what} ({family})"))?;
            ensure!(
                record.chain.as_ref() == Some(&set),
                "{what}: another set: {record:#?}"
            );
        }
    }
    Ok(())
}

fn pushed(lab: &Lab) -> Result<()> {
    Foreign::install(lab, NODE)?;
    let push = lab.push()?;
    ensure!(push.ended.success(), "{}", push.ended.output());
    lab.wait_synced()?;
    Foreign::check(&lab.rules(NODE)?)
}

fn options(backend: &'static str, poll_interval: &'static str) -> Options {
    Options {
        nodes: 1,
        backend,
        bare: true,
        poll_interval,
        ..Options::default()
    }
}

#[test]
fn nft_rules_are_repaired_on_the_kernels_own_word() -> Result<()> {
    // With a poll once an hour, only kernel events can tell.
    Lab::run(&options("nft", "1h"), |lab| {
        pushed(lab)?;
        edits_of_rules(lab)
    })
}

#[test]
fn legacy_rules_are_repaired_by_a_poll() -> Result<()> {
    Lab::run(&options("legacy", "1s"), |lab| {
        pushed(lab)?;
        edits_of_rules(lab)
    })
}

#[test]
fn sets_are_repaired_on_nft() -> Result<()> {
    Lab::run(&options("nft", "1s"), |lab| {
        pushed(lab)?;
        edits_of_sets(lab)
    })
}

#[test]
fn sets_are_repaired_on_legacy() -> Result<()> {
    Lab::run(&options("legacy", "1s"), |lab| {
        pushed(lab)?;
        edits_of_sets(lab)
    })
}
