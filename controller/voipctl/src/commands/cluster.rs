//! Members of a site's cluster, and addresses that are none, for status and plan.

use std::collections::BTreeMap;

use serde::Serialize;
use voipfleet_proto::v1;

/// Addresses that a line names.
const NAMED: usize = 4;

/// The names are a contract.
#[derive(Serialize)]
pub(super) struct ClusterEntry {
    members: u64,
    changes: u64,
    pending: Vec<PendingEntry>,
    more_pending: u64,
}

/// An address that a node reports and that is no member's.
#[derive(Serialize)]
pub(super) struct PendingEntry {
    node: String,
    interface: String,
    address: String,
    reason: String,
}

impl ClusterEntry {
    pub(super) fn of(report: &v1::ClusterReport) -> Self {
        Self {
            members: report.members,
            changes: report.changes,
            pending: report.pending.iter().map(PendingEntry::of).collect(),
            more_pending: report.more_pending,
        }
    }
}

impl PendingEntry {
    pub(super) fn of(one: &v1::PendingAddress) -> Self {
        Self {
            node: one.node.clone(),
            interface: one.interface.clone(),
            address: one.address.clone(),
            reason: one.reason.clone(),
        }
    }
}

/// `outside cluster.networks: sip1 198.18.0.11 (eth0), pbx1 198.18.0.12 (eth0)`, a line for each
/// reason.
pub(super) fn pending_lines(pending: &[v1::PendingAddress]) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, Vec<&v1::PendingAddress>> = BTreeMap::new();
    for one in pending {
        by_reason.entry(&one.reason).or_default().push(one);
    }
    let line = |(reason, addresses): (&str, Vec<&v1::PendingAddress>)| {
        let named = addresses.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|one| format!("{} {} ({})", one.node, one.address, one.interface))
            .collect();
        let more = match addresses.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more (all with -o json)"),
        };
        format!("{reason}: {}{more}", named.join(", "))
    };
    by_reason.into_iter().map(line).collect()
}
