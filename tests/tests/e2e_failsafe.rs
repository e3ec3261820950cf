//! Policies that would cut the door: the controllers, the admins' SSH, or loopback. Each is
//! refused before anything is stored, or made harmless by the agent's own first rules; and then
//! the door is tried, from where the admins sit, on both backends, in both families.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use voipfleet_packets::{Kind, Outcome, Probe, Reach};
use voipfleet_tests::lab::{Family, Lab, Options};

const CLOSED: (Kind, u16) = (Kind::Tcp, 1);
const SSH: (Kind, u16) = (Kind::Tcp, 22);

/// Whose SSH must stay open. The lab's admin host has one address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The document is refused, with this word in the message.
    Refused(&'static str),
    /// Admins of these families come in; those of the others are no admins any more.
    Open(&'static [Family]),
}

const BOTH: Door = Door::Open(&Family::BOTH);

/// The site with one part of it, or several, in other words; further documents follow.
struct Attempt {
    what: &'static str,
    changes: &'static [(&'static str, &'static str)],
    door: Door,
}

const ADMINS: &str = "admins: [198.51.100.10, \"2001:db8:ad::/64\"]";
const DENY: &str = "deny: [\"list:voipbl\"]";
const SERVICES: &str = "services:\n";
const TENANTS: &str = "tenants: [acme, globex]";

#[rustfmt::skip]
const ATTEMPTS: &[Attempt] = &[
    Attempt { what: "no admins", changes: &[(ADMINS, "admins: []")], door: Door::Refused("admins") },
    Attempt { what: "admins left out", changes: &[(ADMINS, "")], door: Door::Refused("admins") },
    Attempt { what: "admins that are nobody", changes: &[(ADMINS, "admins: [\"list:nobody\"]")], door: Door::Refused("admins") },
    Attempt { what: "SSH without a TCP port", changes: &[(SERVICES, "services:\n  ssh: {ports: []}\n")], door: Door::Refused("ports") },
    Attempt { what: "admins of IPv6 only", changes: &[(ADMINS, "admins: [\"2001:db8:ad::/64\"]")], door: Door::Open(&[Family::V6]) },
    Attempt { what: "admins of IPv4 only", changes: &[(ADMINS, "admins: [198.51.100.10]")], door: Door::Open(&[Family::V4]) },
    Attempt { what: "admins narrowed to one address each", changes: &[(ADMINS, "admins: [198.51.100.10/32, \"2001:db8:ad::10/128\"]")], door: BOTH },
    Attempt { what: "the admins are denied", changes: &[(DENY, "deny: [198.51.100.10, \"2001:db8:ad::10\"]")], door: BOTH },
    Attempt { what: "networks around the admins are denied", changes: &[(DENY, "deny: [198.51.100.0/24, \"2001:db8::/32\"]")], door: BOTH },
    Attempt { what: "narrower networks than the admins' are denied", changes: &[(DENY, "deny: [\"2001:db8:ad::10/127\", \"2001:db8:ad:0:8000::/65\"]")], door: BOTH },
    Attempt { what: "half of the world is denied, then the other", changes: &[(DENY, "deny: [0.0.0.0/1, 128.0.0.0/1, \"::/1\", \"8000::/1\"]")], door: BOTH },
    Attempt { what: "all of IPv6 is denied", changes: &[(DENY, "deny: [\"::/1\", \"8000::/1\", \"fe80::/10\", \"ff00::/8\"]")], door: BOTH },
    Attempt { what: "the controller is denied", changes: &[(DENY, "deny: [10.98.0.1]")], door: BOTH },
    Attempt { what: "the controller's network is denied", changes: &[(DENY, "deny: [10.98.0.0/24, 10.0.0.0/8]")], door: BOTH },
    Attempt { what: "loopback is denied", changes: &[(DENY, "deny: [127.0.0.0/8, \"::1\"]")], door: BOTH },
    Attempt { what: "the nodes' own networks are denied", changes: &[(DENY, "deny: [198.18.0.0/15, 10.20.0.0/16, \"2001:db8:1::/64\", \"fd00:20::/64\"]")], door: BOTH },
    Attempt { what: "a list denies admins and controller", changes: &[("addresses: [198.51.100.77,", "addresses: [198.51.100.10, 10.98.0.1, \"2001:db8:ad::/64\", 198.51.100.77,")], door: BOTH },
    Attempt { what: "SSH for nobody", changes: &[(SERVICES, "services:\n  ssh: {from: []}\n")], door: BOTH },
    Attempt { what: "SSH for tenants in place of admins", changes: &[(SERVICES, "services:\n  ssh: {from: [clients]}\n")], door: BOTH },
    Attempt { what: "SSH on a port where no sshd listens", changes: &[(SERVICES, "services:\n  ssh: {ports: [2222]}\n")], door: BOTH },
    Attempt { what: "SSH by IPv6 only", changes: &[(SERVICES, "services:\n  ssh: {from: [\"2001:db8:ad::/64\"]}\n")], door: BOTH },
    Attempt { what: "every service for nobody", changes: &[(SERVICES, "services:\n  ssh: {from: []}\n  icmp: {from: []}\n  icmpv6: {from: []}\n  tftp: {from: []}\n  xmpp-c2s: {from: []}\n"), ("from: [clients, admins]", "from: []")], door: BOTH },
    Attempt { what: "the whole site rejects", changes: &[("default: drop", "default: reject")], door: BOTH },
    Attempt { what: "no tenants, no providers, nobody trusted", changes: &[(TENANTS, "tenants: []"), ("providers: [trunkco]", "providers: []"), ("trust: full", "trust: strict")], door: BOTH },
    Attempt { what: "a cluster on an interface that is not there", changes: &[("interface: eth1, trust: full", "interface: eth9, trust: strict")], door: BOTH },
    Attempt { what: "a rule of its own that gives port 22 to others", changes: &[("rules:\n", "rules:\n  - {name: ssh, accept: {proto: tcp, ports: [22], from: [203.0.113.9]}}\n")], door: BOTH },
];

/// The sample policies with the changes of an attempt; all of them must find their place.
fn documents(lab: &Lab, attempt: &Attempt) -> Result<String> {
    let mut all = String::new();
    for file in [
        "lists.yaml",
        "providers.yaml",
        "tenants.yaml",
        "site-a.yaml",
    ] {
        let text = std::fs::read_to_string(lab.policies().join(file))?;
        all.push_str("---\n");
        all.push_str(&text);
    }
    for (from, to) in attempt.changes {
        ensure!(all.contains(from), "{from:?} is not in the sample policies");
        all = all.replace(from, to);
    }
    Ok(all)
}

/// The door as the admins, and everybody else, find it.
fn probes(lab: &Lab, families: &[Family]) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for node in lab.nodes() {
        for family in families {
            probes.push(lab.probe("admin", &node.name, *family, SSH, Reach::Open)?);
        }
        for family in Family::BOTH {
            // A refusal is an answer: only a packet that is dropped gets none.
            let mut own = lab.probe("admin", &node.name, family, CLOSED, Reach::Open)?;
            "itself".clone_into(&mut own.who);
            own.netns = format!("vf-{}", node.name);
            own.source = None;
            own.to = match family {
                Family::V4 => IpAddr::from([127, 0, 0, 1]),
                Family::V6 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            };
            (own.kind, own.port) = SSH;
            probes.push(own);
        }
    }
    Ok(probes)
}

fn the_door_is_open(lab: &Lab, families: &[Family]) -> Result<()> {
    let outcomes = voipfleet_packets::run(&probes(lab, families)?)?;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_right())
        .map(Outcome::to_string)
        .collect();
    ensure!(wrong.is_empty(), "locked out:\n{}", wrong.join("\n"));
    Ok(())
}

fn try_it(lab: &Lab, attempt: &Attempt) -> Result<()> {
    let stored = lab.apply(&documents(lab, attempt)?)?;
    let families = match attempt.door {
        Door::Refused(word) => {
            ensure!(
                stored.status == Some(2),
                "it is stored: {}",
                stored.output()
            );
            ensure!(stored.output().contains(word), "{}", stored.output());
            return the_door_is_open(lab, &Family::BOTH);
        }
        Door::Open(families) => families,
    };
    ensure!(stored.success(), "{}", stored.output());
    // Applied means that a new connection to the controller came through the new rules.
    let push = lab.push()?;
    ensure!(push.ended.success(), "{}", push.ended.output());
    ensure!(push.count("applied")? == 2, "{}", push.done);
    the_door_is_open(lab, families)
}

#[test]
fn no_policy_cuts_the_controller_the_admins_or_loopback() -> Result<()> {
    let options = Options {
        nodes: 2,
        backend: "mixed",
        roles: "all",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        for attempt in ATTEMPTS {
            try_it(lab, attempt).with_context(|| attempt.what)?;
        }
        // A restart of everything under the last policy finds its way as well.
        for node in lab.nodes() {
            lab.kill(&node.name)?;
            lab.start(&node.name)?;
        }
        lab.wait_synced()?;
        Ok(())
    })
}
