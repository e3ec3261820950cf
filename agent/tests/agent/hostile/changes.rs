//! What makes of a sound ruleset one that no compiler of ours makes: in the ruleset itself, its
//! chains and sets. What is changed, how, and what the node must report.

use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::verdict::Kind as Verdict;

pub(super) type Change = fn(&mut pb::Ruleset);

/// The rule of a chain.
pub(super) fn rule(ruleset: &mut pb::Ruleset, chain: usize, rule: usize) -> &mut pb::Rule {
    &mut ruleset.chains[chain].rules[rule]
}

pub(super) fn verdict(rule: &mut pb::Rule, kind: Verdict) {
    rule.verdict = Some(pb::Verdict { kind: Some(kind) });
}

pub(super) fn jump(rule: &mut pb::Rule, chain: &str) {
    verdict(rule, Verdict::Jump(chain.to_owned()));
}

pub(super) fn net(address: &[u8], prefix_length: u32) -> pb::Network {
    pb::Network {
        address: address.to_vec(),
        prefix_length,
    }
}

pub(super) const CHAINS: &[(&str, Change, &str)] = &[
    (
        "another site",
        |r| r.site = "site-b".to_owned(),
        "compiled for another node: site-b/sip1",
    ),
    (
        "another node",
        |r| r.node = "sip2".to_owned(),
        "compiled for another node: site-a/sip2",
    ),
    (
        "a site's name",
        |r| r.site = "../site-a".to_owned(),
        "not a valid ruleset",
    ),
    ("no node", |r| r.node.clear(), "not a valid ruleset"),
    (
        "nothing in it",
        |r| *r = pb::Ruleset::default(),
        "not a valid ruleset",
    ),
    ("no chain", |r| r.chains.clear(), "it has no chain"),
    ("no rule", |r| r.chains[0].rules.clear(), "with rules"),
    (
        "another first chain",
        |r| r.chains.swap(0, 1),
        "first chain must be VF-INPUT",
    ),
    (
        "no admins",
        |r| r.admins.clear(),
        "it needs 1 to 256 admins",
    ),
    ("admins in disorder", |r| r.admins.reverse(), "must ascend"),
    (
        "an admin twice",
        |r| r.admins.insert(0, r.admins[0].clone()),
        "must ascend",
    ),
    (
        "too many admins",
        |r| r.admins = vec![net(&[10, 0, 0, 1], 32); 257],
        "more than 256 admins",
    ),
    ("no SSH port", |r| r.ssh_ports.clear(), "SSH ports"),
    ("SSH port 0", |r| r.ssh_ports = vec![0], "SSH ports"),
    (
        "SSH port 65536",
        |r| r.ssh_ports = vec![65_536],
        "65536 is not a port",
    ),
    ("no mode", |r| r.mode = 0, "it has no mode"),
    ("an unknown mode", |r| r.mode = 77, "it has no mode"),
    (
        "a foreign chain",
        |r| r.chains[1].name = "f2b-sshd".to_owned(),
        "chain of ours",
    ),
    (
        "the kernel's chain",
        |r| r.chains[1].name = "INPUT".to_owned(),
        "chain of ours",
    ),
    (
        "a chain with a line",
        |r| r.chains[1].name = "VF-A\n-F INPUT".to_owned(),
        "chain of ours",
    ),
    (
        "a long chain",
        |r| r.chains[1].name = format!("VF-{}", "A".repeat(26)),
        "chain of ours",
    ),
    (
        "a chain without a name",
        |r| r.chains[1].name.clear(),
        "chain of ours",
    ),
    (
        "the agent's own chain",
        |r| r.chains[1].name = "VF-FAILSAFE".to_owned(),
        "agent's own",
    ),
    (
        "a chain twice",
        |r| r.chains.push(r.chains[1].clone()),
        "is given twice",
    ),
    (
        "a jump to a foreign chain",
        |r| jump(rule(r, 1, 0), "f2b-sshd"),
        "chain of ours",
    ),
    (
        "a jump out",
        |r| jump(rule(r, 1, 0), "INPUT"),
        "chain of ours",
    ),
    (
        "a jump to nowhere",
        |r| jump(rule(r, 1, 0), "VF-NOWHERE"),
        "jumps to no chain",
    ),
    (
        "a jump to the failsafe",
        |r| jump(rule(r, 1, 0), "VF-FAILSAFE"),
        "jumps to no chain",
    ),
    (
        "a jump to itself",
        |r| jump(rule(r, 1, 0), "VF-SIP"),
        "in a circle",
    ),
    (
        "a jump back",
        |r| jump(rule(r, 1, 0), "VF-INPUT"),
        "in a circle",
    ),
    (
        "too many chains",
        |r| r.chains.resize_with(300, Default::default),
        "more than 256 chains",
    ),
    (
        "too many rules",
        |r| {
            let one = rule(r, 2, 0).clone();
            r.chains[2].rules.resize(50_001, one);
        },
        "more than 50000 rules",
    ),
    (
        "chains as deep as no kernel goes",
        |r| {
            for depth in 0..200 {
                let mut next = r.chains[2].clone();
                next.name = format!("VF-D{depth}");
                r.chains
                    .last_mut()
                    .unwrap()
                    .rules
                    .push(next.rules[0].clone());
                jump(
                    r.chains.last_mut().unwrap().rules.last_mut().unwrap(),
                    &next.name,
                );
                r.chains.push(next);
            }
        },
        "",
    ),
];

pub(super) const SETS: &[(&str, Change, &str)] = &[
    (
        "a set with a shell's words",
        |r| r.sets[0].stem = "$(reboot)".to_owned(),
        "set's stem",
    ),
    (
        "a set with a space",
        |r| r.sets[0].stem = "clients -exist".to_owned(),
        "set's stem",
    ),
    (
        "a set with a line",
        |r| r.sets[0].stem = "a\nflush".to_owned(),
        "set's stem",
    ),
    (
        "a set like a path",
        |r| r.sets[0].stem = "../../etc/passwd".to_owned(),
        "set's stem",
    ),
    (
        "a long set",
        |r| r.sets[0].stem = "a".repeat(27),
        "set's stem",
    ),
    (
        "a set without a name",
        |r| r.sets[0].stem.clear(),
        "set's stem",
    ),
    (
        "a set that no rule uses",
        |r| r.sets[0].stem = "-exist".to_owned(),
        "not a valid ruleset",
    ),
    (
        "a set twice",
        |r| r.sets.insert(0, r.sets[0].clone()),
        "sets must ascend",
    ),
    (
        "a set without a family",
        |r| r.sets[0].family = 0,
        "a set has no family",
    ),
    (
        "a set of family 9",
        |r| r.sets[0].family = 9,
        "a set has no family",
    ),
    (
        "a set of the other family",
        |r| r.sets[0].family = 2,
        "not a valid ruleset",
    ),
    (
        "a set that is missing",
        |r| drop(r.sets.remove(0)),
        "names no set",
    ),
    (
        "a set that is too small",
        |r| r.sets[0].max_elements = 1,
        "a wrong maximum of 1",
    ),
    (
        "a set with room for all",
        |r| r.sets[0].max_elements = u32::MAX,
        "a wrong maximum",
    ),
    (
        "elements in disorder",
        |r| r.sets[0].elements.reverse(),
        "do not ascend",
    ),
    (
        "an element with host bits",
        |r| r.sets[0].elements[0] = net(&[10, 0, 0, 1], 8),
        "has host bits",
    ),
    (
        "every address",
        |r| r.sets[0].elements[0] = net(&[0; 4], 0),
        "cannot",
    ),
    (
        "an element of 3 bytes",
        |r| r.sets[0].elements[0] = net(&[10, 0, 0], 8),
        "neither 4 nor 16",
    ),
    (
        "a prefix of 33",
        |r| r.sets[0].elements[0] = net(&[10, 0, 0, 0], 33),
        "prefix is too long",
    ),
    (
        "a prefix of 129",
        |r| r.sets[1].elements[0] = net(&[0; 16], 129),
        "prefix is too long",
    ),
    (
        "a prefix of 2^32",
        |r| r.sets[0].elements[0] = net(&[0; 4], u32::MAX),
        "prefix is too long",
    ),
];
