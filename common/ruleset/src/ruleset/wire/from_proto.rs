//! From protobuf: no value gets in that our types do not allow.

use voipfleet_proto::v1 as pb;

use super::super::check::{InvalidRuleset, invalid};
use super::super::{
    Chain, ConnectionState, ConnectionStates, IpProtocol, Mode, PortRange, Ports, Protocol, Rate,
    RateUnit, Rule, Ruleset, Scope, SourceLimit, Verdict,
};
use super::primitive::{parse, parse_optional, read_network, read_port};
use super::probe::read_probe;
use super::sets;
use super::subject::read_subject;

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
            probes: message
                .probes
                .iter()
                .map(read_probe)
                .collect::<Result<_, _>>()?,
            without_ipv6: message.without_ipv6,
        };
        ruleset.check()?;
        Ok(ruleset)
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
    rule.subject = message.subject.as_ref().map(read_subject).transpose()?;
    rule.scope = match message.scope() {
        pb::Scope::Both => Scope::Both,
        pb::Scope::V4 => Scope::V4,
        pb::Scope::V6 => Scope::V6,
        pb::Scope::Unspecified => return Err(invalid("a rule has no scope")),
    };
    rule.in_interface = parse_optional(&message.in_interface)?;
    rule.source_set = parse_optional(&message.source_set)?;
    rule.source = message.source.as_ref().map(read_network).transpose()?;
    rule.protocol = read_protocol(message)?;
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

fn read_protocol(message: &pb::Rule) -> Result<Option<Protocol>, InvalidRuleset> {
    let wrong = |number: u32| invalid(format!("a rule has the protocol number {number}"));
    let number = message.protocol_number;
    let protocol = match message.protocol() {
        pb::Protocol::Other => {
            let other = u8::try_from(number).ok().and_then(IpProtocol::new);
            return Ok(Some(Protocol::Other(other.ok_or_else(|| wrong(number))?)));
        }
        pb::Protocol::Unspecified => None,
        pb::Protocol::Tcp => Some(Protocol::Tcp),
        pb::Protocol::Udp => Some(Protocol::Udp),
        pb::Protocol::Icmp => Some(Protocol::Icmp),
        pb::Protocol::Icmpv6 => Some(Protocol::Icmpv6),
    };
    if number == 0 {
        Ok(protocol)
    } else {
        Err(wrong(number))
    }
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
