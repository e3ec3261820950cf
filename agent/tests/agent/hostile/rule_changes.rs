//! The same in single rules.

use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::verdict::Kind as Verdict;

use super::changes::{Change, net, rule, verdict};

/// The range of RTP.
fn ports(ruleset: &mut pb::Ruleset) -> &mut Vec<pb::PortRange> {
    &mut rule(ruleset, 2, 0).destination_ports
}

fn range(first: u32, last: u32) -> pb::PortRange {
    pb::PortRange { first, last }
}

pub(super) const RULES: &[(&str, Change, &str)] = &[
    (
        "a source with a shell's words",
        |r| rule(r, 0, 0).source_set = "a;id".to_owned(),
        "set's stem",
    ),
    (
        "a label with a line",
        |r| rule(r, 0, 0).label = "a\n-F INPUT".to_owned(),
        "rule's label",
    ),
    (
        "a label with a quote",
        |r| rule(r, 0, 0).label = "a\" -j ACCEPT".to_owned(),
        "rule's label",
    ),
    (
        "a long label",
        |r| rule(r, 0, 0).label = "a".repeat(81),
        "rule's label",
    ),
    ("no label", |r| rule(r, 0, 0).label.clear(), "rule's label"),
    (
        "an interface with options",
        |r| rule(r, 0, 0).in_interface = "lo -j ACCEPT".to_owned(),
        "network interface",
    ),
    (
        "an interface that is an option",
        |r| rule(r, 0, 0).in_interface = "-j".to_owned(),
        "network interface",
    ),
    (
        "an interface for all",
        |r| rule(r, 0, 0).in_interface = "eth+".to_owned(),
        "network interface",
    ),
    (
        "a long interface",
        |r| rule(r, 0, 0).in_interface = "a".repeat(16),
        "network interface",
    ),
    (
        "an interface like a path",
        |r| rule(r, 0, 0).in_interface = "..".to_owned(),
        "network interface",
    ),
    (
        "a log with a quote",
        |r| verdict(rule(r, 0, 5), Verdict::Log("a\"".to_owned())),
        "log prefix",
    ),
    (
        "a log with a line",
        |r| verdict(rule(r, 0, 5), Verdict::Log("a\nb".to_owned())),
        "log prefix",
    ),
    (
        "a limit like a path",
        |r| rule(r, 1, 1).source_limit.as_mut().unwrap().name = "../x".to_owned(),
        "limit's name",
    ),
    (
        "a limit without a rate",
        |r| rule(r, 1, 1).source_limit.as_mut().unwrap().above = None,
        "has no rate",
    ),
    (
        "no verdict",
        |r| rule(r, 0, 0).verdict = None,
        "a rule has no verdict",
    ),
    (
        "an empty verdict",
        |r| rule(r, 0, 0).verdict = Some(pb::Verdict::default()),
        "a rule has no verdict",
    ),
    (
        "no scope",
        |r| rule(r, 0, 0).scope = 0,
        "a rule has no scope",
    ),
    (
        "an unknown scope",
        |r| rule(r, 0, 0).scope = 5,
        "a rule has no scope",
    ),
    (
        "an unknown protocol",
        |r| rule(r, 1, 0).protocol = 132,
        "not a valid ruleset",
    ),
    (
        "an unknown state",
        |r| rule(r, 0, 1).states = vec![9],
        "not a valid ruleset",
    ),
    (
        "a state that is none",
        |r| rule(r, 0, 1).states = vec![0],
        "unknown connection state",
    ),
    (
        "an unknown unit",
        |r| rule(r, 0, 5).limit.as_mut().unwrap().unit = 9,
        "a rate has no unit",
    ),
    (
        "a rate of 0",
        |r| rule(r, 0, 5).limit.as_mut().unwrap().count = 0,
        "a rate's numbers",
    ),
    (
        "a rate of all",
        |r| rule(r, 0, 5).limit.as_mut().unwrap().count = u32::MAX,
        "a rate's numbers",
    ),
    (
        "a burst for ever",
        |r| {
            let limit = rule(r, 0, 5).limit.as_mut().unwrap();
            (limit.count, limit.unit, limit.burst) = (1, 3, 10_000);
        },
        "burst",
    ),
    (
        "port 0",
        |r| *ports(r) = vec![range(0, 0)],
        "not a valid ruleset",
    ),
    (
        "port 65536",
        |r| *ports(r) = vec![range(1, 65_536)],
        "65536 is not a port",
    ),
    (
        "ports reversed",
        |r| *ports(r) = vec![range(20_000, 10_000)],
        "not a valid ruleset",
    ),
    (
        "ports twice",
        |r| *ports(r) = vec![range(5, 5), range(5, 5)],
        "not a valid ruleset",
    ),
    (
        "16 ports",
        |r| *ports(r) = (1..=16).map(|p| range(p * 2, p * 2)).collect(),
        "not a valid ruleset",
    ),
    (
        "ports of no protocol",
        |r| rule(r, 2, 0).protocol = 0,
        "ports need tcp or udp",
    ),
    (
        "ports of ICMP",
        |r| rule(r, 2, 0).protocol = 3,
        "ports need tcp or udp",
    ),
    (
        "a type of no protocol",
        |r| rule(r, 0, 0).icmp_type = Some(8),
        "needs icmp",
    ),
    (
        "a type of 256",
        |r| rule(r, 0, 0).icmp_type = Some(256),
        "above 255",
    ),
    (
        "a source of no family",
        |r| rule(r, 0, 0).source = Some(net(&[10, 0, 0, 0], 8)),
        "another family",
    ),
];
