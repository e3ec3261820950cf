//! Rulesets as canonical protobuf; back from it in [`from_proto`], with every value checked again.

pub(in crate::ruleset) mod direct;
mod dynamic_sets;
mod from_proto;
mod primitive;
mod probe;
pub(in crate::ruleset) mod sets;
mod subject;

use ipnet::IpNet;
use prost::Message;
use voipfleet_proto::v1 as pb;

use super::check::{BOUNDS, InvalidRuleset, invalid};
use super::outline;
use super::{
    ConnectionState, Digest, Mode, PortRange, Protocol, Rate, RateUnit, Rule, Ruleset, Scope,
    SetStem, Verdict,
};
use crate::protobuf::put_bytes;
pub(super) use primitive::{parse, read_network};

/// The field of `ruleset.proto` that holds the sets.
const SETS: u32 = 6;

/// The longest encoded ruleset that either side takes: room for about 2 million set elements.
pub const MAX_RULESET_BYTES: usize = 64 << 20;

impl Ruleset {
    /// The canonical encoding; its SHA-256 is the digest.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = head(self).encode_to_vec();
        let mut content = Vec::new();
        for set in &self.sets {
            content.clear();
            sets::write(set, &mut content);
            put_bytes(SETS, &content, &mut bytes);
        }
        bytes.extend(tail(self).encode_to_vec());
        bytes
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
        outline::check(bytes, BOUNDS).map_err(invalid)?;
        let message = pb::Ruleset::decode(bytes).map_err(|error| invalid(error.to_string()))?;
        let ruleset = Ruleset::try_from(message)?;
        if ruleset.encode() != bytes {
            return Err(invalid("its encoding is not canonical"));
        }
        Ok(ruleset)
    }
}

/// Its fields before the sets.
fn head(ruleset: &Ruleset) -> pb::Ruleset {
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
        ..pb::Ruleset::default()
    }
}

/// Its fields behind the sets.
fn tail(ruleset: &Ruleset) -> pb::Ruleset {
    pb::Ruleset {
        chains: ruleset
            .chains
            .iter()
            .map(|chain| pb::Chain {
                name: chain.name.to_string(),
                rules: chain.rules.iter().map(rule).collect(),
            })
            .collect(),
        probes: ruleset.probes.iter().map(probe::probe).collect(),
        without_ipv6: ruleset.without_ipv6,
        ..pb::Ruleset::default()
    }
}

impl From<&Ruleset> for pb::Ruleset {
    fn from(ruleset: &Ruleset) -> Self {
        let tail = tail(ruleset);
        pb::Ruleset {
            sets: ruleset.sets.iter().map(sets::encode).collect(),
            chains: tail.chains,
            probes: tail.probes,
            without_ipv6: tail.without_ipv6,
            ..head(ruleset)
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
    let (protocol, protocol_number) = match rule.protocol {
        None => (pb::Protocol::Unspecified, 0),
        Some(Protocol::Tcp) => (pb::Protocol::Tcp, 0),
        Some(Protocol::Udp) => (pb::Protocol::Udp, 0),
        Some(Protocol::Icmp) => (pb::Protocol::Icmp, 0),
        Some(Protocol::Icmpv6) => (pb::Protocol::Icmpv6, 0),
        Some(Protocol::Other(other)) => (pb::Protocol::Other, other.number().into()),
    };
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
        protocol: protocol.into(),
        protocol_number,
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
        subject: rule.subject.as_ref().map(subject::subject),
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
