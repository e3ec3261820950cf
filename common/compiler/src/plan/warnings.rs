//! What an operator must not overlook in a plan.

use std::collections::BTreeSet;
use std::net::IpAddr;

use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{Protocol, Ruleset};
use voipfleet_ruleset::simulate::{Decision, Packet, Simulator};

use super::{Access, Changes, NodeChange, RuleChange};

/// Services that are meant for the world.
const FOR_EVERYBODY: [&str; 4] = ["rtp", "t38", "icmp", "icmpv6"];
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
        let mut warnings = Vec::new();
        let first: Vec<&NodeName> = nodes
            .iter()
            .filter(|change| change.before.is_none())
            .map(|change| change.node)
            .collect();
        if !first.is_empty() {
            warnings.push(format!(
                "{} {} under no ruleset yet: what these rules do not open is closed there, and was \
                 open",
                some(first.iter().map(ToString::to_string)),
                if first.len() == 1 { "is" } else { "are" }
            ));
        }
        if let Some(address) = operator {
            let cut: Vec<String> = nodes
                .iter()
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
        warnings.extend(self.rules.iter().filter_map(setting));
        warnings.extend(self.access.iter().flat_map(opened));
        warnings.extend(provisioning(&self.access));
        warnings
    }
}

fn setting(change: &RuleChange) -> Option<String> {
    let on = some(change.nodes.iter().map(ToString::to_string));
    match change.subject.as_str() {
        "admins" if !change.removed.is_empty() => Some(format!(
            "admins: {} would lose SSH on {on}",
            some(change.removed.iter().cloned())
        )),
        "mode" if change.added == ["observe"] && !change.removed.is_empty() => Some(format!(
            "mode: nothing would be dropped any more on {on}, only counted and logged"
        )),
        "mode" if change.added == ["enforce"] && !change.removed.is_empty() => Some(format!(
            "mode: what was only counted and logged would be dropped on {on}"
        )),
        _ => None,
    }
}

/// What the world gains.
fn opened(access: &Access) -> Vec<String> {
    if !access.gains || &*access.owner != super::access::WORLD {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for reach in &access.reach {
        let what: Vec<&String> = reach
            .what
            .iter()
            .filter(|what| {
                let service = what.split(' ').next().unwrap_or_default();
                !FOR_EVERYBODY.contains(&service)
            })
            .collect();
        if !what.is_empty() {
            warnings.push(format!(
                "the world would reach {} on {}",
                some(what.into_iter().cloned()),
                some(reach.nodes.iter().map(ToString::to_string))
            ));
        }
    }
    warnings
}

/// Who would lose what phones are provisioned by.
fn provisioning(access: &[Access]) -> Option<String> {
    let is_web = |what: &String| what.starts_with("web ");
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
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
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
