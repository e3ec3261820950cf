//! Whom foreign tables cut off from what the policy opens to him.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{Condition, ForeignTable, Hook, NetSet, Passage, Refused, Sets, Value};
use crate::ruleset::{
    ConnectionState, Family, Interface, PortRange, Protocol, Rule, Ruleset, SetOwner, Verdict,
};
use crate::simulate::{Decision, Packet, Simulator};

/// The most that one refusal names; the others are counted.
pub const MAX_WHOM: usize = 8;
/// Addresses that are tried against the tables.
const MAX_CANDIDATES: usize = 128;
/// Port ranges that are tried for each.
const MAX_PROBES: usize = 128;
/// Stand for the world: documentation addresses, which no client has (RFC 5737, RFC 3849).
const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What the node should let in.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'r> {
    /// None where no ruleset runs: then nobody but the controllers is known.
    pub ruleset: Option<&'r Ruleset>,
    /// The controllers that the agent dials.
    pub controllers: &'r [SocketAddr],
    /// Unix time in seconds.
    pub now: u64,
}

/// Whose address it is; the closest relation comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Controller,
    Admins,
    Cluster,
    Owner(SetOwner),
}

/// Ports of one protocol, `udp 5060`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub protocol: Protocol,
    pub range: PortRange,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "tcp {}", self.range),
            Protocol::Udp => write!(f, "udp {}", self.range),
            Protocol::Icmp => write!(f, "icmp {}", self.range),
            Protocol::Icmpv6 => write!(f, "icmpv6 {}", self.range),
            Protocol::Other(protocol) => write!(f, "{protocol}"),
        }
    }
}

/// Somebody who is cut off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whom {
    pub who: Who,
    pub net: IpNet,
    /// What the policy opens to him and the table refuses, ascending.
    pub ports: Vec<Ports>,
}

/// One chain of others that refuses what the policy opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The table: `filter`, `raw`, `inet mine`.
    pub table: String,
    pub chain: String,
    /// The set that holds the addresses.
    pub set: Option<String>,
    /// The policy of the chain refuses, not a rule.
    pub by_policy: bool,
    /// The first ones whom it picks out, the closest first.
    pub whom: Vec<Whom>,
    /// How many more it picks out.
    pub more: usize,
    /// What it refuses to everybody, ascending.
    pub everyone: Vec<Ports>,
}

/// What `tables` surely refuse of what the policy opens. `ipsets` are the sets that they name.
pub fn refusals(tables: &[ForeignTable], ipsets: &Sets, policy: &Policy<'_>) -> Vec<Refusal> {
    let mut found = Found::default();
    let mut search = Search {
        tables,
        ipsets,
        probes: policy
            .ruleset
            .map(|ruleset| probes(ruleset, tables))
            .unwrap_or_default(),
        simulator: policy
            .ruleset
            .map(|ruleset| Simulator::new(ruleset, policy.now)),
        known: policy.ruleset.map(known).unwrap_or_default(),
    };
    search
        .known
        .sort_by_key(|(rank, who, _)| (*rank, who.clone()));
    for family in Family::BOTH {
        search.picked_out(family, &mut found);
        search.everyone(family, &mut found);
    }
    for controller in policy.controllers {
        search.controller(*controller, &mut found);
    }
    found.into_refusals()
}

/// Refusals by table, chain and set.
#[derive(Default)]
struct Found<'t>(BTreeMap<(&'t str, &'t str, Option<&'t str>), Entry>);

#[derive(Default)]
struct Entry {
    by_policy: bool,
    whom: BTreeMap<(u8, Who, IpNet), BTreeSet<Ports>>,
    everyone: BTreeSet<Ports>,
}

impl<'t> Found<'t> {
    fn of(&mut self, refused: Refused<'t>) -> &mut Entry {
        let key = (refused.table, refused.chain, refused.set);
        let entry = self.0.entry(key).or_default();
        entry.by_policy |= refused.by_policy;
        entry
    }

    fn into_refusals(self) -> Vec<Refusal> {
        self.0
            .into_iter()
            .map(|((table, chain, set), entry)| {
                let mut whom = entry.whom.into_iter();
                let named = whom.by_ref().take(MAX_WHOM);
                let named = named.map(|((_, who, net), ports)| Whom {
                    who,
                    net,
                    ports: ports.into_iter().collect(),
                });
                Refusal {
                    table: table.to_owned(),
                    chain: chain.to_owned(),
                    set: set.map(str::to_owned),
                    by_policy: entry.by_policy,
                    whom: named.collect(),
                    more: whom.count(),
                    everyone: entry.everyone.into_iter().collect(),
                }
            })
            .collect()
    }
}

/// Ports that a rule of the policy opens, perhaps by one interface.
type Probe = (Ports, Option<Interface>);

struct Search<'t, 'r> {
    tables: &'t [ForeignTable],
    ipsets: &'t Sets,
    probes: BTreeSet<Probe>,
    simulator: Option<Simulator<'r>>,
    known: Vec<(u8, Who, NetSet)>,
}

impl<'t> Search<'t, '_> {
    /// Looks for known addresses among those that the rules pick out.
    fn picked_out(&self, family: Family, found: &mut Found<'t>) {
        let targets = self.targets();
        let known = self.known.iter().flat_map(|(rank, who, nets)| {
            let common = targets.common(nets, family);
            common.map(move |net| (*rank, who, net))
        });
        let mut seen: Vec<IpNet> = Vec::new();
        for (rank, who, net) in known.take(MAX_CANDIDATES) {
            // Of an address in several sets, the closest relation is told.
            if seen.iter().any(|seen| seen.contains(&net)) {
                continue;
            }
            seen.push(net);
            for (ports, refused) in self.refused(net.network()) {
                if refused.picks_sources {
                    let whom = &mut found.of(refused).whom;
                    let told = whom.entry((rank, who.clone(), net));
                    told.or_default().insert(ports);
                }
            }
        }
    }

    /// Looks for ports that are refused whatever the source.
    fn everyone(&self, family: Family, found: &mut Found<'t>) {
        let world = WORLD
            .into_iter()
            .filter(|ip| Family::of(&IpNet::from(*ip)) == family);
        let known = self
            .known
            .iter()
            .filter_map(|(_, _, nets)| nets.first(family));
        let sources: BTreeSet<IpAddr> = world.chain(known).collect();
        for source in sources {
            for (ports, refused) in self.refused(source) {
                if !refused.picks_sources {
                    found.of(refused).everyone.insert(ports);
                }
            }
        }
    }

    /// The agent's own connection: what it sends, and the answers.
    fn controller(&self, controller: SocketAddr, found: &mut Found<'t>) {
        let net = IpNet::from(controller.ip());
        let answer = Passage {
            hook: Hook::In,
            family: Family::of(&net),
            source: Some(controller.ip()),
            destination: None,
            protocol: Protocol::Tcp,
            source_port: Some(controller.port()),
            destination_port: None,
            state: ConnectionState::Established,
        };
        let dial = Passage {
            hook: Hook::Out,
            source: None,
            destination: Some(controller.ip()),
            source_port: None,
            destination_port: Some(controller.port()),
            state: ConnectionState::New,
            ..answer
        };
        let ports = Ports {
            protocol: Protocol::Tcp,
            range: PortRange::single(controller.port()),
        };
        for packet in [dial, answer] {
            if let Some(refused) = self.refuses(&packet) {
                let whom = &mut found.of(refused).whom;
                let told = whom.entry((0, Who::Controller, net));
                told.or_default().insert(ports);
            }
        }
    }

    /// What the policy opens to a source, and a table refuses.
    fn refused(&self, source: IpAddr) -> Vec<(Ports, Refused<'t>)> {
        let mut found = Vec::new();
        for (ports, interface) in &self.probes {
            let Ports { protocol, range } = *ports;
            let is_refused = |port| {
                let packet = Packet {
                    in_interface: interface.clone(),
                    ..Packet::new(source, protocol, port)
                };
                if self.simulator.as_ref()?.decide(&packet) != Decision::Accept {
                    return None;
                }
                self.refuses(&Passage {
                    hook: Hook::In,
                    family: Family::of(&IpNet::from(source)),
                    source: Some(source),
                    destination: None,
                    protocol,
                    source_port: None,
                    destination_port: Some(port),
                    state: ConnectionState::New,
                })
            };
            let (first, last) = (is_refused(range.first), is_refused(range.last));
            match (first, last) {
                (Some(refused), Some(also)) if refused == also => found.push((*ports, refused)),
                (first, last) => {
                    for (port, refused) in [(range.first, first), (range.last, last)] {
                        let range = PortRange::single(port);
                        found.extend(refused.map(|refused| (Ports { protocol, range }, refused)));
                    }
                }
            }
        }
        found
    }

    fn refuses(&self, packet: &Passage) -> Option<Refused<'t>> {
        let mut refusals = self.tables.iter();
        refusals.find_map(|table| table.refusal(packet, self.ipsets))
    }

    /// All addresses that a rule picks out.
    fn targets(&self) -> NetSet {
        let mut targets = NetSet::default();
        for table in self.tables {
            let sets = table.sets.as_ref().unwrap_or(self.ipsets);
            let rules = table.chains.iter().flat_map(|chain| &chain.rules);
            let mut named = BTreeSet::new();
            let mut nets: Vec<IpNet> = Vec::new();
            for condition in rules.flat_map(|rule| &rule.conditions) {
                match condition {
                    Condition {
                        value: Value::Source(picked),
                        negated: false,
                    } => {
                        for family in Family::BOTH {
                            nets.extend(picked.common(picked, family));
                        }
                    }
                    Condition {
                        value: Value::SourceSet(name),
                        negated: false,
                    } => {
                        named.insert(name);
                    }
                    _ => {}
                }
            }
            targets.extend(&nets.into_iter().collect());
            for set in named.into_iter().filter_map(|name| sets.get(name)) {
                targets.extend(set);
            }
        }
        targets
    }
}

/// Ports that the policy may open: those of its rules, the admins' SSH, and those that `tables` name.
fn probes(ruleset: &Ruleset, tables: &[ForeignTable]) -> BTreeSet<Probe> {
    let ssh = ruleset.ssh_ports.iter().map(|port| Ports {
        protocol: Protocol::Tcp,
        range: PortRange::single(*port),
    });
    let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    let accepting: Vec<&Rule> = rules
        .filter(|rule| rule.verdict == Verdict::Accept)
        .collect();
    let mut probes: BTreeSet<Probe> = ssh.map(|ports| (ports, None)).collect();
    for rule in &accepting {
        for (protocol, range) in rule.protocol.iter().flat_map(|protocol| {
            let ranges = rule.destination_ports.ranges().iter();
            ranges.map(move |range| (*protocol, *range))
        }) {
            probes.insert((Ports { protocol, range }, rule.in_interface.clone()));
        }
    }
    // Every port, perhaps by one interface, as of a cluster that is trusted: then all that anybody names.
    let everything = accepting
        .iter()
        .filter(|rule| rule.destination_ports.is_any());
    let interfaces: BTreeSet<Option<Interface>> =
        everything.map(|rule| rule.in_interface.clone()).collect();
    let foreign = tables
        .iter()
        .flat_map(|table| &table.chains)
        .flat_map(|chain| &chain.rules);
    let foreign = foreign
        .flat_map(|rule| &rule.conditions)
        .filter_map(|one| match &one.value {
            Value::DestinationPorts(ranges) => Some(ranges),
            _ => None,
        });
    let foreign = foreign.flatten().flat_map(|range| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Ports {
            protocol,
            range: *range,
        })
    });
    let named = probes.iter().map(|(ports, _)| *ports).chain(foreign);
    let named: BTreeSet<Ports> = named.take(MAX_PROBES).collect();
    for ports in named {
        let by = interfaces
            .iter()
            .map(|interface| (ports, interface.clone()));
        probes.extend(by);
    }
    probes.into_iter().take(MAX_PROBES).collect()
}

/// Known addresses, with the closeness of the relation.
fn known(ruleset: &Ruleset) -> Vec<(u8, Who, NetSet)> {
    let admins: NetSet = ruleset.admins.iter().copied().collect();
    let sets = ruleset.sets.iter().filter_map(|set| {
        let (rank, who) = relation(set.owner.as_ref()?)?;
        let nets = set.elements.iter().copied();
        let nets = nets.chain(set.expiring.iter().map(|one| one.net));
        Some((rank, who, nets.collect()))
    });
    std::iter::once((1, Who::Admins, admins))
        .chain(sets)
        .collect()
}

/// Who the owner of a set is; none for sets of what is refused.
fn relation(owner: &SetOwner) -> Option<(u8, Who)> {
    let rank = match owner {
        SetOwner::Admins => return Some((1, Who::Admins)),
        SetOwner::Cluster => return Some((2, Who::Cluster)),
        SetOwner::Tenant(_) | SetOwner::Provider(..) => 3,
        SetOwner::Tenants | SetOwner::Providers(_) => 4,
        SetOwner::Clients(_) => 5,
        SetOwner::Open => 6,
        SetOwner::List(_) | SetOwner::Service(_) | SetOwner::Custom(_) => 7,
        SetOwner::Deny | SetOwner::DenyList(_) | SetOwner::Block | SetOwner::BlockForced => {
            return None;
        }
    };
    Some((rank, Who::Owner(owner.clone())))
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
