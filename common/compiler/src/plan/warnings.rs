//! What an operator must not overlook in a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{Mode, Protocol, RuleSubject, Ruleset};
use voipfleet_ruleset::simulate::{Decision, Packet, Simulator};

use super::{Access, Changes, NetworkOwner, NodeChange, Reachable};

/// Services of the catalogue that are meant for the world.
const PUBLIC_SERVICES: [&str; 4] = ["rtp", "t38", "icmp", "icmpv6"];
/// Names in one warning.
const SHOWN: usize = 5;

impl Changes {
    /// What is dangerous about them. `operator` is the address that the operator speaks from,
    /// and `now` Unix time in seconds.
    pub fn warnings(
        &self,
        nodes: &[NodeChange<'_>],
        operator: Option<IpAddr>,
        now: u64,
    ) -> Vec<String> {
        let mut warnings = first(nodes);
        if let Some(address) = operator {
            let cut: Vec<String> = nodes
                .iter()
                .filter(|change| change.after.mode == Mode::Enforce)
                .filter(|change| {
                    let had = change
                        .before
                        .is_none_or(|before| has_ssh(before, address, now));
                    had && !has_ssh(change.after, address, now)
                })
                .map(|change| change.node.to_string())
                .collect();
            if !cut.is_empty() {
                warnings.push(format!(
                    "your own address {address} would lose SSH to {}; add it to admins if you need \
                     it there",
                    some(cut.into_iter())
                ));
            }
        }
        warnings.extend(mode(nodes));
        warnings.extend(admins(nodes));
        // Where rules only observe, nobody gains or loses anything.
        if nodes
            .iter()
            .any(|change| change.after.mode == Mode::Enforce)
        {
            warnings.extend(self.access.iter().flat_map(opened));
            warnings.extend(provisioning(&self.access));
        }
        warnings
    }
}

/// Nodes that get their first rules: what other firewalls let in there so far is not known.
fn first(nodes: &[NodeChange<'_>]) -> Vec<String> {
    let of = |mode: Mode| -> Vec<String> {
        let first = nodes
            .iter()
            .filter(|change| change.before.is_none() && change.after.mode == mode);
        first.map(|change| change.node.to_string()).collect()
    };
    let (enforcing, observing) = (of(Mode::Enforce), of(Mode::Observe));
    let mut warnings = Vec::new();
    if !enforcing.is_empty() {
        warnings.push(format!(
            "first rules on {}: what they do not open is closed there from then on",
            some(enforcing.into_iter())
        ));
    }
    if !observing.is_empty() {
        warnings.push(format!(
            "first rules on {}, in mode observe: nothing is closed, only counted and logged",
            some(observing.into_iter())
        ));
    }
    warnings
}

/// Nodes whose mode changes.
fn mode(nodes: &[NodeChange<'_>]) -> Vec<String> {
    let turning = |mode: Mode| -> Vec<String> {
        let turning = nodes.iter().filter(|change| {
            let before = change.before.map(|before| before.mode);
            change.after.mode == mode && before.is_some_and(|before| before != mode)
        });
        turning.map(|change| change.node.to_string()).collect()
    };
    let (observing, enforcing) = (turning(Mode::Observe), turning(Mode::Enforce));
    let mut warnings = Vec::new();
    if !observing.is_empty() {
        warnings.push(format!(
            "mode: nothing would be dropped any more on {}, only counted and logged",
            some(observing.into_iter())
        ));
    }
    if !enforcing.is_empty() {
        warnings.push(format!(
            "mode: what was only counted and logged would be dropped on {}",
            some(enforcing.into_iter())
        ));
    }
    warnings
}

/// Admins that a change takes away, and where.
fn admins(nodes: &[NodeChange<'_>]) -> Vec<String> {
    let mut losers: BTreeMap<BTreeSet<String>, Vec<&NodeName>> = BTreeMap::new();
    for change in nodes {
        let before = change.before.map(|before| before.admins.as_slice());
        if change.after.mode == Mode::Observe {
            continue;
        }
        let removed: BTreeSet<String> = before
            .unwrap_or_default()
            .iter()
            .filter(|net| !change.after.admins.contains(net))
            .map(ToString::to_string)
            .collect();
        if !removed.is_empty() {
            losers.entry(removed).or_default().push(change.node);
        }
    }
    let warning = |(removed, nodes): (BTreeSet<String>, Vec<&NodeName>)| {
        format!(
            "admins: {} would lose SSH on {}",
            some(removed.into_iter()),
            some(nodes.iter().map(ToString::to_string))
        )
    };
    losers.into_iter().map(warning).collect()
}

/// What the world gains.
fn opened(access: &Access) -> Vec<String> {
    if !access.gains || access.owner != NetworkOwner::World {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for reach in &access.reach {
        let what: Vec<&Reachable> = reach.what.iter().filter(|what| !is_public(what)).collect();
        if !what.is_empty() {
            warnings.push(format!(
                "the world would reach {} on {}",
                some(what.into_iter().map(ToString::to_string)),
                some(reach.nodes.iter().map(ToString::to_string))
            ));
        }
    }
    warnings
}

fn is_public(what: &Reachable) -> bool {
    let Some(RuleSubject::Service(name)) = &what.subject else {
        return false;
    };
    PUBLIC_SERVICES.contains(&name.as_str())
}

/// The owners that would lose what phones are provisioned by.
fn provisioning(access: &[Access]) -> Option<String> {
    let web = RuleSubject::Service("web".to_owned());
    let is_web = |what: &Reachable| what.subject.as_ref() == Some(&web);
    let losers: BTreeSet<String> = access
        .iter()
        .filter(|access| !access.gains)
        .filter(|access| {
            access
                .reach
                .iter()
                .flat_map(|reach| &reach.what)
                .any(is_web)
        })
        .map(|access| access.owner.to_string())
        .collect();
    (!losers.is_empty()).then(|| {
        format!(
            "{} would lose ports 80 and 443: phones there get no provisioning, and APIs and \
             certificate renewal over HTTP fail",
            some(losers.into_iter())
        )
    })
}

/// The first few, and how many more.
pub(super) fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let names: Vec<String> = names.take(SHOWN).collect();
    let names = names.join(", ");
    if more > 0 {
        format!("{names} and {more} more")
    } else {
        names
    }
}

/// Whether `address` reaches SSH of a node, by the rules or by what its agent keeps open.
fn has_ssh(ruleset: &Ruleset, address: IpAddr, now: u64) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() || ruleset.admins.iter().any(|net| net.contains(&address)) {
        return true;
    }
    let simulator = Simulator::new(ruleset, now);
    ruleset.ssh_ports.iter().any(|port| {
        let packet = Packet::new(address, Protocol::Tcp, *port);
        !matches!(simulator.decide(&packet), Decision::Drop | Decision::Reject)
    })
}
