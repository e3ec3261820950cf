//! One node's compiled firewall: typed rules and sets, their canonical form and digest.
//!
//! Every type here can hold only values that are safe to hand to iptables and ipset: names
//! are checked on construction, ports fit one multiport match, prefixes have no host bits.

mod check;
mod digest;
pub mod dynamic_sets;
mod expiring;
mod ip_protocol;
mod management;
mod outline;
mod ports;
mod probe;
mod rule;
mod schedule;
mod subject;
mod tokens;
mod wire;

use ipnet::IpNet;

pub use check::InvalidRuleset;
pub use digest::Digest;
pub use dynamic_sets::{DnsName, DynamicSet, DynamicSetName, DynamicSets};
pub use expiring::distinct;
pub use expiring::{Expiring, InvalidUntil, Scheduled, Until};
pub use ip_protocol::IpProtocol;
pub use ports::{InvalidPorts, MAX_PORT_SLOTS, PortRange, Ports};
pub use probe::{Endpoint, Host, HostName, MAX_PROBES, Probe, ProbeCheck, ProbeName};
pub use rule::{
    ConnectionState, ConnectionStates, Protocol, Rate, RateUnit, Rule, Scope, SourceLimit, Verdict,
};
pub use subject::{ProviderPart, RuleSubject, SetOwner};
pub use tokens::{
    ChainName, Interface, InvalidToken, Label, LimitName, LogPrefix, SetName, SetStem,
};
pub use wire::MAX_RULESET_BYTES;

use crate::identifiers::{NodeName, SiteName};

/// The chain that `INPUT` jumps to.
pub const INPUT_CHAIN: &str = "VF-INPUT";
/// The agent's own chain, first in [`INPUT_CHAIN`]. No ruleset may carry it.
pub const FAILSAFE_CHAIN: &str = "VF-FAILSAFE";
/// The start of every chain of ours.
pub const CHAIN_PREFIX: &str = "VF-";
/// The start of every set of ours.
pub const SET_PREFIX: &str = "vf-";

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// iptables, `family inet`.
    V4,
    /// ip6tables, `family inet6`.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of a prefix.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// What the rules do with a packet that the policy does not want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Drop it.
    Enforce,
    /// Count and log it; every packet is left to the rest of `INPUT`.
    Observe,
}

/// One node's compiled firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The site that it was compiled for.
    pub site: SiteName,
    /// The node that it was compiled for; no other may run it.
    pub node: NodeName,
    /// Enforce or observe.
    pub mode: Mode,
    /// Networks whose SSH the agent's failsafe chain keeps open; never empty, ascending.
    pub admins: Vec<IpNet>,
    /// TCP ports on which SSH listens, ascending; at most 15.
    pub ssh_ports: Vec<u16>,
    /// Address sets, ascending by (stem, family), each used by a rule.
    pub sets: Vec<AddressSet>,
    /// Our chains; [`INPUT_CHAIN`] first. A chain comes before or after those
    /// that jump to it: iptables-restore declares all of them first.
    pub chains: Vec<Chain>,
    /// What must answer the node before this ruleset is kept; at most [`MAX_PROBES`].
    pub probes: Vec<Probe>,
    /// The node has no IPv6, as its site says: only IPv4 is filtered, and ip6tables never run.
    pub without_ipv6: bool,
}

/// A `hash:net` ipset of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name and family.
    pub name: SetName,
    /// Whose addresses it holds, both families alike; `None` for one that no compiler made.
    pub owner: Option<SetOwner>,
    /// `maxelem` in the kernel: at least the number of elements, expiring ones among them.
    pub max_elements: u32,
    /// Prefixes of the set's family that stay, ascending, distinct, none with length 0.
    pub elements: Vec<IpNet>,
    /// Prefixes that the kernel takes out by itself, ascending, distinct, none of `elements`.
    /// With any, over or not, the kernel's set has timers; without, it has none.
    pub expiring: Vec<Expiring>,
    /// Prefixes that the node adds by itself, ascending, distinct, none of `elements`. With an end
    /// of any, begun or not, the kernel's set has timers.
    pub scheduled: Vec<Scheduled>,
    /// Dynamic sets whose content it holds besides, ascending, distinct.
    pub dynamic: Vec<DynamicSetName>,
    /// Of its dynamic sets it holds only what lies in these, of both families, ascending and
    /// distinct; empty: all of it. Both families of a set have the same.
    pub within: Vec<IpNet>,
}

impl AddressSet {
    /// A set that holds `elements` of the family of `name`, sorted and distinct.
    ///
    /// A prefix of length 0, which `hash:net` cannot hold, becomes its two halves.
    /// `max_elements` leaves room to double: the next power of two of twice the number, and
    /// at least 1024.
    pub fn new(name: SetName, elements: impl IntoIterator<Item = IpNet>) -> Self {
        let mut elements: Vec<IpNet> = elements
            .into_iter()
            .filter(|net| Family::of(net) == name.family)
            .flat_map(storable)
            .collect();
        elements.sort_unstable();
        elements.dedup();
        let mut set = Self {
            name,
            owner: None,
            max_elements: 0,
            elements,
            expiring: Vec::new(),
            scheduled: Vec::new(),
            dynamic: Vec::new(),
            within: Vec::new(),
        };
        set.make_room();
        set
    }

    /// The same set as that of `owner`.
    #[must_use]
    pub fn with_owner(mut self, owner: SetOwner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The same set, which holds the content of these dynamic sets besides.
    #[must_use]
    pub fn with_dynamic_names(mut self, names: impl IntoIterator<Item = DynamicSetName>) -> Self {
        self.dynamic.extend(names);
        self.dynamic.sort_unstable();
        self.dynamic.dedup();
        self
    }

    /// The same set, which takes from its dynamic sets only what lies in one of `nets`.
    #[must_use]
    pub fn within(mut self, nets: impl IntoIterator<Item = IpNet>) -> Self {
        self.within.extend(nets.into_iter().map(|net| net.trunc()));
        self.within.sort_unstable();
        self.within.dedup();
        self
    }

    /// The same set with `expiring` of its family beside what stays. What is permanent wins,
    /// and then the later end.
    #[must_use]
    pub fn with_expiring(mut self, expiring: impl IntoIterator<Item = Expiring>) -> Self {
        let parts = expiring
            .into_iter()
            .filter(|one| Family::of(&one.net) == self.name.family)
            .flat_map(|one| {
                let part = move |net| Expiring { net, ..one };
                storable(one.net).into_iter().map(part)
            });
        let all = self.expiring.drain(..).chain(parts).collect();
        self.expiring = distinct(all, &self.elements);
        self.make_room();
        self
    }

    /// The number of its own elements, those with an end or a beginning among them.
    pub fn len(&self) -> usize {
        self.elements.len() + self.expiring.len() + self.scheduled.len()
    }

    /// Whether it has no element of its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one of its elements is exactly `net`.
    pub fn holds(&self, net: &IpNet) -> bool {
        self.elements.binary_search(net).is_ok()
            || self
                .expiring
                .binary_search_by_key(net, |one| one.net)
                .is_ok()
            || self
                .scheduled
                .binary_search_by_key(net, |one| one.net)
                .is_ok()
    }

    fn make_room(&mut self) {
        let room = u32::try_from(self.len())
            .unwrap_or(u32::MAX / 4)
            .saturating_mul(2);
        self.max_elements = room.next_power_of_two().max(1024);
    }
}

/// What a `hash:net` can hold of a prefix.
fn storable(net: IpNet) -> Vec<IpNet> {
    let net = net.trunc();
    if net.prefix_len() == 0 {
        net.subnets(1).into_iter().flatten().collect()
    } else {
        vec![net]
    }
}

/// One of our chains with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, `VF-…`.
    pub name: ChainName,
    /// Its rules, evaluated in order.
    pub rules: Vec<Rule>,
}

impl Ruleset {
    /// The sets of one family.
    pub fn sets_of(&self, family: Family) -> impl Iterator<Item = &AddressSet> {
        self.sets
            .iter()
            .filter(move |set| set.name.family == family)
    }

    /// Whether the node filters packets of `family`.
    pub fn filters(&self, family: Family) -> bool {
        family == Family::V4 || !self.without_ipv6
    }

    /// The number of rules, both families counted once.
    pub fn rule_count(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }
}
