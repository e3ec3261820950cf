//! Whatever ends in the middle, nothing is lost and no node is left between two rulesets.
//! Rules of fail2ban stand on every node throughout.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use voipfleet_tests::lab::{Foreign, Lab};

/// On legacy, and on nft.
const NODES: [&str; 2] = ["sip1", "pbx1"];

/// A program that stands in front of a node's tool, for the agent only.
struct Override<'a> {
    lab: &'a Lab,
    node: &'static str,
    tool: &'static str,
}

impl<'a> Override<'a> {
    /// Puts a script in front of `tool`. `body` runs when the tool is about to touch the
    /// live kernel; in a scratch namespace, and with other arguments, the real tool runs.
    fn new(lab: &'a Lab, node: &'static str, tool: &'static str, body: &str) -> Result<Self> {
        let backend = &lab.node(node)?.backend;
        let real = match tool {
            "ipset" => PathBuf::from("/usr/sbin/ipset"),
            _ => lab.state().join("tools").join(backend).join(tool),
        };
        let live = lab.edit(node, "readlink /proc/self/ns/net")?;
        let script = format!(
            "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
             if [ \"$(readlink /proc/self/ns/net)\" = '{}' ] && [ \"{tool}\" != ipset -o \"$1\" = restore -o \"$2\" = restore -o \"$3\" = restore ]; then\n\
             {body}\nfi\nexec {} \"$@\"\n",
            live.trim(),
            real.display()
        );
        let new = Self { lab, node, tool };
        let path = new.path();
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(new)
    }

    fn path(&self) -> PathBuf {
        self.lab
            .state()
            .join("override")
            .join(self.node)
            .join(self.tool)
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_file(self.path())?;
        Ok(())
    }
}

#[test]
fn a_push_without_changes_says_so() -> Result<()> {
    Lab::run_pushed(|lab| {
        let before = lab.status()?;
        let again = lab.push()?;
        ensure!(again.ended.success(), "{}", again.ended.output());
        ensure!(
            again.count("generation")? == before.generation,
            "{}",
            again.done
        );
        let said = lab.voipctl(&["push", "site-a", "--yes"])?;
        let text = said.output().to_lowercase();
        ensure!(
            text.contains("nothing") || text.contains("unchanged") || text.contains("no change"),
            "the push does not say that nothing changed: {text}"
        );
        Ok(())
    })
}

#[test]
fn a_reboot_gives_the_same_rules_back_without_a_controller() -> Result<()> {
    Lab::run_pushed(|lab| {
        lab.kill("controller")?;
        for node in NODES {
            let before = lab.rules(node)?;
            lab.kill(node)?;
            lab.wipe(node)?;
            ensure!(!lab.rules(node)?.has_ours(), "the node is not empty");
            // The distribution's own firewall comes first at boot.
            Foreign::install(lab, node)?;
            let restored = lab.agent(node, "restore")?;
            ensure!(restored.success(), "{}", restored.output());
            before
                .same(&lab.rules(node)?)
                .with_context(|| node.to_owned())?;
            // A second one changes nothing.
            let restored = lab.agent(node, "restore")?;
            ensure!(restored.success(), "{}", restored.output());
            before
                .same(&lab.rules(node)?)
                .with_context(|| node.to_owned())?;
            lab.start(node)?;
        }
        lab.start("controller")?;
        lab.wait_synced()?;
        Ok(())
    })
}

#[test]
fn teardown_leaves_only_what_is_foreign() -> Result<()> {
    Lab::run_pushed(|lab| {
        for node in NODES {
            let foreign = lab.rules(node)?.foreign();
            lab.stop(node)?;
            let done = lab.agent(node, "teardown")?;
            ensure!(done.success(), "{}", done.output());
            foreign
                .same(&lab.rules(node)?)
                .with_context(|| node.to_owned())?;
        }
        Ok(())
    })
}

#[test]
fn a_controller_killed_in_the_middle_of_a_push_loses_nothing() -> Result<()> {
    Lab::run_pushed(|lab| {
        let first = lab.status()?.generation;
        lab.change_policy(9991)?;
        // A node that does not answer keeps the push open.
        lab.signal("pbx1", Signal::SIGSTOP)?;
        let push = lab.start_voipctl(&["push", "site-a", "--yes", "-o", "json"])?;
        lab.wait("the other nodes on the new ruleset", || {
            let done = lab.rules("sip1")?.opens(9991) == [true, true]
                && lab.rules("http1")?.opens(9991) == [true, true];
            Ok(done.then_some(()))
        })?;
        lab.kill("controller")?;
        let ended = push.finish()?;
        ensure!(
            !ended.success(),
            "push says that it is done: {}",
            ended.output()
        );
        lab.start("controller")?;
        lab.signal("pbx1", Signal::SIGCONT)?;
        let status = lab.wait_synced()?;
        ensure!(status.generation > first, "the push is lost: {status:?}");
        ensure!(
            lab.rules("pbx1")?.opens(9991) == [true, true],
            "pbx1 is on the old ruleset"
        );
        // Documents, tokens and nodes are there as well.
        let document = lab.site_document()?;
        ensure!(document.contains("more-9991"), "{document}");
        let again = lab.push()?;
        ensure!(
            again.count("generation")? == status.generation,
            "{}",
            again.done
        );
        Ok(())
    })
}

#[test]
fn an_agent_killed_in_the_middle_of_an_apply_comes_back_whole() -> Result<()> {
    at_every_tool(9900, killed_at)
}

/// Runs `test` with each tool that changes the kernel, on each of [`NODES`], with a port of its
/// own each time.
fn at_every_tool(
    mut port: u16,
    test: fn(&Lab, &'static str, &'static str, u16) -> Result<()>,
) -> Result<()> {
    Lab::run_pushed(|lab| {
        for node in NODES {
            for tool in ["ipset", "iptables-restore", "ip6tables-restore"] {
                port += 1;
                test(lab, node, tool, port).with_context(|| format!("{node}, at {tool}"))?;
            }
        }
        Ok(())
    })
}

/// Kills the agent while `tool` is at work on the live kernel.
fn killed_at(lab: &Lab, node: &'static str, tool: &'static str, port: u16) -> Result<()> {
    let before = lab.rules(node)?;
    let reached = lab.state().join("reached");
    let hang = format!("echo $$ >'{}'; exec sleep 600", reached.display());
    let blocked = Override::new(lab, node, tool, &hang)?;
    lab.change_policy(port)?;
    let push = lab.start_voipctl(&["push", "site-a", "--yes", "-o", "json"])?;
    let child = lab.wait("the agent in the middle of its apply", || {
        Ok(std::fs::read_to_string(&reached)
            .ok()
            .and_then(|text| text.trim().parse().ok()))
    })?;
    lab.kill(node)?;
    // The tool's process may have gone with its parent.
    let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL);
    std::fs::remove_file(&reached)?;
    blocked.remove()?;
    // Without a controller, the node goes back to what it had confirmed.
    lab.kill("controller")?;
    let ended = push.finish()?;
    ensure!(
        !ended.success(),
        "push says that it is done: {}",
        ended.output()
    );
    lab.start(node)?;
    let mut now = before.clone();
    lab.wait("the confirmed ruleset", || {
        now = lab.rules(node)?;
        Ok((now == before).then_some(()))
    })
    .with_context(|| before.difference(&now))?;
    // With one, it goes on to what was pushed.
    lab.start("controller")?;
    lab.wait_synced()?;
    ensure!(
        lab.rules(node)?.opens(port) == [true, true],
        "the node is on the old ruleset"
    );
    Ok(())
}

#[test]
fn a_node_whose_kernel_refuses_keeps_its_ruleset_and_says_why() -> Result<()> {
    at_every_tool(9950, refused_at)
}

/// `tool` fails once, in the words of the kernel.
fn refused_at(lab: &Lab, node: &'static str, tool: &'static str, port: u16) -> Result<()> {
    const WORDS: &str = "Kernel error received: set type not supported";
    let before = lab.rules(node)?;
    let once = lab.state().join("refused");
    let refuse = format!(
        "if [ ! -e '{0}' ]; then : >'{0}'; cat >/dev/null; echo '{tool}: {WORDS}' >&2; exit 1; fi",
        once.display()
    );
    let refusing = Override::new(lab, node, tool, &refuse)?;
    lab.change_policy(port)?;
    let push = lab.push()?;
    ensure!(once.exists(), "the tool was not asked");
    ensure!(push.ended.status == Some(1), "{}", push.ended.output());
    ensure!(push.count("applied")? == 2, "{}", push.done);
    ensure!(push.count("failed")? == 1, "{}", push.done);
    let event = push.node(node)?.to_string();
    ensure!(event.contains(WORDS), "push does not say why: {event}");
    before.same(&lab.rules(node)?)?;
    let status = lab.status()?;
    let of_node = status.node(node)?;
    ensure!(of_node.state == "error", "{of_node:?}");
    ensure!(
        of_node.error.as_deref().unwrap_or_default().contains(WORDS),
        "status does not say why: {of_node:?}"
    );
    refusing.remove()?;
    std::fs::remove_file(&once)?;
    // Pushed again, it works.
    let push = lab.push()?;
    ensure!(
        push.ended.success(),
        "pushed again: {}",
        push.ended.output()
    );
    lab.wait_synced()?;
    ensure!(
        lab.rules(node)?.opens(port) == [true, true],
        "the node is on the old ruleset"
    );
    Ok(())
}

#[test]
fn an_offline_node_is_named_and_catches_up() -> Result<()> {
    Lab::run_pushed(|lab| {
        for node in NODES {
            let port = if node == "sip1" { 9981 } else { 9982 };
            lab.stop(node)?;
            lab.wait("the node offline", || {
                let offline = lab.status()?.node(node)?.state == "offline";
                Ok(offline.then_some(()))
            })?;
            let before = lab.rules(node)?;
            ensure!(before.has_ours(), "a stopped agent took its rules away");
            lab.change_policy(port)?;
            let push = lab.push()?;
            ensure!(push.count("applied")? == 2, "{}", push.done);
            let event = push.node(node)?;
            ensure!(event.to_string().contains("offline"), "{event}");
            before.same(&lab.rules(node)?)?;
            lab.start(node)?;
            lab.wait_synced()?;
            ensure!(
                lab.rules(node)?.opens(port) == [true, true],
                "the node is on the old ruleset"
            );
        }
        Ok(())
    })
}
