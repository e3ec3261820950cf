//! What an agent says, cut to sizes that the controller is ready to keep.

use voipfleet_common::ruleset::Digest;
use voipfleet_common::session::{Held, Progress};
use voipfleet_proto::v1::{DriftRecord, DriftReport, Hello, NodeFacts, NodeState, NodeStatus};

/// The longest short text: a host name (RFC 1035), an interface, a version.
const SHORT: usize = 255;
/// The longest free text: a kernel's message, a rule as iptables-save prints it.
const LONG: usize = 4096;
/// Addresses of one node.
const MAX_ADDRESSES: usize = 256;
/// Warnings of one node.
const MAX_WARNINGS: usize = 32;
/// Drift records of one report: an agent's own reports are far shorter.
const MAX_RECORDS: usize = 1000;
/// The longest id of a drift record.
const MAX_ID: usize = 128;

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = text.floor_char_boundary(limit);
        text.truncate(end);
    }
}

/// Bounds a node's facts.
pub(super) fn bound_facts(facts: &mut NodeFacts) {
    cut(&mut facts.hostname, SHORT);
    cut(&mut facts.backend, SHORT);
    cut(&mut facts.iptables_version, SHORT);
    facts.addresses.truncate(MAX_ADDRESSES);
    for address in &mut facts.addresses {
        cut(&mut address.interface, SHORT);
        address.address.truncate(16);
    }
    facts.warnings.truncate(MAX_WARNINGS);
    for warning in &mut facts.warnings {
        cut(warning, LONG);
    }
}

/// Bounds a status.
pub(super) fn bound_status(status: &mut NodeStatus) {
    cut(&mut status.error, LONG);
    status.digest.truncate(32);
    status.confirmed_digest.truncate(32);
}

/// Bounds what Hello carries.
pub(super) fn bound_hello(hello: &mut Hello) {
    cut(&mut hello.agent_version, SHORT);
    cut(&mut hello.boot_id, SHORT);
    hello.facts.iter_mut().for_each(bound_facts);
    hello.status.iter_mut().for_each(bound_status);
}

/// Bounds a drift report: what is over the limit is not acknowledged, and comes again.
pub(super) fn bound_report(report: &mut DriftReport) {
    report.records.truncate(MAX_RECORDS);
    report.records.retain_mut(bound_record);
}

/// Bounds a drift record; false: it has no usable id.
fn bound_record(record: &mut DriftRecord) -> bool {
    for text in [
        &mut record.table,
        &mut record.chain,
        &mut record.rule,
        &mut record.wanted,
        &mut record.observed,
    ] {
        cut(text, LONG);
    }
    if let Some(author) = &mut record.by {
        cut(&mut author.comm, SHORT);
    }
    !record.id.is_empty() && record.id.len() <= MAX_ID
}

/// A generation with its digest; none where either is missing or no such thing.
pub(crate) fn held(generation: u64, digest: &[u8]) -> Option<Held> {
    let digest = Digest::try_from(digest).ok()?;
    (generation != 0).then_some(Held { generation, digest })
}

/// What a state means for an offer; none: nothing.
pub(super) fn progress(state: NodeState) -> Option<Progress> {
    match state {
        NodeState::Unspecified => None,
        NodeState::Applying | NodeState::Trial => Some(Progress::Working),
        NodeState::Applied => Some(Progress::Applied),
        NodeState::RolledBack | NodeState::Rejected | NodeState::Failed => Some(Progress::Refused),
    }
}
