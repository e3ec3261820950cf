//! A site of twelve nodes on both backends: a push that goes wrong stops at its canary, one that
//! was wrong is taken back to the byte, and neither a closed terminal, a lost node nor a lost
//! controller changes what the nodes end up with.
//!
//! To bring twelve nodes up takes longer than each of these scenarios, so they share one lab. Each
//! begins with [`restore`], and fails alone.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use voipfleet_testkit::documents::TenantBuilder;
use voipfleet_tests::exec::Running;
use voipfleet_tests::lab::{Lab, NodeStatus, Options, Push, Rules, with_rule};

const NODES: u32 = 12;

type Scenario = fn(&Lab) -> Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    (
        "failed_canary_leaves_the_other_nodes_untouched",
        failed_canary,
    ),
    ("rollback_restores_every_byte", rollback),
    ("rollout_continues_without_voipctl", without_voipctl),
    (
        "rollout_continues_after_the_controller_was_killed",
        without_controller,
    ),
    (
        "offline_node_gets_the_generation_when_it_returns",
        offline_node,
    ),
    ("node_lost_in_its_batch_halts_the_rollout", lost_node),
    (
        "contradicting_scripts_end_with_the_last_push",
        contradicting_scripts,
    ),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = Arc::new(Mutex::new(None));
    let trials = SCENARIOS.iter().map(|(name, scenario)| {
        let lab = Arc::clone(&lab);
        Trial::test(*name, move || {
            let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(run(&mut lab, *scenario).map_err(|error| format!("{error:#}"))?)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(lab);
    conclusion.exit_code()
}

fn run(lab: &mut Option<Lab>, scenario: Scenario) -> Result<()> {
    let lab = match lab {
        Some(lab) => lab,
        None => lab.insert(Lab::up(&Options {
            nodes: NODES,
            bare: true,
            ..Options::default()
        })?),
    };
    restore(lab)
        .context("the lab cannot be restored for this scenario")
        .and_then(|()| scenario(lab))
        .map_err(|error| anyhow!("{error:#}\n{}", lab.logs()))
}

/// Brings the lab to where every scenario begins, whatever the one before left behind: every
/// process runs, no rollout does, and all nodes run the sample policy.
fn restore(lab: &Lab) -> Result<()> {
    let nodes = lab.nodes().iter().map(|node| node.name.as_str());
    for process in std::iter::once("controller").chain(nodes.clone()) {
        if lab.running(process)?.is_none() {
            lab.start(process)?;
        }
    }
    for node in nodes {
        while lab.cut(node, "-D").is_ok() {}
    }
    all_connected(lab)?;
    // Refused where none is under way.
    lab.voipctl(&["rollout", "abort", "site-a", "--yes"])?;
    lab.voipctl(&["unblock", BLOCKED, "--site", "site-a"])?;
    for file in ["tenants.yaml", "site-a.yaml"] {
        let sample = std::fs::read_to_string(lab.policies().join(file))?;
        let applied = lab.apply(&sample)?;
        ensure!(applied.success(), "{}", applied.output());
    }
    let push = lab.push()?;
    ensure!(push.ended.success(), "{}", push.ended.output());
    lab.wait_synced()?;
    Ok(())
}

/// Agents that could not reach the controller take a while to dial again.
fn all_connected(lab: &Lab) -> Result<()> {
    lab.wait("every node connected", || {
        let connected = |node: &NodeStatus| node.state != "offline";
        Ok(lab.status()?.nodes.iter().all(connected).then_some(()))
    })
}

/// Everything that every node's kernel holds.
fn kernels(lab: &Lab) -> Result<BTreeMap<String, Rules>> {
    let mut kernels = BTreeMap::new();
    for node in lab.nodes() {
        kernels.insert(node.name.clone(), lab.rules(&node.name)?);
    }
    Ok(kernels)
}

fn same(before: &BTreeMap<String, Rules>, now: &BTreeMap<String, Rules>) -> Result<()> {
    for (node, rules) in before {
        let now = now.get(node).with_context(|| format!("{node} is gone"))?;
        rules.same(now).with_context(|| node.clone())?;
    }
    Ok(())
}

/// Stores the sample site with one more rule and this `rollout`.
fn change(lab: &Lab, port: u16, rollout: Value) -> Result<()> {
    let site = with_rule(lab.sample_site()?, port).set("rollout", rollout);
    let applied = lab.apply(&site.to_string())?;
    ensure!(applied.success(), "{}", applied.output());
    Ok(())
}

fn rollout(lab: &Lab) -> Result<Value> {
    let output = lab.voipctl_ok(&["rollout", "status", "site-a", "-o", "json"])?;
    let all: Value = serde_json::from_str(&output).with_context(|| format!("no JSON: {output}"))?;
    all.pointer("/rollouts/0")
        .cloned()
        .with_context(|| format!("no rollout: {output}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Follows the rollout to its end.
fn await_done(lab: &Lab) -> Result<()> {
    let watched = lab.voipctl(&["rollout", "watch", "site-a", "-o", "json"])?;
    let last = rollout(lab)?;
    ensure!(
        text(&last, "state") == "done",
        "{last}\n{}",
        watched.output()
    );
    Ok(())
}

/// The nodes with the rule of [`change`].
fn opening(kernels: &BTreeMap<String, Rules>, port: u16) -> Vec<&str> {
    kernels
        .iter()
        .filter(|(_, rules)| rules.opens(port) == [true, true])
        .map(|(node, _)| node.as_str())
        .collect()
}

fn start_push(lab: &Lab) -> Result<Running> {
    lab.start_voipctl(&["push", "site-a", "--yes", "-o", "json"])
}

/// Follows a push to a node's event with a state, and gives the node.
fn await_node(push: &mut Running, state: &str) -> Result<String> {
    push.await_line(&format!("a node was {state}"), |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        (text(&event, "event") == "node" && text(&event, "state") == state)
            .then(|| text(&event, "node").to_owned())
    })
}

/// Follows a push to a node that has loaded its ruleset and dials anew, and gives the node. Its
/// last message over the old connection may be lost with that: it then shows as sent again.
fn await_trial(push: &mut Running) -> Result<String> {
    let mut applying = BTreeSet::new();
    push.await_line("a node was on trial", |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        if text(&event, "event") != "node" {
            return None;
        }
        let node = text(&event, "node").to_owned();
        match text(&event, "state") {
            "applying" => {
                applying.insert(node);
                None
            }
            "trial" => Some(node),
            "sent" if applying.contains(&node) => Some(node),
            _ => None,
        }
    })
}

/// Starts a push, and gives it in its middle: its canary has it, and others do not.
fn push_to_the_middle(lab: &Lab, port: u16) -> Result<Running> {
    let mut push = start_push(lab)?;
    await_node(&mut push, "applied")?;
    let count = opening(&kernels(lab)?, port).len();
    ensure!((1..12).contains(&count), "{count} nodes have it");
    Ok(push)
}

fn failed_canary(lab: &Lab) -> Result<()> {
    let free = kernels(lab)?;
    let generation = lab.status()?.generation;
    let staging = json!({"canary": 1, "batch": "25%", "max_failures": 0, "confirm_within": "3s"});
    change(lab, 9941, staging)?;
    for node in lab.nodes() {
        lab.cut(&node.name, "-A")?;
    }
    let cut_off = kernels(lab)?;
    let pushed = Push::read(start_push(lab)?.finish()?)?;
    ensure!(pushed.ended.status == Some(1), "{}", pushed.ended.output());
    // The canary has rolled back, and cannot report it.
    ensure!(pushed.count("failed")? == 1, "{}", pushed.done);
    ensure!(pushed.count("applied")? == 0, "{}", pushed.done);
    ensure!(pushed.count("waiting")? == 11, "{}", pushed.done);
    same(&cut_off, &kernels(lab)?)?;
    let status = rollout(lab)?;
    ensure!(text(&status, "state") == "halted", "{status}");
    // Untouched is more than unchanged: the other agents were not even given it.
    let tried: Vec<&str> = lab
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .filter(|node| has_tried(lab, node, generation + 1))
        .collect();
    ensure!(tried.len() == 1, "tried by {tried:?}");
    for node in lab.nodes() {
        lab.cut(&node.name, "-D")?;
    }
    same(&free, &kernels(lab)?)?;
    all_connected(lab)?;
    for node in &lab.status()?.nodes {
        ensure!(node.generation == generation, "{node:?}");
    }
    let again = lab.push()?;
    ensure!(again.ended.success(), "{}", again.ended.output());
    lab.wait_synced()?;
    ensure!(opening(&kernels(lab)?, 9941).len() == 12);
    Ok(())
}

/// Whether an agent's log names a generation.
fn has_tried(lab: &Lab, node: &str, generation: u64) -> bool {
    let named = format!("generation={generation}");
    let log = lab.log(node);
    log.split([' ', '\n']).any(|word| word == named)
}

fn rollback(lab: &Lab) -> Result<()> {
    let before = kernels(lab)?;
    let generation = lab.status()?.generation;
    let staging = json!({"canary": 1, "batch": "50%", "confirm_within": "20s"});
    change(lab, 9942, staging)?;
    let pushed = lab.push()?;
    ensure!(pushed.ended.success(), "{}", pushed.ended.output());
    let changed = kernels(lab)?;
    ensure!(opening(&changed, 9942).len() == 12);
    let ended = lab.voipctl(&["rollback", "site-a", "--yes", "-o", "json"])?;
    ensure!(ended.success(), "{}", ended.output());
    let status = lab.wait_synced()?;
    ensure!(status.generation == generation + 2, "{status:?}");
    same(&before, &kernels(lab)?)?;
    // An earlier generation by its number.
    let number = (generation + 1).to_string();
    let named = lab.voipctl(&["rollback", "site-a", "--to", &number, "--yes", "-o", "json"])?;
    ensure!(named.success(), "{}", named.output());
    lab.wait_synced()?;
    same(&changed, &kernels(lab)?)
}

fn without_voipctl(lab: &Lab) -> Result<()> {
    let staging = json!({"canary": 1, "batch": 3, "pause": "2s", "confirm_within": "20s"});
    change(lab, 9943, staging)?;
    let voipctl = push_to_the_middle(lab, 9943)?;
    kill(Pid::from_raw(voipctl.pid().try_into()?), Signal::SIGKILL)?;
    voipctl.finish()?;
    await_done(lab)?;
    lab.wait_synced()?;
    ensure!(opening(&kernels(lab)?, 9943).len() == 12);
    Ok(())
}

fn without_controller(lab: &Lab) -> Result<()> {
    let staging = json!({"canary": 1, "batch": 3, "pause": "2s", "confirm_within": "20s"});
    change(lab, 9944, staging)?;
    let voipctl = push_to_the_middle(lab, 9944)?;
    lab.kill("controller")?;
    let ended = voipctl.finish()?;
    ensure!(!ended.success(), "it reports success: {}", ended.output());
    lab.start("controller")?;
    await_done(lab)?;
    lab.wait_synced()?;
    ensure!(opening(&kernels(lab)?, 9944).len() == 12);
    Ok(())
}

fn offline_node(lab: &Lab) -> Result<()> {
    let away = "sip2";
    lab.stop(away)?;
    lab.wait("the node offline", || {
        Ok((lab.status()?.node(away)?.state == "offline").then_some(()))
    })?;
    let staging = json!({"canary": 1, "batch": "25%", "confirm_within": "20s"});
    change(lab, 9945, staging)?;
    let pushed = lab.push()?;
    ensure!(pushed.count("applied")? == 11, "{}", pushed.done);
    ensure!(pushed.count("failed")? == 0, "{}", pushed.done);
    let now = kernels(lab)?;
    ensure!(opening(&now, 9945).len() == 11 && !opening(&now, 9945).contains(&away));
    lab.start(away)?;
    lab.wait_synced()?;
    ensure!(opening(&kernels(lab)?, 9945).len() == 12);
    Ok(())
}

fn lost_node(lab: &Lab) -> Result<()> {
    let staging = json!({
        "canary": 1, "batch": 4, "pause": "2s", "max_failures": 0, "confirm_within": "2s",
    });
    change(lab, 9946, staging)?;
    let before = kernels(lab)?;
    let mut voipctl = start_push(lab)?;
    let canary = await_node(&mut voipctl, "applied")?;
    // The nodes after it cannot dial any more, and the agent of one of them dies in its trial.
    let others: Vec<&str> = lab
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .filter(|node| *node != canary)
        .collect();
    for node in &others {
        lab.cut(node, "-A")?;
    }
    let lost = await_trial(&mut voipctl)?;
    lab.kill(&lost)?;
    let pushed = Push::read(voipctl.finish()?)?;
    ensure!(pushed.ended.status == Some(1), "{}", pushed.ended.output());
    ensure!(text(&rollout(lab)?, "state") == "halted");
    for node in &others {
        lab.cut(node, "-D")?;
    }
    lab.start(&lost)?;
    lab.wait("all but the canary as before", || {
        let now = kernels(lab)?;
        Ok(others
            .iter()
            .all(|node| before.get(*node) == now.get(*node))
            .then_some(()))
    })?;
    all_connected(lab)?;
    let again = lab.push()?;
    ensure!(again.ended.success(), "{}", again.ended.output());
    lab.wait_synced()?;
    Ok(())
}

const BLOCKED: &str = "192.0.2.77";

/// The scripts of two operators on one site at the same time, several times. Each push is done or
/// refused with a reason, and at the end every node runs what the last push holds.
fn contradicting_scripts(lab: &Lab) -> Result<()> {
    let script = |tenant: &'static str, network: &'static str| -> Result<bool> {
        let mut has_pushed = false;
        for round in 0..4 {
            let network = format!("{network}.{round}.0/24");
            let document = TenantBuilder::new(tenant).networks("offices", &[&network]);
            let applied = lab.apply(&document.to_string())?;
            ensure!(applied.success(), "apply: {}", applied.output());
            let pushed = lab.voipctl(&["push", "site-a", "--yes", "-o", "json"])?;
            has_pushed |= pushed.success();
            let is_silent = pushed.stderr.trim().is_empty() && pushed.stdout.trim().is_empty();
            ensure!(
                pushed.success() || !is_silent,
                "a push failed without a reason"
            );
            let site = ["--site", "site-a", "--ttl", "10m", "--reason", tenant];
            let blocked = lab.voipctl(&[&["block", BLOCKED], &site[..]].concat())?;
            ensure!(blocked.success(), "block: {}", blocked.output());
        }
        Ok(has_pushed)
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| script("acme", "203.0"));
        let two = scope.spawn(|| script("globex", "198.18"));
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<bool>>| {
            thread.join().map_err(|_| anyhow!("a script panicked"))?
        };
        let (one, two) = (join(one)?, join(two)?);
        ensure!(one || two, "no push succeeded");
        anyhow::Ok(())
    })?;
    let last = lab.voipctl(&["push", "site-a", "--yes", "--queue", "-o", "json"])?;
    ensure!(last.success(), "{}", last.output());
    lab.wait_synced()?;
    for (node, rules) in kernels(lab)? {
        let holds = |address: &str| rules.sets.iter().any(|line| line.contains(address));
        for wanted in ["203.0.3.0/24", "198.18.3.0/24", BLOCKED] {
            ensure!(holds(wanted), "{node} lacks {wanted}");
        }
        for old in ["203.0.2.0/24", "198.18.2.0/24"] {
            ensure!(!holds(old), "{node} still has {old}");
        }
    }
    Ok(())
}
