//! One rule: what it matches and what it does.

use ipnet::IpNet;

use super::{
    ChainName, Family, Interface, IpProtocol, Label, LimitName, LogPrefix, Ports, RuleSubject,
    SetStem,
};

/// The families that a rule is rendered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// IPv4 and IPv6.
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Scope {
    /// Whether the rule is in the tables of `family`.
    pub fn covers(self, family: Family) -> bool {
        matches!(
            (self, family),
            (Scope::Both, _) | (Scope::V4, Family::V4) | (Scope::V6, Family::V6)
        )
    }
}

impl From<Family> for Scope {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Scope::V4,
            Family::V6 => Scope::V6,
        }
    }
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, in rules of scope IPv4.
    Icmp,
    /// `ICMPv6`, in rules of scope IPv6.
    Icmpv6,
    /// Another protocol; without ports and types.
    Other(IpProtocol),
}

/// A state of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionState {
    /// The first packet of a connection.
    New,
    /// A packet of a connection that was answered.
    Established,
    /// The first packet of a connection that belongs to another.
    Related,
    /// A packet that belongs to nothing.
    Invalid,
}

/// States of connection tracking, ascending and distinct; empty means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionStates(Vec<ConnectionState>);

impl ConnectionStates {
    /// Any state.
    pub const ANY: ConnectionStates = ConnectionStates(Vec::new());

    /// These states, sorted and distinct.
    pub fn new(states: impl IntoIterator<Item = ConnectionState>) -> Self {
        let mut states: Vec<_> = states.into_iter().collect();
        states.sort_unstable();
        states.dedup();
        Self(states)
    }

    /// The states, ascending.
    pub fn as_slice(&self) -> &[ConnectionState] {
        &self.0
    }

    /// Whether any state matches.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

/// The unit of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateUnit {
    /// Packets a second.
    Second,
    /// Packets a minute.
    Minute,
    /// Packets an hour.
    Hour,
}

/// A token bucket: `count` packets a `unit`, and `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    /// 1 to 10,000 (both matches count in steps of 1/10,000 s).
    pub count: u32,
    /// The unit.
    pub unit: RateUnit,
    /// 1 to 10,000.
    pub burst: u32,
}

impl Rate {
    /// The highest count and burst.
    pub const MAX: u32 = 10_000;

    /// A rate; none if a number is out of bounds.
    pub fn new(count: u32, unit: RateUnit, burst: u32) -> Option<Self> {
        let bounds = 1..=Self::MAX;
        (bounds.contains(&count) && bounds.contains(&burst)).then_some(Self { count, unit, burst })
    }
}

/// Matches the packets of one source address above a rate (`hashlimit`, mode `srcip`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLimit {
    /// The kernel's table: `vf-<name>`. The kernel finds it by its name and keeps the rate
    /// that it was made with, so that another rate needs another name.
    pub name: LimitName,
    /// The rate above which it matches.
    pub above: Rate,
}

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Accept,
    /// Drop it.
    Drop,
    /// Answer port unreachable.
    Reject,
    /// Go back to the calling chain.
    Return,
    /// Go on in another chain of ours.
    Jump(ChainName),
    /// Write to the kernel log, and go on.
    Log(LogPrefix),
}

/// One rule. Every condition must hold; an absent one always does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The text of its comment, from which an operator knows it in the kernel's tables.
    pub label: Label,
    /// Which part of the policy it enforces; `None` for one that was read from a kernel.
    pub subject: Option<RuleSubject>,
    /// The families of the tables that it is in.
    pub scope: Scope,
    /// `-i`.
    pub in_interface: Option<Interface>,
    /// `-m set --match-set vf-<stem>-<family> src`.
    pub source_set: Option<SetStem>,
    /// `-s`; its family fits the scope.
    pub source: Option<IpNet>,
    /// `-p`; needed where ports are given.
    pub protocol: Option<Protocol>,
    /// `--dports`.
    pub destination_ports: Ports,
    /// `--sports`.
    pub source_ports: Ports,
    /// `-m conntrack --ctstate`.
    pub states: ConnectionStates,
    /// `--icmp-type` or `--icmpv6-type`; only with that protocol.
    pub icmp_type: Option<u8>,
    /// `-m limit`: matches up to the rate.
    pub limit: Option<Rate>,
    /// `-m hashlimit`: matches above the rate.
    pub source_limit: Option<SourceLimit>,
    /// `-j`.
    pub verdict: Verdict,
}

impl Rule {
    /// A rule without conditions, for both families.
    pub fn new(label: Label, verdict: Verdict) -> Self {
        Self {
            label,
            subject: None,
            scope: Scope::Both,
            in_interface: None,
            source_set: None,
            source: None,
            protocol: None,
            destination_ports: Ports::ANY,
            source_ports: Ports::ANY,
            states: ConnectionStates::ANY,
            icmp_type: None,
            limit: None,
            source_limit: None,
            verdict,
        }
    }

    /// The same rule as a part of `subject`.
    #[must_use]
    pub fn about(mut self, subject: RuleSubject) -> Self {
        self.subject = Some(subject);
        self
    }
}
