//! A site of twelve nodes on both backends: a push that goes wrong stops at its canary, one that
//! was wrong is taken back to the byte, and neither a closed terminal, a lost node nor a lost
//! controller changes what the nodes end up with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use voipfleet_tests::exec::Running;
use voipfleet_tests::lab::{Lab, NodeStatus, Options, Push, Rules};

const NODES: u32 = 12;

/// A lab of twelve nodes, pushed once all together.
fn fleet(test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let options = Options {
        nodes: NODES,
        bare: true,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.said());
        ensure!(push.count("applied")? == u64::from(NODES), "{}", push.done);
        lab.wait_synced()?;
        test(lab)
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
fn change(lab: &Lab, port: u16, rollout: &str) -> Result<()> {
    lab.change_policy(port)?;
    let stored = lab.site_document()?;
    let mut lines = Vec::new();
    let mut skipping = false;
    for line in stored.lines() {
        let top = !line.starts_with([' ', '-']);
        skipping = if top {
            line.starts_with("rollout:")
        } else {
            skipping
        };
        if !skipping {
            lines.push(line.to_owned());
        }
    }
    lines.push(format!("rollout: {rollout}"));
    let applied = lab.apply(&lines.join("\n"))?;
    ensure!(applied.success(), "{}", applied.said());
    Ok(())
}

fn rollout(lab: &Lab) -> Result<Value> {
    let said = lab.voipctl_ok(&["rollout", "status", "site-a", "-o", "json"])?;
    let all: Value = serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?;
    all.pointer("/rollouts/0")
        .cloned()
        .with_context(|| format!("no rollout: {said}"))
}

fn state_of(rollout: &Value) -> &str {
    rollout
        .get("state")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn wait_rollout(lab: &Lab, state: &str) -> Result<Value> {
    let mut last = Value::Null;
    lab.wait("the rollout's state", || {
        // The controller may just be starting.
        last = rollout(lab).unwrap_or_default();
        Ok((state_of(&last) == state).then(|| last.clone()))
    })
    .with_context(|| format!("wanted {state}: {last}"))
}

fn with_rule(kernels: &BTreeMap<String, Rules>, port: u16) -> Vec<&str> {
    kernels
        .iter()
        .filter(|(_, rules)| rules.opens(port) == [true, true])
        .map(|(node, _)| node.as_str())
        .collect()
}

fn push(lab: &Lab, more: &[&str]) -> Result<Running> {
    let mut arguments = vec!["push", "site-a", "--yes", "-o", "json"];
    arguments.extend(more);
    lab.start_voipctl(&arguments)
}

/// The whole of it is one lab: to bring twelve nodes up takes longer than each of these.
#[test]
fn a_site_of_twelve_nodes() -> Result<()> {
    fleet(|lab| {
        a_canary_that_fails_halts_with_eleven_untouched(lab).context("canary")?;
        a_rollback_gives_every_byte_back(lab).context("rollback")?;
        a_rollout_goes_on_without_voipctl(lab).context("voipctl killed")?;
        a_rollout_goes_on_after_the_controller_was_killed(lab).context("controller killed")?;
        a_node_that_is_offline_in_its_batch_gets_it_later(lab).context("offline")?;
        a_node_that_is_lost_in_its_batch_halts_the_rest(lab).context("lost")?;
        scripts_that_contradict_each_other_end_in_one_truth(lab).context("scripts")
    })
}

fn a_canary_that_fails_halts_with_eleven_untouched(lab: &Lab) -> Result<()> {
    let free = kernels(lab)?;
    let generation = lab.status()?.generation;
    change(
        lab,
        9941,
        "{canary: 1, batch: 25%, max_failures: 0, confirm_within: 3s}",
    )?;
    for node in lab.nodes() {
        lab.cut(&node.name, "-A")?;
    }
    let cut_off = kernels(lab)?;
    let pushed = Push::read(push(lab, &[])?.finish()?)?;
    ensure!(pushed.ended.status == Some(1), "{}", pushed.ended.said());
    // It has taken it back, and cannot say so.
    ensure!(pushed.count("failed")? == 1, "{}", pushed.done);
    ensure!(pushed.count("applied")? == 0, "{}", pushed.done);
    ensure!(pushed.count("waiting")? == 11, "{}", pushed.done);
    same(&cut_off, &kernels(lab)?)?;
    let status = rollout(lab)?;
    ensure!(state_of(&status) == "halted", "{status}");
    // Untouched is more than unchanged: nobody else has even been asked.
    let asked: Vec<_> = lab
        .nodes()
        .iter()
        .filter(|node| {
            lab.log(&node.name).contains("more-9941") || tried(lab, &node.name, generation + 1)
        })
        .map(|node| node.name.clone())
        .collect();
    ensure!(asked.len() == 1, "asked: {asked:?}");
    for node in lab.nodes() {
        lab.cut(&node.name, "-D")?;
    }
    same(&free, &kernels(lab)?)?;
    all_back(lab)?;
    for node in &lab.status()?.nodes {
        ensure!(node.generation == generation, "{node:?}");
    }
    let again = lab.push()?;
    ensure!(again.ended.success(), "{}", again.ended.said());
    lab.wait_synced()?;
    ensure!(with_rule(&kernels(lab)?, 9941).len() == 12);
    Ok(())
}

/// Agents that found nobody take a while to dial again.
fn all_back(lab: &Lab) -> Result<()> {
    lab.wait("every node back", || {
        let back = |node: &NodeStatus| node.state != "offline";
        Ok(lab.status()?.nodes.iter().all(back).then_some(()))
    })
}

/// Whether an agent's log speaks of a trial of a generation.
fn tried(lab: &Lab, node: &str, generation: u64) -> bool {
    let log = lab.log(node);
    log.lines()
        .any(|line| line.contains(&format!("generation={generation}")))
}

fn a_rollback_gives_every_byte_back(lab: &Lab) -> Result<()> {
    let before = kernels(lab)?;
    let generation = lab.status()?.generation;
    change(lab, 9942, "{canary: 1, batch: 50%, confirm_within: 20s}")?;
    let pushed = lab.push()?;
    ensure!(pushed.ended.success(), "{}", pushed.ended.said());
    ensure!(with_rule(&kernels(lab)?, 9942).len() == 12);
    let ended = lab.voipctl(&["rollback", "site-a", "--yes", "-o", "json"])?;
    ensure!(ended.success(), "{}", ended.said());
    let status = lab.wait_synced()?;
    ensure!(status.generation == generation + 2, "{status:?}");
    same(&before, &kernels(lab)?)?;
    // And by name, further back, to the rules of before the canary's.
    let first = lab.voipctl(&["rollback", "site-a", "--to", "1", "--yes", "-o", "json"])?;
    ensure!(first.success(), "{}", first.said());
    lab.wait_synced()?;
    ensure!(with_rule(&kernels(lab)?, 9941).is_empty());
    Ok(())
}

/// Waits until some nodes have a rule, and others do not.
fn wait_in_the_middle(lab: &Lab, port: u16) -> Result<usize> {
    lab.wait("a rollout in its middle", || {
        let count = with_rule(&kernels(lab)?, port).len();
        Ok((1..12).contains(&count).then_some(count))
    })
}

fn a_rollout_goes_on_without_voipctl(lab: &Lab) -> Result<()> {
    change(
        lab,
        9943,
        "{canary: 1, batch: 3, pause: 2s, confirm_within: 20s}",
    )?;
    let voipctl = push(lab, &[])?;
    wait_in_the_middle(lab, 9943)?;
    kill(Pid::from_raw(voipctl.pid().try_into()?), Signal::SIGKILL)?;
    voipctl.finish()?;
    wait_rollout(lab, "done")?;
    lab.wait_synced()?;
    ensure!(with_rule(&kernels(lab)?, 9943).len() == 12);
    Ok(())
}

fn a_rollout_goes_on_after_the_controller_was_killed(lab: &Lab) -> Result<()> {
    change(
        lab,
        9944,
        "{canary: 1, batch: 3, pause: 2s, confirm_within: 20s}",
    )?;
    let voipctl = push(lab, &[])?;
    wait_in_the_middle(lab, 9944)?;
    lab.kill("controller")?;
    let ended = voipctl.finish()?;
    ensure!(
        !ended.success(),
        "it says that it is done: {}",
        ended.said()
    );
    lab.start("controller")?;
    wait_rollout(lab, "done")?;
    lab.wait_synced()?;
    ensure!(with_rule(&kernels(lab)?, 9944).len() == 12);
    Ok(())
}

fn a_node_that_is_offline_in_its_batch_gets_it_later(lab: &Lab) -> Result<()> {
    let away = "sip2";
    lab.stop(away)?;
    lab.wait("the node offline", || {
        Ok((lab.status()?.node(away)?.state == "offline").then_some(()))
    })?;
    change(lab, 9945, "{canary: 1, batch: 25%, confirm_within: 20s}")?;
    let pushed = lab.push()?;
    ensure!(pushed.count("applied")? == 11, "{}", pushed.done);
    ensure!(pushed.count("failed")? == 0, "{}", pushed.done);
    let now = kernels(lab)?;
    ensure!(with_rule(&now, 9945).len() == 11 && !with_rule(&now, 9945).contains(&away));
    lab.start(away)?;
    lab.wait_synced()?;
    ensure!(with_rule(&kernels(lab)?, 9945).len() == 12);
    Ok(())
}

fn a_node_that_is_lost_in_its_batch_halts_the_rest(lab: &Lab) -> Result<()> {
    change(
        lab,
        9946,
        "{canary: 1, batch: 4, pause: 2s, max_failures: 0, confirm_within: 2s}",
    )?;
    let before = kernels(lab)?;
    let voipctl = push(lab, &[])?;
    let canary: Vec<String> = lab.wait("the canary", || {
        let now = kernels(lab)?;
        let with = with_rule(&now, 9946);
        Ok((with.len() == 1).then(|| with.iter().map(ToString::to_string).collect()))
    })?;
    // The canary is through. Whoever comes next cannot dial, and its agent dies in the trial.
    let others: Vec<&str> = lab
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .filter(|node| !canary.iter().any(|c| c == node))
        .collect();
    for node in &others {
        lab.cut(node, "-A")?;
    }
    let lost = lab.wait("a node on trial", || {
        let now = kernels(lab)?;
        let with = with_rule(&now, 9946);
        Ok(others.iter().find(|node| with.contains(node)).copied())
    })?;
    lab.kill(lost)?;
    let pushed = Push::read(voipctl.finish()?)?;
    ensure!(pushed.ended.status == Some(1), "{}", pushed.ended.said());
    ensure!(state_of(&rollout(lab)?) == "halted");
    for node in &others {
        lab.cut(node, "-D")?;
    }
    lab.start(lost)?;
    lab.wait("all but the canary as before", || {
        let now = kernels(lab)?;
        Ok(others
            .iter()
            .all(|node| before.get(*node) == now.get(*node))
            .then_some(()))
    })?;
    all_back(lab)?;
    let again = lab.push()?;
    ensure!(again.ended.success(), "{}", again.ended.said());
    lab.wait_synced()?;
    Ok(())
}

/// Two people's scripts on one site, at once, again and again. Whatever each is told, it is
/// true; and at the end every node runs what the last push says.
fn scripts_that_contradict_each_other_end_in_one_truth(lab: &Lab) -> Result<()> {
    let rounds = 4;
    let script = |tenant: &'static str, network: &'static str| -> Result<Vec<String>> {
        let mut told = Vec::new();
        for round in 0..rounds {
            let document = format!(
                "kind: Tenant\nname: {tenant}\nnetworks: {{offices: [{network}.{round}.0/24]}}\n"
            );
            let applied = lab.apply(&document)?;
            ensure!(applied.success(), "apply: {}", applied.said());
            let pushed = lab.voipctl(&["push", "site-a", "--yes", "-o", "json"])?;
            // Done, or refused and told why: never half.
            if pushed.success() {
                told.push("pushed".to_owned());
            } else {
                let said = format!("{}{}", pushed.stderr, pushed.stdout);
                ensure!(!said.trim().is_empty(), "a push failed and says nothing");
                told.push(said);
            }
            let blocked = lab.voipctl(&[
                "block",
                "192.0.2.77",
                "--site",
                "site-a",
                "--ttl",
                "10m",
                "--reason",
                tenant,
            ])?;
            ensure!(blocked.success(), "block: {}", blocked.said());
        }
        Ok(told)
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| script("acme", "203.0"));
        let two = scope.spawn(|| script("globex", "198.18"));
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<String>>>| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a script panicked"))?
        };
        let (one, two) = (join(one)?, join(two)?);
        ensure!(
            one.iter().chain(&two).any(|said| said == "pushed"),
            "nobody's push came through: {one:?} {two:?}"
        );
        anyhow::Ok(())
    })?;
    let last = lab.voipctl(&["push", "site-a", "--yes", "--queue", "-o", "json"])?;
    ensure!(last.success(), "{}", last.said());
    lab.wait_synced()?;
    for (node, rules) in kernels(lab)? {
        for network in ["203.0.3.0/24", "198.18.3.0/24"] {
            ensure!(
                rules.sets.iter().any(|line| line.contains(network)),
                "{node} lacks {network}"
            );
        }
        for old in ["203.0.2.0/24", "198.18.2.0/24"] {
            ensure!(
                !rules.sets.iter().any(|line| line.contains(old)),
                "{node} still has {old}"
            );
        }
        ensure!(
            rules.sets.iter().any(|line| line.contains("192.0.2.77")),
            "{node} does not block"
        );
    }
    Ok(())
}
