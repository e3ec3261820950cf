//! Who reaches what, by real sockets: every service of the catalogue, IPv4 and IPv6, on both
//! backends.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use voipfleet_packets::{Kind, Outcome, Probe, Reach};
use voipfleet_policy::catalogue::{Direction, SERVICES};
use voipfleet_tests::lab::{Family, Lab, Options};

/// Everybody who tries.
const SOURCES: [&str; 7] = [
    "office", "carrier", "stranger", "denied", "admin", "relay", "cluster",
];
const EVERYBODY: &[&str] = &["office", "carrier", "stranger", "admin", "relay", "cluster"];
const CLIENTS: &[&str] = &["office", "carrier"];

/// A service, ports of it, and who reaches them under the policy below: written from the
/// design's table, not taken from the catalogue.
type Row = (
    &'static str,
    &'static [(Kind, u16)],
    &'static [&'static str],
);

const EXPECTED: &[Row] = &[
    ("ssh", &[(Kind::Tcp, 22)], &["admin", "cluster"]),
    ("sip", &[(Kind::Udp, 5060), (Kind::Tcp, 5060)], CLIENTS),
    ("sip-tls", &[(Kind::Tcp, 5061)], CLIENTS),
    (
        "sip-pbx",
        &[(Kind::Udp, 5050), (Kind::Tcp, 5050)],
        &["office", "carrier", "cluster"],
    ),
    (
        "rtp",
        &[
            (Kind::Udp, 10_000),
            (Kind::Udp, 15_000),
            (Kind::Udp, 20_000),
        ],
        EVERYBODY,
    ),
    (
        "t38",
        &[
            (Kind::Udp, 4000),
            (Kind::Udp, 5049),
            (Kind::Udp, 5051),
            (Kind::Udp, 5059),
            (Kind::Udp, 5062),
            (Kind::Udp, 5999),
        ],
        EVERYBODY,
    ),
    (
        "web",
        &[(Kind::Tcp, 80), (Kind::Tcp, 443)],
        &["office", "carrier", "admin"],
    ),
    ("tftp", &[(Kind::Udp, 69)], CLIENTS),
    ("xmpp-c2s", &[(Kind::Tcp, 5222)], CLIENTS),
    ("xmpp-bosh", &[(Kind::Tcp, 5280)], CLIENTS),
    ("xmpp-s2s", &[(Kind::Tcp, 5269)], EVERYBODY),
    ("smtp", &[(Kind::Tcp, 25)], &["relay"]),
    ("hubring", &[(Kind::Tcp, 11_211)], &["cluster"]),
    ("sql", &[(Kind::Tcp, 3306)], &["cluster"]),
    ("amqp", &[(Kind::Tcp, 5672)], &["cluster"]),
    ("es", &[(Kind::Tcp, 9200), (Kind::Tcp, 9300)], &["cluster"]),
    (
        "erlang",
        &[(Kind::Tcp, 4369), (Kind::Tcp, 25_672)],
        &["cluster"],
    ),
    (
        "nfs",
        &[
            (Kind::Tcp, 111),
            (Kind::Tcp, 2049),
            (Kind::Udp, 111),
            (Kind::Udp, 2049),
        ],
        &["cluster"],
    ),
    (
        "wss",
        &[
            (Kind::Tcp, 4443),
            (Kind::Tcp, 7443),
            (Kind::Tcp, 8082),
            (Kind::Tcp, 8089),
        ],
        &["office"],
    ),
    (
        "turn",
        &[(Kind::Udp, 3478), (Kind::Tcp, 3478), (Kind::Tcp, 5349)],
        &["office"],
    ),
    ("stun", &[(Kind::Udp, 3478)], &["office"]),
    ("icmp", &[(Kind::Ping, 0)], EVERYBODY),
    // Of the site's own rules.
    ("rule:monitoring", &[(Kind::Tcp, 9100)], &["cluster"]),
    // Nobody's: next to open ports, or of services that are only reached outwards.
    (
        "closed",
        &[
            (Kind::Udp, 5061),
            (Kind::Udp, 3999),
            (Kind::Udp, 6000),
            (Kind::Udp, 9999),
            (Kind::Udp, 20_001),
            (Kind::Udp, 53),
            (Kind::Tcp, 53),
            (Kind::Tcp, 8443),
        ],
        &[],
    ),
];

/// The sample site with a strict cluster, so that a member reaches only what the catalogue
/// says, and with the services that are off by default switched on.
fn strict(document: &str) -> Result<String> {
    let strict = document.replace("trust: full", "trust: strict").replace(
        "services:\n",
        "services:\n  xmpp-s2s: {from: [world]}\n  nfs: {from: [cluster]}\n  \
         wss: {from: [tenants]}\n  turn: {from: [tenants]}\n  stun: {from: [tenants]}\n",
    );
    ensure!(
        strict.contains("strict") && strict.contains("nfs"),
        "the sample site has another shape than this test knows"
    );
    Ok(strict)
}

fn plan(lab: &Lab) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for node in lab.nodes() {
        for (service, ports, allowed) in EXPECTED {
            for who in SOURCES {
                for family in Family::BOTH {
                    // The rule is for an IPv4 network.
                    let v4_only = *service == "rule:monitoring" && family == Family::V6;
                    let expect = if allowed.contains(&who) && !v4_only {
                        Reach::Open
                    } else {
                        Reach::Closed
                    };
                    for port in *ports {
                        probes.push(lab.probe(who, &node.name, family, *port, expect)?);
                    }
                }
            }
        }
    }
    Ok(probes)
}

fn check(probes: &[Probe]) -> Result<()> {
    let outcomes = voipfleet_packets::run(probes)?;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_right())
        .map(Outcome::to_string)
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} packets went another way:\n{}\n{}",
        wrong.len(),
        outcomes.len(),
        wrong.join("\n"),
        voipfleet_packets::table(&outcomes)
    );
    Ok(())
}

#[test]
fn every_service_of_the_catalogue_is_open_to_its_sources_and_to_nobody_else() -> Result<()> {
    let known: BTreeSet<&str> = EXPECTED.iter().map(|(service, ..)| *service).collect();
    for service in SERVICES {
        // icmpv6 is tried as icmp's IPv6 half.
        let tried = known.contains(service.name) || service.name == "icmpv6";
        ensure!(
            tried || service.direction == Direction::Egress,
            "{} is not tried here",
            service.name
        );
    }
    let options = Options {
        nodes: 2,
        backend: "mixed",
        roles: "all",
        bare: true,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
        let applied = lab.apply(&strict(&sample)?)?;
        ensure!(applied.success(), "{}", applied.output());
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        ensure!(push.count("applied")? == 2, "{}", push.done);
        check(&plan(lab)?)
    })
}

/// quickstart.sh itself pushes and proves; here it does so for the sizes that people start
/// with, twice in a row without taking the lab down.
fn quickstart_proves_itself(nodes: u32, backend: &'static str) -> Result<()> {
    let options = Options {
        nodes,
        backend,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let status = lab.status()?;
        ensure!(status.nodes.len() == usize::try_from(nodes)?, "{status:?}");
        for (node, reported) in lab.nodes().iter().zip(&status.nodes) {
            let of_node = status.node(&node.name)?;
            ensure!(
                of_node.backend.as_deref() == Some(&node.backend),
                "{of_node:?}"
            );
            ensure!(reported.digest.is_some(), "{reported:?}");
        }
        let again = lab.quickstart(&["up", "--nodes", &nodes.to_string(), "--backend", backend])?;
        ensure!(again.success(), "the second run: {}", again.output());
        let proved = lab.quickstart(&["prove"])?;
        ensure!(proved.success(), "{}", proved.output());
        let down = lab.quickstart(&["down"])?;
        ensure!(down.success(), "{}", down.output());
        ensure!(!lab.state().exists(), "the state is still there");
        ensure!(
            !std::path::Path::new("/run/netns/vf-net").exists(),
            "a namespace is still there"
        );
        Ok(())
    })
}

#[test]
fn a_single_node_site_works() -> Result<()> {
    quickstart_proves_itself(1, "nft")
}

#[test]
fn a_site_with_both_backends_works() -> Result<()> {
    quickstart_proves_itself(3, "mixed")
}
