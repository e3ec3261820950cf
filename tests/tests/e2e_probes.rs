//! A site's probes decide on a push: what no node can reach through its new rules undoes it.

use std::fs::File;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::lab::{Lab, Push, Rules, Source};

/// Where the carrier of the lab answers TCP and SIP.
const TCP: u16 = 9800;
const SIP: u16 = 5060;

/// Serves TCP connections and SIP OPTIONS in a host's network namespace, until the process ends.
fn serve(host: &Source) -> Result<()> {
    let namespace = File::open(format!("/run/netns/{}", host.netns))?;
    let (ready, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let open = || -> Result<_> {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let any = IpAddr::from([0_u16; 8]); // takes IPv4 as well
            Ok((TcpListener::bind((any, TCP))?, UdpSocket::bind((any, SIP))?))
        };
        let opened = open();
        let (told, sockets) = match opened {
            Ok(sockets) => (Ok(()), Some(sockets)),
            Err(error) => (Err(error), None),
        };
        let _heard = ready.send(told);
        let Some((tcp, sip)) = sockets else {
            return;
        };
        std::thread::spawn(move || while tcp.accept().is_ok() {});
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = sip.recv_from(&mut buffer) {
            let request = buffer.get(..length).unwrap_or_default();
            let _unsent = sip.send_to(&sip_answer(request), from);
        }
    });
    wait.recv().context("the servers did not start")?
}

/// 200 OK, with what a response repeats of its request (RFC 3261, 8.2.6.2).
fn sip_answer(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let repeated = text.lines().filter(|line| {
        ["Via:", "From:", "To:", "Call-ID:", "CSeq:"]
            .iter()
            .any(|header| line.starts_with(header))
    });
    let mut lines = vec!["SIP/2.0 200 OK"];
    lines.extend(repeated);
    lines.push("Content-Length: 0\r\n\r\n");
    lines.join("\r\n").into_bytes()
}

/// The sample site with these probes, and these addresses denied besides.
fn site(lab: &Lab, probes: &[String], denied: &[IpAddr]) -> Result<()> {
    let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
    let mut deny = vec!["\"list:voipbl\"".to_owned()];
    deny.extend(denied.iter().map(|address| format!("\"{address}\"")));
    let probes = probes.join(", ");
    let lines = format!("deny: [{}]\nprobes: [{probes}]\n", deny.join(", "));
    let changed = sample.replace("deny: [\"list:voipbl\"]\n", &lines);
    ensure!(
        changed != sample,
        "the sample site has another shape than this test knows"
    );
    let applied = lab.apply(&changed)?;
    ensure!(applied.success(), "{}", applied.output());
    ensure!(
        !applied.output().contains("probe"),
        "probes are warned about: {}",
        applied.output()
    );
    Ok(())
}

/// The push is rolled back on every node, which says `words`, and runs what it ran.
fn is_rolled_back(lab: &Lab, push: &Push, before: &[Rules], words: &[String]) -> Result<()> {
    ensure!(push.ended.status == Some(1), "{}", push.ended.output());
    ensure!(push.count("rolled_back")? == 3, "{}", push.done);
    let status = lab.status()?;
    for (node, before) in lab.nodes().iter().zip(before) {
        let name = &node.name;
        let event = push.node(name)?;
        let stands = status.node(name)?;
        ensure!(event["state"] == "rolled_back", "{event}");
        ensure!(stands.state == "error", "{stands:?}");
        for said in [event["error"].as_str(), stands.error.as_deref()] {
            let said = said.unwrap_or_default();
            ensure!(said == words.join("; "), "{name} says: {said}");
        }
        ensure!(stands.drift.as_deref() == Some("clean"), "{stands:?}");
        before.same(&lab.rules(name)?).context(name.clone())?;
    }
    // As people read it, too.
    let again = lab.voipctl(&["push", "site-a", "--yes"])?;
    let status = lab.voipctl(&["status", "site-a"])?;
    ensure!(again.status == Some(1), "{}", again.output());
    for (what, said) in [("push", again.output()), ("status", status.output())] {
        ensure!(
            words.iter().all(|words| said.contains(words)),
            "{what} does not say which probe: {said}"
        );
    }
    Ok(())
}

fn rules(lab: &Lab) -> Result<Vec<Rules>> {
    let nodes = lab.nodes().iter();
    nodes.map(|node| lab.rules(&node.name)).collect()
}

#[test]
fn a_push_stands_or_falls_with_its_probes() -> Result<()> {
    Lab::run_pushed(|lab| {
        let sources = lab.sources()?;
        let host = |who: &str| {
            let found = sources.iter().find(|source| source.who == who);
            found.with_context(|| format!("there is no source {who}"))
        };
        let (carrier, office) = (host("carrier")?, host("office")?);
        serve(carrier)?;
        let good = [
            format!("{{name: trunk, udp-sip: \"[{}]:{SIP}\"}}", carrier.v6),
            format!("{{name: portal, tcp: \"{}:{TCP}\"}}", carrier.v4),
            format!("{{name: way-4, icmp: {}}}", office.v4),
            format!("{{name: way-6, icmp: \"{}\"}}", office.v6),
        ];
        site(lab, &good, &[])?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        ensure!(push.count("applied")? == 3, "{}", push.done);
        let generation = lab.wait_synced()?.generation;
        let before = rules(lab)?;

        // Rules that cut what is probed, in both families.
        site(lab, &good, &[carrier.v4.into(), carrier.v6.into()])?;
        let cut = [
            format!(
                "probe \"trunk\" (udp-sip [{}]:{SIP}) failed: no answer within 3 s",
                carrier.v6
            ),
            format!(
                "probe \"portal\" (tcp {}:{TCP}) failed: no answer within 3 s",
                carrier.v4
            ),
        ];
        is_rolled_back(lab, &lab.push()?, &before, &cut)?;

        // Something that does not answer for reasons of its own.
        let mut more = good.to_vec();
        more.push(format!("{{name: billing, tcp: \"{}:81\"}}", carrier.v4));
        site(lab, &more, &[])?;
        let refused = [format!(
            "probe \"billing\" (tcp {}:81) failed: connection refused",
            carrier.v4
        )];
        is_rolled_back(lab, &lab.push()?, &before, &refused)?;
        for node in &lab.status()?.nodes {
            ensure!(node.generation == generation, "{node:?}");
        }

        site(lab, &good, &[])?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        lab.wait_synced()?;
        Ok(())
    })
}
