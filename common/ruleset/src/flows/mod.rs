//! Which flows an apply newly denies: what connection tracking would go on letting through
//! although the rules no longer would.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::iptables::Failsafe;
use crate::ruleset::{
    AddressSet, Chain, ConnectionState, Expiring, INPUT_CHAIN, Interface, Mode, Protocol, Rule,
    Ruleset, Verdict,
};
use crate::simulate::{Decision, Packet, Simulator};

/// A peer's port below this is that of a server which the node asked (DNS 53, NTP 123): phones
/// and carriers speak from 1024 on.
const FIRST_PLAIN_PORT: u16 = 1024;

/// Who sent the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// The other side.
    Peer,
    /// This node.
    Node,
}

/// A TCP or UDP flow between this node and a peer, in the addresses that the rules of `INPUT`
/// see.
#[derive(Debug, Clone)]
pub struct Flow<'i> {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The other side.
    pub peer: SocketAddr,
    /// The port on this node.
    pub local_port: u16,
    /// Who began it.
    pub opener: Opener,
    /// The interfaces that its packets may come in by; empty: one that no rule names.
    pub interfaces: &'i [Interface],
}

/// What the rules were before.
#[derive(Debug)]
enum Before<'r> {
    /// Nothing was closed.
    Open,
    /// What these let in was open.
    Ran(Simulator<'r>),
    /// They were the same, but out of force for a while.
    OutOfForce,
}

/// What the rules of a node deny, and denied not before.
#[derive(Debug)]
pub struct Denials<'r> {
    before: Before<'r>,
    now: Simulator<'r>,
    rulesets: Vec<&'r Ruleset>,
    failsafe: &'r Failsafe,
}

impl<'r> Denials<'r> {
    /// What `now` denies and `before` did not; before a node's first ruleset everything was
    /// open. `at` is Unix time in seconds: elements of either that ended by then are none. None:
    /// it is plain that there is nothing.
    pub fn of_apply(
        before: Option<&'r Ruleset>,
        now: &'r Ruleset,
        failsafe: &'r Failsafe,
        at: u64,
    ) -> Option<Self> {
        if now.mode == Mode::Observe || before.is_some_and(|before| only_opens(before, now)) {
            return None;
        }
        Some(Self {
            before: before.map_or(Before::Open, |before| {
                Before::Ran(Simulator::new(before, at))
            }),
            now: Simulator::new(now, at),
            rulesets: before.into_iter().chain([now]).collect(),
            failsafe,
        })
    }

    /// What slipped in while `now` was out of force, as it is at `at`, Unix time in seconds. None:
    /// it denies nothing.
    pub fn of_gap(now: &'r Ruleset, failsafe: &'r Failsafe, at: u64) -> Option<Self> {
        (now.mode == Mode::Enforce).then(|| Self {
            before: Before::OutOfForce,
            now: Simulator::new(now, at),
            rulesets: vec![now],
            failsafe,
        })
    }

    /// Whether `flow` must not go on.
    ///
    /// A flow that the peer began is judged by its packet as a new one, and by any later one: a
    /// deny set takes those, too. Of what the node itself began, later packets are answers,
    /// which only a deny set takes; but where the node spoke first from the port of a UDP
    /// service (SIP, media), the peer needs the service's permission to speak.
    pub fn cuts(&self, flow: &Flow<'_>) -> bool {
        if self.is_failsafe(flow) {
            return false;
        }
        let as_new = match (flow.opener, &self.before) {
            (Opener::Peer, _) => true,
            (Opener::Node, Before::OutOfForce) => false,
            (Opener::Node, _) => self.is_service(flow),
        };
        (as_new && self.newly_denies(flow, ConnectionState::New))
            || self.newly_denies(flow, ConnectionState::Established)
    }

    /// Where the interface is not certain, a flow goes on that any of them may carry.
    fn newly_denies(&self, flow: &Flow<'_>, state: ConnectionState) -> bool {
        let mut packet = Packet {
            source_port: Some(flow.peer.port()),
            state: Some(state),
            ..Packet::new(
                flow.peer.ip().to_canonical(),
                flow.protocol,
                flow.local_port,
            )
        };
        let mut on_each = |simulator: &Simulator<'_>| {
            if flow.interfaces.is_empty() {
                return denies(simulator, &packet);
            }
            flow.interfaces.iter().all(|interface| {
                packet.in_interface = Some(interface.clone());
                denies(simulator, &packet)
            })
        };
        on_each(&self.now)
            && match &self.before {
                Before::Open => true,
                Before::Ran(before) => !on_each(before),
                // Of what the node began, nothing slipped in.
                Before::OutOfForce => state == ConnectionState::New,
            }
    }

    /// What the failsafe chain keeps open beyond what the ruleset knows.
    fn is_failsafe(&self, flow: &Flow<'_>) -> bool {
        self.is_admin_ssh(flow) || self.is_controller(flow)
    }

    /// An admin's session with a server of SSH on a port that the ruleset does not name.
    fn is_admin_ssh(&self, flow: &Flow<'_>) -> bool {
        let peer = flow.peer.ip().to_canonical();
        let admins = self.rulesets.last().map(|now| now.admins.as_slice());
        flow.opener == Opener::Peer
            && flow.protocol == Protocol::Tcp
            && self.failsafe.ssh_ports.contains(&flow.local_port)
            && admins
                .unwrap_or_default()
                .iter()
                .any(|net| net.contains(&peer))
    }

    fn is_controller(&self, flow: &Flow<'_>) -> bool {
        let peer = SocketAddr::new(flow.peer.ip().to_canonical(), flow.peer.port());
        let is_peer = |controller: &SocketAddr| {
            SocketAddr::new(controller.ip().to_canonical(), controller.port()) == peer
        };
        flow.opener == Opener::Node
            && flow.protocol == Protocol::Tcp
            && self.failsafe.controllers.iter().any(is_peer)
    }

    /// Whether the node speaks from a port that rules open over UDP.
    fn is_service(&self, flow: &Flow<'_>) -> bool {
        let names = |rule: &Rule| {
            rule.protocol == Some(Protocol::Udp)
                && !rule.destination_ports.is_any()
                && rule.destination_ports.contains(flow.local_port)
        };
        flow.protocol == Protocol::Udp
            && flow.peer.port() >= FIRST_PLAIN_PORT
            && self
                .rulesets
                .iter()
                .flat_map(|ruleset| &ruleset.chains)
                .flat_map(|chain| &chain.rules)
                .any(names)
    }
}

fn denies(simulator: &Simulator<'_>, packet: &Packet) -> bool {
    matches!(simulator.decide(packet), Decision::Drop | Decision::Reject)
}

/// Whether it is plain that `now` lets in all that `before` let in: the same rules, wider allow
/// sets, narrower deny sets. It spares most pushes the walk through connection tracking.
fn only_opens(before: &Ruleset, now: &Ruleset) -> bool {
    before.mode == now.mode
        && before.chains == now.chains
        && before.ssh_ports == now.ssh_ports
        && before.admins.iter().all(|net| now.admins.contains(net))
        && before.sets.len() == now.sets.len()
        && before.sets.iter().zip(&now.sets).all(|(before, after)| {
            before.name == after.name
                && before.scheduled == after.scheduled
                && ((before.elements == after.elements && before.expiring == after.expiring)
                    || (is_within(before, after) && every_use(now, before, opens))
                    || (is_within(after, before) && every_use(now, before, closes)))
        })
}

/// Whether all that is in a set is as long in the other.
fn is_within(inner: &AddressSet, outer: &AddressSet) -> bool {
    let stays = |net: &IpNet| outer.elements.binary_search(net).is_ok();
    let as_long = |one: &Expiring| {
        let found = outer.expiring.binary_search_by_key(&one.net, |o| o.net);
        let found = found.ok().and_then(|index| outer.expiring.get(index));
        found.is_some_and(|found| found.until >= one.until)
    };
    inner.elements.iter().all(stays)
        && inner
            .expiring
            .iter()
            .all(|one| stays(&one.net) || as_long(one))
}

/// Whether all rules that name a set are of a kind.
fn every_use(ruleset: &Ruleset, set: &AddressSet, is: fn(&Ruleset, &Chain, &Rule) -> bool) -> bool {
    ruleset.chains.iter().all(|chain| {
        let mut rules = chain.rules.iter();
        rules.all(|rule| {
            rule.source_set.as_ref() != Some(&set.name.stem) || is(ruleset, chain, rule)
        })
    })
}

/// Whether a rule that matches more lets in more, or as much.
fn opens(ruleset: &Ruleset, chain: &Chain, rule: &Rule) -> bool {
    match &rule.verdict {
        Verdict::Accept | Verdict::Log(_) => true,
        Verdict::Return => only_closes(chain),
        Verdict::Jump(name) => {
            let mut chains = ruleset.chains.iter();
            chains
                .find(|chain| chain.name == *name)
                .is_some_and(only_limits)
        }
        Verdict::Drop | Verdict::Reject => false,
    }
}

/// Whether a chain lets nothing in, so that who leaves it sooner is denied less.
fn only_closes(chain: &Chain) -> bool {
    chain.name.as_str() != INPUT_CHAIN
        && chain
            .rules
            .iter()
            .all(|rule| !matches!(rule.verdict, Verdict::Accept | Verdict::Jump(_)))
}

/// Whether a chain is left as it was entered, but for rates and their exemptions.
fn only_limits(chain: &Chain) -> bool {
    chain.name.as_str() != INPUT_CHAIN
        && chain.rules.iter().all(|rule| match rule.verdict {
            Verdict::Return | Verdict::Log(_) => true,
            Verdict::Drop | Verdict::Reject => rule.source_limit.is_some(),
            Verdict::Accept | Verdict::Jump(_) => false,
        })
}

/// Whether a rule that matches less lets in more, or as much.
fn closes(_: &Ruleset, _: &Chain, rule: &Rule) -> bool {
    matches!(
        rule.verdict,
        Verdict::Drop | Verdict::Reject | Verdict::Log(_)
    )
}
