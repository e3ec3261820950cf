//! The site's own tests, on the rulesets that its nodes would get.

use std::collections::BTreeSet;
use std::fmt;

use voipfleet_policy::{PolicyTest, Site, TestPacket, Transport};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{DynamicSets, Family, Protocol, Ruleset, SetName};
use voipfleet_ruleset::simulate::{Decision, Outcome, Packet, contains, simulate};

use super::set_names::CLUSTER_STEM;

/// What became of a site's tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TestRun {
    /// Tests that did not come out as expected, on each node where they did not.
    pub(super) failures: Vec<TestFailure>,
    /// Names of tests for a role that no node has.
    pub(super) skipped: Vec<String>,
}

/// A test that did not come out as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFailure {
    /// The test.
    pub test: PolicyTest,
    /// The node on which it failed.
    pub node: NodeName,
    /// What the node would do, and the rule that decides.
    pub outcome: Outcome,
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyTest {
            name,
            from,
            packet,
            accept,
            ..
        } = &self.test;
        let packet = match packet {
            TestPacket::Port(Transport::Tcp, port) => format!("tcp {port}"),
            TestPacket::Port(Transport::Udp, port) => format!("udp {port}"),
            TestPacket::Protocol(protocol) => protocol.to_string(),
        };
        let expected = if *accept { "accepted" } else { "refused" };
        let seen = match self.outcome.decision {
            Decision::Accept => "accepted",
            Decision::Drop => "dropped",
            Decision::Reject => "rejected",
            Decision::Pass => "not decided",
        };
        let node = &self.node;
        let rule = &self.outcome.label;
        write!(
            f,
            "{name}: {packet} from {from} on node {node}: expected {expected}, {seen} by \
             rule {rule}"
        )
    }
}

/// Failures as one text, a line each.
pub(super) fn describe(failures: &[TestFailure]) -> String {
    let lines: Vec<String> = failures.iter().map(TestFailure::to_string).collect();
    let what = match lines.len() {
        1 => "a test of the site fails",
        _ => "tests of the site fail",
    };
    format!("{what}:\n  {}", lines.join("\n  "))
}

/// Runs the site's tests on `nodes`: the roles and enforcing ruleset of each, also of a site
/// that observes, with what the dynamic sets hold. A test is for every node of its role.
pub(super) fn run_tests<'a>(
    site: &Site,
    nodes: impl IntoIterator<Item = (&'a BTreeSet<Role>, &'a Ruleset)>,
    dynamic: &DynamicSets,
) -> TestRun {
    let mut run = TestRun::default();
    let mut unmet: BTreeSet<usize> = (0..site.tests.len()).collect();
    for (roles, ruleset) in nodes {
        let mut tests = site
            .tests
            .iter()
            .enumerate()
            .filter(|(_, test)| roles.contains(&test.role))
            // No packet of IPv6 comes to a node without it.
            .filter(|(_, test)| test.from.is_ipv4() || !ruleset.without_ipv6)
            .peekable();
        if tests.peek().is_none() {
            continue;
        }
        // One node's effective ruleset at a time: its sets may be long.
        let dynamic = dynamic.only(&ruleset.dynamic_names());
        let Ok(ruleset) = &ruleset.with_dynamic(&dynamic) else {
            continue;
        };
        for (index, test) in tests {
            unmet.remove(&index);
            let outcome = simulate(ruleset, &packet(site, test, roles, ruleset));
            if (outcome.decision == Decision::Accept) != test.accept {
                run.failures.push(TestFailure {
                    test: test.clone(),
                    node: ruleset.node.clone(),
                    outcome,
                });
            }
        }
    }
    let order = |name: &str| site.tests.iter().position(|test| test.name == name);
    run.failures
        .sort_by_key(|failure| order(&failure.test.name));
    let skipped = unmet.iter().filter_map(|index| site.tests.get(*index));
    run.skipped = skipped.map(|test| test.name.clone()).collect();
    run
}

/// The test's packet: from a member of the cluster it comes by the cluster's interface, where the
/// test names none.
fn packet(site: &Site, test: &PolicyTest, roles: &BTreeSet<Role>, ruleset: &Ruleset) -> Packet {
    let mut packet = match test.packet {
        TestPacket::Port(Transport::Tcp, port) => Packet::new(test.from, Protocol::Tcp, port),
        TestPacket::Port(Transport::Udp, port) => Packet::new(test.from, Protocol::Udp, port),
        TestPacket::Protocol(other) => Packet::new(test.from, Protocol::Other(other), 0),
    };
    packet.in_interface = test.interface.clone().or_else(|| {
        let of_node = site.cluster.of(&ruleset.node, roles).ok()?;
        of_node
            .interface
            .filter(|_| is_member(test, ruleset))
            .cloned()
    });
    packet
}

fn is_member(test: &PolicyTest, ruleset: &Ruleset) -> bool {
    let family = if test.from.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    CLUSTER_STEM.parse().is_ok_and(|stem| {
        let name = SetName { stem, family };
        let mut sets = ruleset.sets.iter();
        sets.any(|set| set.name == name && contains(set, test.from))
    })
}
