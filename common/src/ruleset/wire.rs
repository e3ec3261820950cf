//! Rulesets as canonical protobuf, and back with every value checked again.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prost::Message;
use voipfleet_proto::v1 as pb;

use super::outline::{self, Bounds};
use super::wire_sets as sets;
use super::{
    Chain, ChainName, ConnectionState, ConnectionStates, Digest, FAILSAFE_CHAIN, Family,
    INPUT_CHAIN, Mode, PortRange, Ports, Protocol, Rate, RateUnit, Rule, Ruleset, Scope, SetName,
    SetStem, SourceLimit, Verdict,
};

/// The longest encoded ruleset that either side takes: room for about 2 million set elements.
pub const MAX_RULESET_BYTES: usize = 64 << 20;
const MAX_ADMINS: usize = 256;
const MAX_SSH_PORTS: usize = 15;
const MAX_SETS: usize = 4096;
const MAX_CHAINS: usize = 256;
const MAX_RULES: usize = 50_000;
/// Of all sets together.
const MAX_ALL_ELEMENTS: usize = 1 << 22;
/// The longest encoded rule: every match at once is below 1 KiB.
const MAX_RULE_BYTES: usize = 4096;

/// Bytes that are no ruleset that we would run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid ruleset: {0}")]
pub struct InvalidRuleset(String);

pub(super) fn invalid(why: impl Into<String>) -> InvalidRuleset {
    InvalidRuleset(why.into())
}

impl Ruleset {
    /// The canonical encoding; its SHA-256 is the digest.
    pub fn encode(&self) -> Vec<u8> {
        pb::Ruleset::from(self).encode_to_vec()
    }

    /// The digest of the canonical encoding.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads an encoded ruleset, and checks every value and every reference in it.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidRuleset> {
        if bytes.len() > MAX_RULESET_BYTES {
            return Err(invalid(format!(
                "{} bytes is above {MAX_RULESET_BYTES}",
                bytes.len()
            )));
        }
        let bounds = Bounds {
            admins: MAX_ADMINS,
            ssh_ports: MAX_SSH_PORTS * 3, // bytes of a port above 16383
            sets: MAX_SETS,
            elements: MAX_ALL_ELEMENTS,
            chains: MAX_CHAINS,
            rules: MAX_RULES,
            rule: MAX_RULE_BYTES,
        };
        outline::check(bytes, bounds).map_err(invalid)?;
        let message = pb::Ruleset::decode(bytes).map_err(|error| invalid(error.to_string()))?;
        let ruleset = Ruleset::try_from(message)?;
        if ruleset.encode() != bytes {
            return Err(invalid("its encoding is not canonical"));
        }
        Ok(ruleset)
    }

    /// Checks what no single value can: references, order, bounds.
    pub(crate) fn check(&self) -> Result<(), InvalidRuleset> {
        let first = self
            .chains
            .first()
            .ok_or_else(|| invalid("it has no chain"))?;
        if first.name.as_str() != INPUT_CHAIN || first.rules.is_empty() {
            return Err(invalid(format!(
                "its first chain must be {INPUT_CHAIN}, with rules"
            )));
        }
        if self.admins.is_empty() || self.admins.len() > MAX_ADMINS {
            return Err(invalid(format!("it needs 1 to {MAX_ADMINS} admins")));
        }
        if !self.admins.is_sorted_by(|a, b| a < b) || !self.ssh_ports.is_sorted_by(|a, b| a < b) {
            return Err(invalid("admins and SSH ports must ascend"));
        }
        if self.ssh_ports.is_empty()
            || self.ssh_ports.len() > MAX_SSH_PORTS
            || self.ssh_ports.contains(&0)
        {
            return Err(invalid(format!("it needs 1 to {MAX_SSH_PORTS} SSH ports")));
        }
        if self.sets.len() > MAX_SETS || !self.sets.is_sorted_by(|a, b| a.name < b.name) {
            return Err(invalid(format!("sets must ascend, at most {MAX_SETS}")));
        }
        if self.chains.len() > MAX_CHAINS || self.rule_count() > MAX_RULES {
            return Err(invalid(format!(
                "more than {MAX_CHAINS} chains or {MAX_RULES} rules"
            )));
        }
        self.check_chains()
    }

    fn check_chains(&self) -> Result<(), InvalidRuleset> {
        let mut chains: BTreeMap<&ChainName, &Chain> = BTreeMap::new();
        for chain in &self.chains {
            if chain.name.as_str() == FAILSAFE_CHAIN {
                return Err(invalid(format!("{FAILSAFE_CHAIN} is the agent's own")));
            }
            if chains.insert(&chain.name, chain).is_some() {
                return Err(invalid(format!("chain {} stands twice", chain.name)));
            }
        }
        let sets: BTreeSet<&SetName> = self.sets.iter().map(|set| &set.name).collect();
        let mut used: BTreeSet<SetName> = BTreeSet::new();
        for chain in &self.chains {
            for rule in &chain.rules {
                rule.check()
                    .map_err(|why| invalid(format!("rule {}: {why}", rule.label)))?;
                if let Verdict::Jump(target) = &rule.verdict
                    && !chains.contains_key(target)
                {
                    return Err(invalid(format!("rule {} jumps to no chain", rule.label)));
                }
                let Some(stem) = &rule.source_set else {
                    continue;
                };
                for family in Family::BOTH.into_iter().filter(|f| rule.scope.covers(*f)) {
                    let name = SetName {
                        stem: stem.clone(),
                        family,
                    };
                    if !sets.contains(&name) {
                        return Err(invalid(format!("rule {} names no set {name}", rule.label)));
                    }
                    used.insert(name);
                }
            }
        }
        if let Some(set) = self.sets.iter().find(|set| !used.contains(&set.name)) {
            return Err(invalid(format!("no rule uses set {}", set.name)));
        }
        // The kernel refuses loops with "Too many levels of symbolic links"; so do we, sooner.
        let mut settled: BTreeSet<&ChainName> = BTreeSet::new();
        loop {
            let before = settled.len();
            for chain in &self.chains {
                let leads_out = chain.rules.iter().all(|rule| match &rule.verdict {
                    Verdict::Jump(target) => settled.contains(target),
                    _ => true,
                });
                if leads_out {
                    settled.insert(&chain.name);
                }
            }
            if settled.len() == chains.len() {
                return Ok(());
            }
            if settled.len() == before {
                return Err(invalid("its chains jump in a circle"));
            }
        }
    }
}

impl Rule {
    /// What stands in the way of rendering this rule, if anything does.
    fn check(&self) -> Result<(), &'static str> {
        let has_ports = !self.destination_ports.is_any() || !self.source_ports.is_any();
        if has_ports && !matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
            return Err("ports need tcp or udp");
        }
        if let Some(source) = &self.source
            && self.scope != Scope::from(Family::of(source))
        {
            return Err("its source is of another family");
        }
        match self.protocol {
            Some(Protocol::Icmp) if self.scope != Scope::V4 => return Err("icmp is IPv4 only"),
            Some(Protocol::Icmpv6) if self.scope != Scope::V6 => return Err("icmpv6 is IPv6 only"),
            Some(Protocol::Icmp | Protocol::Icmpv6) => {}
            _ if self.icmp_type.is_some() => return Err("an ICMP type needs icmp or icmpv6"),
            _ => {}
        }
        if self.icmp_type == Some(255) {
            return Err("ICMP type 255 is reserved, and means any type to iptables");
        }
        let overflows = |rate: &Rate| {
            let unit = match rate.unit {
                RateUnit::Second => 1,
                RateUnit::Minute => 60,
                RateUnit::Hour => 3600,
            };
            let period = unit * 10_000 / u64::from(rate.count);
            period * u64::from(rate.burst) > u64::from(u32::MAX)
        };
        if self.limit.as_ref().is_some_and(overflows) {
            return Err("its limit's burst takes longer to refill than the kernel counts");
        }
        Ok(())
    }
}

impl From<&Ruleset> for pb::Ruleset {
    fn from(ruleset: &Ruleset) -> Self {
        pb::Ruleset {
            site: ruleset.site.to_string(),
            node: ruleset.node.to_string(),
            mode: match ruleset.mode {
                Mode::Enforce => pb::Mode::Enforce,
                Mode::Observe => pb::Mode::Observe,
            }
            .into(),
            admins: ruleset.admins.iter().map(network).collect(),
            ssh_ports: ruleset
                .ssh_ports
                .iter()
                .map(|port| u32::from(*port))
                .collect(),
            sets: ruleset.sets.iter().map(sets::encode).collect(),
            chains: ruleset
                .chains
                .iter()
                .map(|chain| pb::Chain {
                    name: chain.name.to_string(),
                    rules: chain.rules.iter().map(rule).collect(),
                })
                .collect(),
        }
    }
}

pub(super) fn network(net: &IpNet) -> pb::Network {
    let address = match net {
        IpNet::V4(net) => net.addr().octets().to_vec(),
        IpNet::V6(net) => net.addr().octets().to_vec(),
    };
    pb::Network {
        address,
        prefix_length: net.prefix_len().into(),
    }
}

fn port_range(range: PortRange) -> pb::PortRange {
    pb::PortRange {
        first: range.first.into(),
        last: range.last.into(),
    }
}

fn rate(rate: Rate) -> pb::Rate {
    let unit = match rate.unit {
        RateUnit::Second => pb::RateUnit::Second,
        RateUnit::Minute => pb::RateUnit::Minute,
        RateUnit::Hour => pb::RateUnit::Hour,
    };
    pb::Rate {
        count: rate.count,
        unit: unit.into(),
        burst: rate.burst,
    }
}

fn rule(rule: &Rule) -> pb::Rule {
    let state = |state: &ConnectionState| {
        i32::from(match state {
            ConnectionState::New => pb::ConnectionState::New,
            ConnectionState::Established => pb::ConnectionState::Established,
            ConnectionState::Related => pb::ConnectionState::Related,
            ConnectionState::Invalid => pb::ConnectionState::Invalid,
        })
    };
    let text = |word: Option<&str>| word.unwrap_or_default().to_owned();
    pb::Rule {
        label: rule.label.to_string(),
        scope: match rule.scope {
            Scope::Both => pb::Scope::Both,
            Scope::V4 => pb::Scope::V4,
            Scope::V6 => pb::Scope::V6,
        }
        .into(),
        in_interface: text(rule.in_interface.as_ref().map(super::Interface::as_str)),
        source_set: text(rule.source_set.as_ref().map(SetStem::as_str)),
        source: rule.source.as_ref().map(network),
        protocol: match rule.protocol {
            None => pb::Protocol::Unspecified,
            Some(Protocol::Tcp) => pb::Protocol::Tcp,
            Some(Protocol::Udp) => pb::Protocol::Udp,
            Some(Protocol::Icmp) => pb::Protocol::Icmp,
            Some(Protocol::Icmpv6) => pb::Protocol::Icmpv6,
        }
        .into(),
        destination_ports: rule
            .destination_ports
            .ranges()
            .iter()
            .copied()
            .map(port_range)
            .collect(),
        source_ports: rule
            .source_ports
            .ranges()
            .iter()
            .copied()
            .map(port_range)
            .collect(),
        states: rule.states.as_slice().iter().map(state).collect(),
        icmp_type: rule.icmp_type.map(u32::from),
        limit: rule.limit.map(rate),
        source_limit: rule.source_limit.as_ref().map(|limit| pb::SourceLimit {
            name: limit.name.to_string(),
            above: Some(rate(limit.above)),
        }),
        verdict: Some(verdict(&rule.verdict)),
    }
}

fn verdict(verdict: &Verdict) -> pb::Verdict {
    use pb::verdict::Kind;
    let kind = match verdict {
        Verdict::Accept => Kind::Accept(pb::Empty {}),
        Verdict::Drop => Kind::Drop(pb::Empty {}),
        Verdict::Reject => Kind::Reject(pb::Empty {}),
        Verdict::Return => Kind::Return(pb::Empty {}),
        Verdict::Jump(chain) => Kind::Jump(chain.to_string()),
        Verdict::Log(prefix) => Kind::Log(prefix.to_string()),
    };
    pb::Verdict { kind: Some(kind) }
}

impl TryFrom<pb::Ruleset> for Ruleset {
    type Error = InvalidRuleset;

    fn try_from(message: pb::Ruleset) -> Result<Self, InvalidRuleset> {
        let ruleset = Ruleset {
            site: parse(&message.site)?,
            node: parse(&message.node)?,
            mode: match message.mode() {
                pb::Mode::Enforce => Mode::Enforce,
                pb::Mode::Observe => Mode::Observe,
                pb::Mode::Unspecified => return Err(invalid("it has no mode")),
            },
            admins: message
                .admins
                .iter()
                .map(read_network)
                .collect::<Result<_, _>>()?,
            ssh_ports: message
                .ssh_ports
                .iter()
                .map(|port| read_port(*port))
                .collect::<Result<_, _>>()?,
            sets: message
                .sets
                .iter()
                .map(sets::read)
                .collect::<Result<_, _>>()?,
            chains: message
                .chains
                .iter()
                .map(read_chain)
                .collect::<Result<_, _>>()?,
        };
        ruleset.check()?;
        Ok(ruleset)
    }
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<T, InvalidRuleset> {
    text.parse()
        .map_err(|error: T::Err| invalid(error.to_string()))
}

fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<Option<T>, InvalidRuleset> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

fn read_port(port: u32) -> Result<u16, InvalidRuleset> {
    u16::try_from(port).map_err(|_| invalid(format!("{port} is not a port")))
}

pub(super) fn read_network(message: &pb::Network) -> Result<IpNet, InvalidRuleset> {
    let length =
        u8::try_from(message.prefix_length).map_err(|_| invalid("a prefix is too long"))?;
    let net = if let Ok(octets) = <[u8; 4]>::try_from(message.address.as_slice()) {
        Ipv4Net::new(octets.into(), length).map(IpNet::V4)
    } else if let Ok(octets) = <[u8; 16]>::try_from(message.address.as_slice()) {
        Ipv6Net::new(octets.into(), length).map(IpNet::V6)
    } else {
        return Err(invalid("an address is neither 4 nor 16 bytes"));
    };
    let net = net.map_err(|_| invalid("a prefix is too long"))?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(invalid(format!("{net} has host bits")))
    }
}

fn read_chain(message: &pb::Chain) -> Result<Chain, InvalidRuleset> {
    Ok(Chain {
        name: parse(&message.name)?,
        rules: message
            .rules
            .iter()
            .map(read_rule)
            .collect::<Result<_, _>>()?,
    })
}

fn read_ports(ranges: &[pb::PortRange]) -> Result<Ports, InvalidRuleset> {
    let ranges = ranges
        .iter()
        .map(|range| {
            Ok(PortRange {
                first: read_port(range.first)?,
                last: read_port(range.last)?,
            })
        })
        .collect::<Result<_, InvalidRuleset>>()?;
    Ports::exact(ranges).map_err(|error| invalid(error.to_string()))
}

fn read_rate(message: &pb::Rate) -> Result<Rate, InvalidRuleset> {
    let unit = match message.unit() {
        pb::RateUnit::Second => RateUnit::Second,
        pb::RateUnit::Minute => RateUnit::Minute,
        pb::RateUnit::Hour => RateUnit::Hour,
        pb::RateUnit::Unspecified => return Err(invalid("a rate has no unit")),
    };
    Rate::new(message.count, unit, message.burst)
        .ok_or_else(|| invalid(format!("a rate's numbers must be 1 to {}", Rate::MAX)))
}

fn read_rule(message: &pb::Rule) -> Result<Rule, InvalidRuleset> {
    let mut rule = Rule::new(
        parse(&message.label)?,
        read_verdict(message.verdict.as_ref())?,
    );
    rule.scope = match message.scope() {
        pb::Scope::Both => Scope::Both,
        pb::Scope::V4 => Scope::V4,
        pb::Scope::V6 => Scope::V6,
        pb::Scope::Unspecified => return Err(invalid("a rule has no scope")),
    };
    rule.in_interface = parse_optional(&message.in_interface)?;
    rule.source_set = parse_optional(&message.source_set)?;
    rule.source = message.source.as_ref().map(read_network).transpose()?;
    rule.protocol = match message.protocol() {
        pb::Protocol::Unspecified => None,
        pb::Protocol::Tcp => Some(Protocol::Tcp),
        pb::Protocol::Udp => Some(Protocol::Udp),
        pb::Protocol::Icmp => Some(Protocol::Icmp),
        pb::Protocol::Icmpv6 => Some(Protocol::Icmpv6),
    };
    rule.destination_ports = read_ports(&message.destination_ports)?;
    rule.source_ports = read_ports(&message.source_ports)?;
    rule.states = ConnectionStates::new(
        message
            .states()
            .map(|state| match state {
                pb::ConnectionState::New => Ok(ConnectionState::New),
                pb::ConnectionState::Established => Ok(ConnectionState::Established),
                pb::ConnectionState::Related => Ok(ConnectionState::Related),
                pb::ConnectionState::Invalid => Ok(ConnectionState::Invalid),
                pb::ConnectionState::Unspecified => Err(invalid("an unknown connection state")),
            })
            .collect::<Result<Vec<_>, _>>()?,
    );
    rule.icmp_type = message
        .icmp_type
        .map(u8::try_from)
        .transpose()
        .map_err(|_| invalid("an ICMP type is above 255"))?;
    rule.limit = message.limit.as_ref().map(read_rate).transpose()?;
    rule.source_limit = message
        .source_limit
        .as_ref()
        .map(read_source_limit)
        .transpose()?;
    Ok(rule)
}

fn read_source_limit(message: &pb::SourceLimit) -> Result<SourceLimit, InvalidRuleset> {
    let above = message
        .above
        .as_ref()
        .ok_or_else(|| invalid("a source limit has no rate"))?;
    Ok(SourceLimit {
        name: parse(&message.name)?,
        above: read_rate(above)?,
    })
}

fn read_verdict(message: Option<&pb::Verdict>) -> Result<Verdict, InvalidRuleset> {
    use pb::verdict::Kind;
    match message.and_then(|verdict| verdict.kind.as_ref()) {
        Some(Kind::Accept(_)) => Ok(Verdict::Accept),
        Some(Kind::Drop(_)) => Ok(Verdict::Drop),
        Some(Kind::Reject(_)) => Ok(Verdict::Reject),
        Some(Kind::Return(_)) => Ok(Verdict::Return),
        Some(Kind::Jump(chain)) => parse(chain).map(Verdict::Jump),
        Some(Kind::Log(prefix)) => parse(prefix).map(Verdict::Log),
        None => Err(invalid("a rule has no verdict")),
    }
}
