//! Bounds on what agents report, so that no agent can fill the controller.

use prost::Message as _;
use voipfleet_proto::v1::{
    Author, DriftRecord, DriftReport, Hello, InterfaceAddress, NodeFacts, NodeState, NodeStatus,
    VoipNow,
};
use voipfleet_protocol::limits::{
    MAX_ACT_BYTES, MAX_ACT_DIFFERENCES, MAX_REPORTED_RECORDS, MAX_SHORT_SETS,
};
use voipfleet_protocol::session::{Held, Progress};

use crate::records::LostAddress;
use crate::site_inputs::{counts_until, held};

/// The longest short text: a host name (RFC 1035), an interface, a version.
const SHORT: usize = 255;
/// The longest free text: a kernel's message, a rule as iptables-save prints it.
const LONG: usize = 4096;
/// Addresses of one node.
const MAX_ADDRESSES: usize = 256;
/// Warnings of one node.
const MAX_WARNINGS: usize = 32;
/// Neighbours of one node.
const MAX_NEIGHBOURS: usize = 32;
/// Back ends and listeners of one node.
const MAX_PORTS: usize = 64;
/// Sockets of one node, and users of each.
const MAX_SOCKETS: usize = 128;
const MAX_USERS: usize = 32;
/// Missing features of one node, in two families.
const MAX_FEATURES: usize = 32;
/// Trusted networks of one node.
const MAX_NETWORKS: usize = 256;
/// Roles, and files that were not understood: there are ten and four.
const MAX_WORDS: usize = 16;
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
    facts.neighbours.truncate(MAX_NEIGHBOURS);
    for neighbour in &mut facts.neighbours {
        cut(&mut neighbour.detail, LONG);
        cut(&mut neighbour.advice, LONG);
        neighbour.cut_off.truncate(MAX_WORDS);
        for one in &mut neighbour.cut_off {
            cut(&mut one.name, SHORT);
            bound_ports(&mut one.ports);
            if let Some(network) = &mut one.network {
                network.address.truncate(16);
            }
        }
        bound_ports(&mut neighbour.closed_ports);
    }
    facts.listeners.truncate(MAX_PORTS);
    for listener in &mut facts.listeners {
        cut(&mut listener.process, SHORT);
    }
    facts.sockets.truncate(MAX_SOCKETS);
    for socket in &mut facts.sockets {
        cut(&mut socket.process, SHORT);
        socket.users.truncate(MAX_USERS);
        for user in &mut socket.users {
            user.truncate(16);
        }
    }
    facts.missing_features.truncate(MAX_FEATURES);
    for missing in &mut facts.missing_features {
        cut(&mut missing.feature, SHORT);
        cut(&mut missing.module, SHORT);
        cut(&mut missing.error, LONG);
    }
    facts.voipnow.iter_mut().for_each(bound_voipnow);
}

fn bound_ports(ports: &mut Vec<String>) {
    ports.truncate(MAX_PORTS);
    for range in ports {
        cut(range, SHORT);
    }
}

fn bound_voipnow(voipnow: &mut VoipNow) {
    cut(&mut voipnow.node_id, SHORT);
    cut(&mut voipnow.version, SHORT);
    for words in [&mut voipnow.roles, &mut voipnow.not_understood] {
        words.truncate(MAX_WORDS);
        for word in words {
            cut(word, SHORT);
        }
    }
    voipnow.back_ends.truncate(MAX_PORTS);
    for back_end in &mut voipnow.back_ends {
        cut(&mut back_end.service, SHORT);
        cut(&mut back_end.host, SHORT);
    }
    voipnow.trusted_networks.truncate(MAX_NETWORKS);
    for network in &mut voipnow.trusted_networks {
        network.address.truncate(16);
    }
}

/// Bounds a status.
pub(super) fn bound_status(status: &mut NodeStatus) {
    cut(&mut status.error, LONG);
    cut(&mut status.drift_detail, LONG);
    cut(&mut status.dynamic_error, LONG);
    cut(&mut status.open, LONG);
    status.missing_interfaces.truncate(MAX_WORDS);
    for interface in &mut status.missing_interfaces {
        cut(interface, SHORT);
    }
    status.digest.truncate(32);
    status.dynamic_digest.truncate(32);
    status.confirmed_digest.truncate(32);
    if let Some(sets) = &mut status.sets {
        sets.short.truncate(MAX_SHORT_SETS);
        for set in &mut sets.short {
            cut(&mut set.set, SHORT);
        }
    }
}

/// Bounds what Hello carries.
pub(super) fn bound_hello(hello: &mut Hello) {
    cut(&mut hello.agent_version, SHORT);
    cut(&mut hello.boot_id, SHORT);
    cut(&mut hello.instance, SHORT);
    hello.facts.iter_mut().for_each(bound_facts);
    hello.status.iter_mut().for_each(bound_status);
}

/// Bounds a drift report: what is over the limit is not acknowledged, and comes again.
pub(super) fn bound_report(report: &mut DriftReport) {
    report.records.truncate(MAX_REPORTED_RECORDS);
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
        bound_author(author);
    }
    bound_differences(record);
    !record.id.is_empty() && record.id.len() <= MAX_ID
}

/// Leaves out differences of an act that have no room in a record.
fn bound_differences(record: &mut DriftRecord) {
    let mut more = std::mem::take(&mut record.more);
    let number = more.len();
    more.truncate(MAX_ACT_DIFFERENCES.saturating_sub(1));
    let mut room = MAX_ACT_BYTES.saturating_sub(record.encoded_len());
    for mut difference in more {
        for text in [
            &mut difference.table,
            &mut difference.chain,
            &mut difference.rule,
            &mut difference.wanted,
            &mut difference.observed,
        ] {
            cut(text, LONG);
        }
        // With its tag and length.
        let size = difference.encoded_len() + 8;
        if size > room {
            break;
        }
        room -= size;
        record.more.push(difference);
    }
    let left_out = u32::try_from(number - record.more.len()).unwrap_or(u32::MAX);
    record.left_out = record.left_out.saturating_add(left_out);
}

fn bound_author(author: &mut Author) {
    for text in [
        &mut author.comm,
        &mut author.executable,
        &mut author.unit,
        &mut author.user,
    ] {
        cut(text, SHORT);
    }
    if let Some(starter) = &mut author.started_by {
        for text in [
            &mut starter.comm,
            &mut starter.executable,
            &mut starter.unit,
            &mut starter.user,
        ] {
            cut(text, SHORT);
        }
    }
}

/// The addresses that a node had and has no more, with those that it had lost before: each once,
/// none that counts no longer.
pub(super) fn lost(
    before: Option<&NodeFacts>,
    earlier: Vec<LostAddress>,
    now: &NodeFacts,
    now_ms: u64,
) -> Vec<LostAddress> {
    let is_back = |address: &InterfaceAddress| {
        let mut all = now.addresses.iter();
        all.any(|one| one.address == address.address)
    };
    let mut lost = earlier;
    lost.retain(|one| {
        let back = one.address.as_ref().is_none_or(is_back);
        !back && now_ms < counts_until(one.lost_ms)
    });
    for address in before.into_iter().flat_map(|facts| &facts.addresses) {
        let known = lost.iter().any(|one| {
            let old = one.address.as_ref();
            old.is_some_and(|old| old.address == address.address)
        });
        if !is_back(address) && !known && lost.len() < MAX_ADDRESSES {
            lost.push(LostAddress {
                address: Some(address.clone()),
                lost_ms: now_ms,
            });
        }
    }
    lost
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

/// A node's last attempt: the delivery, its content, and its state.
pub(super) fn last_attempt(status: &NodeStatus) -> Option<(u64, Held, NodeState)> {
    let about = held(status.generation, &status.digest)?;
    Some((status.nonce, about, status.state()))
}

/// Whether a node tried something and went back, or must still do so. It is not offered again by
/// itself.
pub(super) fn went_back(status: &NodeStatus) -> bool {
    status.state() == NodeState::RolledBack
        || (status.state() == NodeState::Failed && status.undo_due)
}

/// An agent's first status of a session, combined with the last one before it.
///
/// An agent that starts anew does not remember that it went back. The controller does: what
/// could not be kept then is not offered again because of a restart.
pub(super) fn remember(before: Option<NodeStatus>, now: Option<NodeStatus>) -> Option<NodeStatus> {
    let Some(mut now) = now else {
        return before;
    };
    let Some(mut before) = before else {
        return Some(now);
    };
    let same_confirmed = before.confirmed_generation == now.confirmed_generation
        && before.confirmed_digest == now.confirmed_digest;
    keep_count(&before, &mut now);
    let says_nothing_new = match now.state() {
        NodeState::Unspecified => true,
        NodeState::Applied => now.generation == now.confirmed_generation,
        _ => false,
    };
    if went_back(&before) && same_confirmed && says_nothing_new {
        // An agent undoes at its start what it could not undo before.
        if !now.undo_due {
            before.set_state(NodeState::RolledBack);
        }
        before.undo_due = now.undo_due;
        before.drift = now.drift;
        before.open = now.open;
        return Some(before);
    }
    Some(now)
}

/// An agent that was started anew does not know what it cut before.
pub(super) fn keep_count(before: &NodeStatus, now: &mut NodeStatus) {
    if before.confirmed_generation == now.confirmed_generation
        && before.confirmed_digest == now.confirmed_digest
    {
        now.flows_cut = now.flows_cut.max(before.flows_cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: NodeState, generation: u64, confirmed: u64) -> NodeStatus {
        NodeStatus {
            state: state.into(),
            generation,
            confirmed_generation: confirmed,
            ..NodeStatus::default()
        }
    }

    fn with_addresses(last: &[u8]) -> NodeFacts {
        let address = |last: &u8| InterfaceAddress {
            interface: "eth1".to_owned(),
            address: vec![10, 0, 0, *last],
            prefix_length: 24,
        };
        NodeFacts {
            addresses: last.iter().map(address).collect(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn a_lost_address_is_known_until_it_is_back_or_a_minute_is_over() {
        let last = |lost: &[LostAddress]| -> Vec<(u8, u64)> {
            let of = |one: &LostAddress| (one.address.as_ref().unwrap().address[3], one.lost_ms);
            lost.iter().map(of).collect()
        };
        let one = lost(
            Some(&with_addresses(&[1, 2])),
            Vec::new(),
            &with_addresses(&[1]),
            1000,
        );
        assert_eq!(last(&one), [(2, 1000)]);
        let two = lost(
            Some(&with_addresses(&[1])),
            one.clone(),
            &with_addresses(&[]),
            5000,
        );
        assert_eq!(last(&two), [(2, 1000), (1, 5000)]);
        let back = lost(
            Some(&with_addresses(&[])),
            two.clone(),
            &with_addresses(&[2]),
            6000,
        );
        assert_eq!(last(&back), [(1, 5000)]);
        let over = lost(
            Some(&with_addresses(&[])),
            two,
            &with_addresses(&[]),
            61_000,
        );
        assert_eq!(last(&over), [(1, 5000)]);
    }

    #[test]
    fn a_restarted_agent_does_not_hide_its_rollback() {
        let back = Some(status(NodeState::RolledBack, 7, 6));
        for (now, kept) in [
            (status(NodeState::Applied, 6, 6), true),
            (status(NodeState::Applied, 8, 8), false),
            (status(NodeState::Trial, 7, 6), false),
            (status(NodeState::Failed, 8, 6), false),
        ] {
            let state = now.state();
            let remembered = remember(back.clone(), Some(now)).unwrap();
            assert_eq!(
                remembered.state() == NodeState::RolledBack,
                kept,
                "{state:?}"
            );
        }
        let first = Some(status(NodeState::RolledBack, 1, 0));
        let nothing = Some(status(NodeState::Unspecified, 0, 0));
        assert_eq!(remember(first.clone(), nothing), first);
        // What it cut is remembered for as long as it runs the same.
        let cut = NodeStatus {
            flows_cut: 3,
            ..status(NodeState::Applied, 6, 6)
        };
        for (generation, flows_cut) in [(6, 3), (7, 0)] {
            let now = Some(status(NodeState::Applied, generation, generation));
            assert_eq!(
                remember(Some(cut.clone()), now).unwrap().flows_cut,
                flows_cut
            );
        }
        // What it could not undo by then is undone at its start, and not tried again either.
        let stuck = Some(NodeStatus {
            undo_due: true,
            ..status(NodeState::Failed, 7, 6)
        });
        assert!(went_back(stuck.as_ref().unwrap()));
        let now = Some(status(NodeState::Applied, 6, 6));
        let remembered = remember(stuck, now).unwrap();
        assert_eq!(remembered.state(), NodeState::RolledBack);
        assert!(!remembered.undo_due && remembered.generation == 7);
        // Killed in the trial, it may try again.
        let tried = Some(status(NodeState::Trial, 7, 6));
        let now = Some(status(NodeState::Applied, 6, 6));
        assert_eq!(remember(tried, now.clone()), now);
    }
}
