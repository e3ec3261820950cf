//! A push that denies somebody ends the calls of exactly that source: SIP and media over UDP,
//! both families, both backends, a packet every 20 ms.

use anyhow::{Result, ensure};
use voipfleet_tests::calls::{Calls, Flow};
use voipfleet_tests::lab::{Lab, Options, Push};

/// SIP, and a port of media.
const PORTS: [u16; 2] = [5060, 10_000];
/// Flows of a source to a node: two ports, two families.
const FLOWS: usize = 4;
/// Packets that say that a flow goes on.
const SOME: u64 = 25;

/// Calls of the office and of the carrier to one node.
struct Node {
    name: String,
    calls: Calls,
}

impl Node {
    fn begin(lab: &Lab, name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            calls: lab.calls(name, &["office", "carrier"], &PORTS)?,
        })
    }

    fn office(&self) -> &[std::sync::Arc<Flow>] {
        self.calls.flows().get(..FLOWS).unwrap_or_default()
    }

    fn carrier(&self) -> &[std::sync::Arc<Flow>] {
        self.calls.flows().get(FLOWS..).unwrap_or_default()
    }

    /// Entries of connection tracking that the office began, or that name it at all.
    fn entries_of_office(&self, lab: &Lab, began: bool) -> Result<Vec<String>> {
        let office = [
            "src=203.0.113.9 ",
            "src=2001:0db8:0010:0000:0000:0000:0000:0009 ",
        ];
        let all = lab.edit(&self.name, "cat /proc/net/nf_conntrack")?;
        let of_office = |line: &&str| {
            let first = line.find("src=").unwrap_or_default();
            office.iter().any(|source| match line.find(source) {
                Some(at) => !began || at == first,
                None => false,
            })
        };
        Ok(all.lines().filter(of_office).map(str::to_owned).collect())
    }
}

/// Waits until all of these go there and back.
fn go_on<'f>(lab: &Lab, flows: impl Iterator<Item = &'f std::sync::Arc<Flow>>) -> Result<()> {
    for flow in flows {
        let from = flow.sent();
        lab.wait("a flow that goes on", || {
            Ok((flow.answered() > from + SOME).then_some(()))
        })?;
    }
    Ok(())
}

/// Pushes; gives what it says, and the number of the last packet of each of the office's flows
/// that was sent before the push was over.
fn push(lab: &Lab, nodes: &[Node], document: &str) -> Result<(Push, Vec<u64>)> {
    let applied = lab.apply(document)?;
    ensure!(applied.success(), "{}", applied.output());
    let push = lab.push()?;
    ensure!(push.ended.success(), "{}", push.ended.output());
    ensure!(push.count("applied")? == 2, "{}", push.done);
    let sent = nodes.iter().flat_map(Node::office);
    Ok((push, sent.map(|flow| flow.sent()).collect()))
}

/// That the push counts every flow of the office, on each node and in all, and the status too.
fn counts(lab: &Lab, push: &Push, nodes: &[Node], each: usize) -> Result<()> {
    let all = u64::try_from(each * nodes.len())?;
    ensure!(push.count("flows_cut")? == all, "{}", push.done);
    let status = lab.status()?;
    for node in nodes {
        let said = push.node(&node.name)?;
        ensure!(said["flows_cut"] == each, "{said}");
        let shown = status.node(&node.name)?;
        ensure!(shown.flows_cut == u64::try_from(each)?, "{shown:?}");
    }
    Ok(())
}

/// That nothing of the office came through that was sent after the push; the carrier's packets
/// that come through meanwhile were sent after those.
fn has_stopped(lab: &Lab, nodes: &[Node], sent: &[u64]) -> Result<()> {
    for flow in nodes.iter().flat_map(Node::office) {
        let from = flow.sent();
        lab.wait("packets that are dropped", || {
            Ok((flow.sent() > from + SOME).then_some(()))
        })?;
    }
    go_on(lab, nodes.iter().flat_map(Node::carrier))?;
    for (flow, sent) in nodes.iter().flat_map(Node::office).zip(sent) {
        ensure!(flow.received() > 0, "it never spoke");
        ensure!(
            flow.received() <= *sent,
            "packet {} came through; the push was over at {sent}",
            flow.received()
        );
    }
    Ok(())
}

#[test]
fn a_push_ends_the_calls_of_who_is_denied_and_no_other() -> Result<()> {
    let options = Options {
        nodes: 2,
        backend: "mixed",
        roles: "all",
        bare: true,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
        let edited = |edits: &[(&str, &str)]| -> Result<String> {
            let mut document = sample.clone();
            for (from, to) in edits {
                ensure!(
                    document.contains(from),
                    "the sample site has another shape than this test knows"
                );
                document = document.replace(from, to);
            }
            Ok(document)
        };
        // Media for clients only, so that a tenant that goes loses it with SIP.
        let media = (
            "10000-20000, from: [world]",
            // The carrier speaks from its signalling network here.
            "10000-20000, from: [clients, 192.0.2.0/28, \"2001:db8:20::/124\"]",
        );
        let open = edited(&[media])?;
        let applied = lab.apply(&open)?;
        ensure!(applied.success(), "{}", applied.output());
        let first = lab.push()?;
        ensure!(first.ended.success(), "{}", first.ended.output());

        let names = lab.nodes().iter().map(|node| node.name.as_str());
        let nodes: Vec<Node> = names
            .map(|name| Node::begin(lab, name))
            .collect::<Result<_>>()?;
        let all = || nodes.iter().flat_map(|node| node.calls.flows());
        go_on(lab, all())?;

        // An address that is denied is cut off though the node goes on speaking to it.
        for node in &nodes {
            node.calls.node_speaks(true);
        }
        let denied = edited(&[
            media,
            (
                "\"list:voipbl\"",
                "\"list:voipbl\", 203.0.113.9, \"2001:db8:10::9\"",
            ),
        ])?;
        let (denying, sent) = push(lab, &nodes, &denied)?;
        counts(lab, &denying, &nodes, FLOWS)?;
        has_stopped(lab, &nodes, &sent)?;
        for node in &nodes {
            let entries = node.entries_of_office(lab, true)?;
            ensure!(entries.is_empty(), "{}: {entries:#?}", node.name);
        }

        // To let it in again cuts nobody.
        for node in &nodes {
            node.calls.node_speaks(false);
        }
        let (opening, _) = push(lab, &nodes, &open)?;
        counts(lab, &opening, &nodes, 0)?;
        go_on(lab, all())?;

        // A tenant that goes. What the node still sends to it would be the start of a new flow,
        // so that it says nothing just then.
        let office = || nodes.iter().flat_map(Node::office);
        for flow in office() {
            flow.is_answered(false);
        }
        for flow in office() {
            let from = flow.received();
            lab.wait("a flow without answers", || {
                Ok((flow.received() > from + SOME).then_some(()))
            })?;
        }
        let without = edited(&[media, ("[acme, globex]", "[globex]")])?;
        let (removing, sent) = push(lab, &nodes, &without)?;
        counts(lab, &removing, &nodes, FLOWS)?;
        office().for_each(|flow| flow.is_answered(true));
        has_stopped(lab, &nodes, &sent)?;
        for node in &nodes {
            let entries = node.entries_of_office(lab, false)?;
            ensure!(entries.is_empty(), "{}: {entries:#?}", node.name);
        }

        // The carrier lost nothing in any of it, there or back.
        for node in &nodes {
            node.calls.hang_up();
        }
        for flow in nodes.iter().flat_map(Node::carrier) {
            // Where one is missing, this is what says which.
            let _last = lab.wait("the last answer", || {
                Ok((flow.answered() == flow.sent()).then_some(()))
            });
            flow.is_whole()?;
        }
        Ok(())
    })
}
