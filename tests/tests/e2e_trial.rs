//! Trials that cannot succeed: a node that loses its new connections in the trial goes back by
//! itself, whatever happens to its agent, its machine and the controller meanwhile.

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::exec::Running;
use voipfleet_tests::lab::{Foreign, Lab, Push, Rules};

/// On legacy, and on nft.
const NODES: [&str; 2] = ["sip1", "pbx1"];
/// What an operator reads.
const WORDS: &str = "no new connection to the controller came through the new rules within";

/// The nodes as they are, and as they are when they are cut off.
struct Before {
    free: Vec<Rules>,
    cut_off: Vec<Rules>,
}

fn cut_off(lab: &Lab) -> Result<Before> {
    let all = || {
        NODES
            .map(|node| lab.rules(node))
            .into_iter()
            .collect::<Result<_>>()
    };
    let free = all()?;
    for node in NODES {
        lab.cut(node, "-A")?;
    }
    Ok(Before {
        free,
        cut_off: all()?,
    })
}

/// Starts a push, and waits until both nodes are on trial and the third has confirmed.
fn push_into_trial(lab: &Lab, port: u16, confirm_within: &str) -> Result<Running> {
    lab.change_policy(port)?;
    let push = lab.start_voipctl(&[
        "push",
        "site-a",
        "--yes",
        "-o",
        "json",
        "--confirm-within",
        confirm_within,
    ])?;
    let mut seen = [false; 2];
    lab.wait("two nodes on trial, and one on the new rules", || {
        for (seen, node) in seen.iter_mut().zip(NODES) {
            *seen |= lab.rules(node)?.opens(port) == [true, true];
        }
        let status = lab.status()?;
        let third = status.node("http1")?.state == "synced"
            && status.node("http1")?.generation == status.generation;
        Ok((seen == [true, true] && third).then_some(()))
    })?;
    Ok(push)
}

fn wait_back(lab: &Lab, before: &[Rules]) -> Result<()> {
    for (node, before) in NODES.into_iter().zip(before) {
        let mut now = before.clone();
        lab.wait("the confirmed ruleset", || {
            now = lab.rules(node)?;
            Ok((now == *before).then_some(()))
        })
        .with_context(|| format!("{node}:\n{}", before.difference(&now)))?;
    }
    Ok(())
}

/// The controller knows that both nodes went back, and does not try again by itself; asked to,
/// it does.
fn is_told_and_tried_again(lab: &Lab, generation: u64, port: u16) -> Result<()> {
    lab.wait("both nodes in error, and the third one back", || {
        let Ok(status) = lab.status() else {
            return Ok(None); // the controller may just be starting
        };
        if status.node("http1")?.state != "synced" {
            return Ok(None);
        }
        for node in NODES {
            let node = status.node(node)?;
            if node.state != "error" || node.generation != generation {
                return Ok(None);
            }
            let error = node.error.as_deref().unwrap_or_default();
            ensure!(error.contains(WORDS), "{node:?}");
        }
        Ok(Some(()))
    })?;
    for node in NODES {
        ensure!(lab.rules(node)?.opens(port) == [false, false]);
    }
    let push = lab.push()?;
    ensure!(
        push.ended.success(),
        "pushed again: {}",
        push.ended.output()
    );
    lab.wait_synced()?;
    for node in NODES {
        ensure!(lab.rules(node)?.opens(port) == [true, true]);
    }
    Ok(())
}

#[test]
fn a_push_that_locks_nodes_out_ends_rolled_back() -> Result<()> {
    Lab::run_pushed(|lab| {
        let generation = lab.status()?.generation;
        let before = cut_off(lab)?;
        let push = push_into_trial(lab, 9931, "8s")?;
        wait_back(lab, &before.cut_off)?;
        for node in NODES {
            lab.cut(node, "-D")?;
        }
        let push = Push::read(push.finish()?)?;
        ensure!(push.ended.status == Some(1), "{}", push.ended.output());
        ensure!(push.count("rolled_back")? == 2, "{}", push.done);
        ensure!(push.count("applied")? == 1, "{}", push.done);
        ensure!(push.count("failed")? == 0, "{}", push.done);
        for (node, before) in NODES.into_iter().zip(&before.free) {
            let event = push.node(node)?.to_string();
            ensure!(event.contains("rolled_back"), "{event}");
            ensure!(event.contains(WORDS), "push does not say why: {event}");
            before.same(&lab.rules(node)?).context(node)?;
        }
        is_told_and_tried_again(lab, generation, 9931)
    })
}

#[test]
fn a_trial_ends_without_the_controller() -> Result<()> {
    Lab::run_pushed(|lab| {
        let generation = lab.status()?.generation;
        let before = cut_off(lab)?;
        let push = push_into_trial(lab, 9932, "8s")?;
        lab.kill("controller")?;
        let ended = push.finish()?;
        ensure!(
            !ended.success(),
            "push says that it is done: {}",
            ended.output()
        );
        wait_back(lab, &before.cut_off)?;
        for node in NODES {
            lab.cut(node, "-D")?;
        }
        lab.start("controller")?;
        is_told_and_tried_again(lab, generation, 9932)
    })
}

#[test]
fn an_agent_that_is_stopped_in_a_trial_goes_back_first() -> Result<()> {
    Lab::run_pushed(|lab| {
        let before = cut_off(lab)?;
        // Longer than the test: nothing else ends it.
        let push = push_into_trial(lab, 9933, "30m")?;
        for (node, before) in NODES.into_iter().zip(&before.cut_off) {
            lab.stop(node)?;
            before.same(&lab.rules(node)?).context(node)?;
            lab.cut(node, "-D")?;
            // It was no failure of the ruleset: it is tried again.
            lab.start(node)?;
        }
        let push = Push::read(push.finish()?)?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        lab.wait_synced()?;
        Ok(())
    })
}

#[test]
fn a_reboot_in_a_trial_gives_the_confirmed_rules_back() -> Result<()> {
    Lab::run_pushed(|lab| {
        let before = cut_off(lab)?;
        let push = push_into_trial(lab, 9934, "30m")?;
        lab.kill("controller")?;
        let ended = push.finish()?;
        ensure!(
            !ended.success(),
            "push says that it is done: {}",
            ended.output()
        );
        for (node, before) in NODES.into_iter().zip(&before.free) {
            lab.kill(node)?;
            lab.wipe(node)?;
            Foreign::install(lab, node)?;
            // Twice: nothing is left that a later boot would undo.
            for _ in 0..2 {
                let restored = lab.agent(node, "restore")?;
                ensure!(restored.success(), "{}", restored.output());
                before.same(&lab.rules(node)?).context(node)?;
            }
            lab.start(node)?;
        }
        lab.start("controller")?;
        lab.wait_synced()?;
        for node in NODES {
            ensure!(lab.rules(node)?.opens(9934) == [true, true]);
        }
        Ok(())
    })
}
