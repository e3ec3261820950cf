//! What changes without a push, on three nodes of both backends: blocks, allows, a site that is
//! opened, and members that come and go.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use voipfleet_tests::calls::{Calls, Flow};
use voipfleet_tests::exec::Ended;
use voipfleet_tests::lab::{Lab, Options};

/// SIP, and a port of media.
const PORTS: [u16; 2] = [5060, 10_000];
/// Packets that say that a flow goes on, or that it does not.
const SOME: u64 = 25;
/// The office's addresses; they are a tenant's.
const OFFICE: [&str; 2] = ["203.0.113.9", "2001:db8:10::9"];

/// Calls of some sources to one node.
struct Node {
    calls: Calls,
    /// Of each source, in the order in which they were named.
    each: usize,
}

impl Node {
    fn begin(lab: &Lab, name: &str, whos: &[&str]) -> Result<Self> {
        let calls = lab.calls(name, whos, &PORTS)?;
        Ok(Self {
            each: calls.flows().len() / whos.len(),
            calls,
        })
    }

    /// The flows of the source that was named as number `who`.
    fn of(&self, who: usize) -> impl Iterator<Item = &Arc<Flow>> {
        self.calls
            .flows()
            .iter()
            .skip(who * self.each)
            .take(self.each)
    }
}

fn of(nodes: &[Node], who: usize) -> Vec<&Arc<Flow>> {
    nodes.iter().flat_map(|node| node.of(who)).collect()
}

/// Waits until all of these go there and back.
fn go_on(lab: &Lab, flows: &[&Arc<Flow>]) -> Result<()> {
    for flow in flows {
        let from = flow.answered();
        lab.wait("a flow that goes on", || {
            Ok((flow.answered() > from + SOME).then_some(()))
        })?;
    }
    Ok(())
}

/// That nothing comes through of what is sent from now on, on any of these.
fn stand_still(lab: &Lab, flows: &[&Arc<Flow>]) -> Result<()> {
    let sent: Vec<u64> = flows.iter().map(|flow| flow.sent()).collect();
    for (flow, from) in flows.iter().zip(&sent) {
        lab.wait("packets that are dropped", || {
            Ok((flow.sent() > from + SOME).then_some(()))
        })?;
        ensure!(
            flow.received() <= *from,
            "packet {} came through, sent after {from}",
            flow.received()
        );
    }
    Ok(())
}

/// Makes the node say nothing on these for a while: what it says of itself to somebody who is shut
/// out in that moment begins a flow of its own, and answers to that pass.
fn unanswered(lab: &Lab, flows: &[&Arc<Flow>], act: impl FnOnce() -> Result<()>) -> Result<()> {
    for flow in flows {
        flow.is_answered(false);
    }
    for flow in flows {
        let from = flow.received();
        lab.wait("a flow without answers", || {
            Ok((flow.received() > from + SOME).then_some(()))
        })?;
    }
    act()?;
    for flow in flows {
        flow.is_answered(true);
    }
    Ok(())
}

/// Runs a command; gives its answer, and prints how long it took until every node had done it.
fn on_every_node(lab: &Lab, arguments: &[&str]) -> Result<Value> {
    let begun = Instant::now();
    let ended = lab.voipctl(&[arguments, &["-o", "json"]].concat())?;
    let took = begun.elapsed().as_millis();
    ensure!(ended.success(), "{arguments:?}: {}", ended.output());
    let answer: Value = serde_json::from_str(&ended.stdout)?;
    for count in ["enforced", "nodes"] {
        ensure!(
            answer.get(count).and_then(Value::as_u64) == Some(3),
            "{answer}"
        );
    }
    let what = arguments.first().copied().unwrap_or_default();
    print(&format!("{what}: enforced on 3 nodes after {took} ms"));
    Ok(answer)
}

#[expect(clippy::print_stdout, reason = "figures for whoever asks: --nocapture")]
fn print(figure: &str) {
    println!("{figure}");
}

fn refused(ended: &Ended, words: &str) -> Result<()> {
    ensure!(
        !ended.success() && ended.output().contains(words),
        "{}",
        ended.output()
    );
    Ok(())
}

/// The lab, pushed, with media for clients only, so that a stranger has none.
fn with_lab(test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let options = Options {
        roles: "all",
        bare: true,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
        let document = sample.replace(
            "10000-20000, from: [world]",
            // The carrier speaks from its signalling network here.
            "10000-20000, from: [clients, 192.0.2.0/28, \"2001:db8:20::/124\"]",
        );
        ensure!(
            document != sample,
            "the sample site has another shape than this test knows"
        );
        let applied = lab.apply(&document)?;
        ensure!(applied.success(), "{}", applied.output());
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        lab.wait_synced()?;
        test(lab)
    })
}

fn begin(lab: &Lab, whos: &[&str]) -> Result<Vec<Node>> {
    let names = lab.nodes().iter().map(|node| node.name.as_str());
    names.map(|name| Node::begin(lab, name, whos)).collect()
}

#[test]
fn a_block_cuts_calls_everywhere_and_outlives_every_process() -> Result<()> {
    with_lab(|lab| {
        let nodes = begin(lab, &["office", "carrier"])?;
        let (office, carrier) = (of(&nodes, 0), of(&nodes, 1));
        go_on(lab, &office)?;
        go_on(lab, &carrier)?;
        // A node that goes on speaking keeps no call alive.
        for node in &nodes {
            node.calls.node_speaks(true);
        }
        let plain = ["block", OFFICE[0], "--reason", "toll fraud"];
        refused(&lab.voipctl(&plain)?, "tenant acme: offices")?;
        for address in OFFICE {
            let line = ["block", address, "--force", "--reason", "toll fraud"];
            on_every_node(lab, &line)?;
        }
        stand_still(lab, &office)?;
        go_on(lab, &carrier)?;
        lab.wait_synced()?;

        lab.kill("controller")?;
        for node in lab.nodes() {
            lab.kill(&node.name)?;
        }
        for node in lab.nodes() {
            lab.start(&node.name)?;
        }
        stand_still(lab, &office)?;
        lab.start("controller")?;
        lab.wait_synced()?;
        stand_still(lab, &office)?;
        let listed: Value = serde_json::from_str(&lab.voipctl_ok(&["blocks", "-o", "json"])?)?;
        let listed = listed["blocks"].as_array().map(Vec::len);
        ensure!(listed == Some(2), "{listed:?}");

        for node in &nodes {
            node.calls.node_speaks(false);
        }
        for address in OFFICE {
            on_every_node(lab, &["unblock", address])?;
        }
        go_on(lab, &office)?;

        // One that ends while nobody is there to end it.
        let line = [
            "block",
            OFFICE[0],
            "--force",
            "--ttl",
            "10s",
            "--reason",
            "a short one",
        ];
        on_every_node(lab, &line)?;
        lab.kill("controller")?;
        let v4: Vec<_> = nodes.iter().flat_map(|node| node.of(0).take(2)).collect();
        go_on(lab, &v4)?;
        lab.start("controller")?;
        lab.wait_synced()?;
        Ok(())
    })
}

#[test]
fn a_stranger_is_let_in_and_shut_out_and_a_site_is_opened_and_closed() -> Result<()> {
    with_lab(|lab| {
        let nodes = begin(lab, &["stranger", "carrier"])?;
        let (stranger, carrier) = (of(&nodes, 0), of(&nodes, 1));
        stand_still(lab, &stranger)?;
        let sources = lab.sources()?;
        let own = sources.iter().find(|source| source.who == "stranger");
        let own = own.context("there is no stranger")?;
        let addresses = [own.v4.to_string(), own.v6.to_string()];
        let nowhere = lab.voipctl(&["allow", &addresses[0], "--reason", "a new phone"])?;
        refused(&nowhere, "no site given")?;
        for address in &addresses {
            let line = [
                "allow",
                address,
                "--site",
                "site-a",
                "--reason",
                "a new phone",
            ];
            on_every_node(lab, &line)?;
        }
        go_on(lab, &stranger)?;
        unanswered(lab, &stranger, || {
            for address in &addresses {
                on_every_node(lab, &["disallow", address])?;
            }
            Ok(())
        })?;
        stand_still(lab, &stranger)?;

        on_every_node(lab, &["panic-open", "site-a", "--reason", "a bad push"])?;
        go_on(lab, &stranger)?;
        let shown = lab.voipctl_ok(&["status", "site-a"])?;
        ensure!(shown.contains("IS OPEN TO THE WORLD"), "{shown}");
        unanswered(lab, &stranger, || {
            on_every_node(lab, &["panic-close", "site-a"]).map(drop)
        })?;
        stand_still(lab, &stranger)?;
        go_on(lab, &carrier)?;
        lab.wait_synced()?;
        Ok(())
    })
}

/// Whether a node's kernel takes `address` for a member of the cluster.
fn knows(lab: &Lab, node: &str, address: &str) -> Result<bool> {
    let wanted = format!(" {address} ");
    let sets = lab.rules(node)?.sets;
    let mut members = sets
        .iter()
        .filter(|line| line.starts_with("add vf-cluster"));
    Ok(members.any(|line| format!("{line} ").contains(&wanted)))
}

#[test]
fn members_of_the_cluster_go_and_come_without_a_push() -> Result<()> {
    with_lab(|lab| {
        let [peer, .., gone] = lab.nodes() else {
            anyhow::bail!("the lab has one node");
        };
        let address = format!("10.20.0.{}", 10 + gone.index);
        ensure!(knows(lab, &peer.name, &address)?);
        let generation = lab.status()?.generation;
        lab.stop(&gone.name)?;
        let name = format!("site-a/{}", gone.name);
        let begun = Instant::now();
        lab.voipctl_ok(&["delete", "node", &name, "--yes"])?;
        lab.wait("a cluster without it", || {
            Ok((!knows(lab, &peer.name, &address)?).then_some(()))
        })?;
        let took = begun.elapsed().as_millis();
        print(&format!("gone from its peers after {took} ms"));

        let ended = lab.agent(&gone.name, "teardown")?;
        ensure!(ended.success(), "{}", ended.output());
        let state = lab.state().join("agents").join(&gone.name);
        std::fs::remove_dir_all(&state)?;
        std::fs::create_dir(&state)?;
        let roles = gone.roles.join(",");
        let token = ["token", "create", "--site", "site-a", "--role", &roles];
        let token = lab.voipctl_ok(&token)?;
        let enrolled = lab.on(
            &gone.name,
            &[
                lab.program("voipfleet-agent").to_string_lossy().as_ref(),
                "enroll",
                "--node",
                &gone.name,
                "--controller",
                "10.98.0.1:7444",
                "--token",
                token.trim(),
                "--state",
                state.to_string_lossy().as_ref(),
            ],
        )?;
        ensure!(enrolled.success(), "{}", enrolled.output());
        lab.start(&gone.name)?;
        lab.wait("its session", || {
            let status = lab.status()?;
            let state = &status.node(&gone.name)?.state;
            Ok((state != "offline").then_some(()))
        })?;
        ensure!(lab.status()?.generation == generation, "nothing was pushed");
        // It is given the pushed generation, and is a member once it has confirmed it.
        let begun = Instant::now();
        lab.wait("a cluster with it", || {
            Ok(knows(lab, &peer.name, &address)?.then_some(()))
        })?;
        let took = begun.elapsed().as_millis();
        print(&format!(
            "known to its peers {took} ms after its session began"
        ));
        Ok(())
    })
}

/// The members of whatever set of a node's kernel holds the list, as `ipset save` prints them.
fn listed(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let sets = lab.rules(node)?.sets;
    let public = sets.into_iter().filter(|line| line.contains(" 9.9.9."));
    Ok(public
        .filter_map(|line| line.split(' ').nth(2).map(str::to_owned))
        .collect())
}

fn wait_listed(lab: &Lab, wanted: &[&str]) -> Result<()> {
    for node in lab.nodes() {
        lab.wait("the list in the kernel", || {
            Ok((listed(lab, &node.name)? == wanted).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_fetched_list_reaches_the_kernel_without_a_push() -> Result<()> {
    with_lab(|lab| {
        let folder = lab.state().join("controller/feeds");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("voipbl.txt");
        let office = OFFICE[0];
        // Of these, what the site serves and what is no public address is left out.
        std::fs::write(&file, format!("9.9.9.9\n10.1.2.3\n{office}\nwords\n"))?;
        let document = format!(
            "kind: List\nname: voipbl\nfile: {}\nrefresh: 1h\n",
            file.display()
        );
        let applied = lab.apply(&document)?;
        ensure!(applied.success(), "{}", applied.output());
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        wait_listed(lab, &["9.9.9.9"])?;
        for node in lab.nodes() {
            let sets = lab.rules(&node.name)?.sets;
            let denied = sets.iter().filter(|line| !line.contains("vf-c"));
            let mut hit = denied.filter(|line| line.ends_with(" 10.1.2.3"));
            ensure!(hit.next().is_none(), "{sets:?}");
        }
        let nodes = begin(lab, &["office"])?;
        go_on(lab, &of(&nodes, 0))?;
        let told = lab.voipctl_ok(&["feeds", "-o", "json"])?;
        let told: Value = serde_json::from_str(&told)?;
        let dropped = told.pointer("/feeds/0/dropped").context("no dropped")?;
        ensure!(dropped.get("private") == Some(&1.into()), "{told}");
        ensure!(dropped.get("not_addresses") == Some(&1.into()), "{told}");
        let own = told.pointer("/feeds/0/left_out/0");
        let own = own.context("no left_out")?;
        ensure!(own.get("whose") == Some(&"tenants".into()), "{told}");

        let generation = lab.status()?.generation;
        std::fs::write(&file, "9.9.9.10\n")?;
        let begun = Instant::now();
        lab.voipctl_ok(&["feeds", "fetch", "voipbl"])?;
        wait_listed(lab, &["9.9.9.10"])?;
        let took = begun.elapsed().as_millis();
        print(&format!(
            "a fetched list is in the kernel of 3 nodes after {took} ms"
        ));
        // A source that fails takes nothing away.
        std::fs::remove_file(&file)?;
        let failed = lab.voipctl(&["feeds", "fetch", "voipbl"])?;
        ensure!(!failed.success(), "{}", failed.output());
        wait_listed(lab, &["9.9.9.10"])?;
        ensure!(lab.status()?.generation == generation, "nothing was pushed");
        lab.wait_synced()?;
        Ok(())
    })
}
