//! What a service listens on: transports, ports and ICMP types, with the site's changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use voipfleet_policy::catalogue::{Direction, Group, IcmpOpening, SERVICES, Service, service};
use voipfleet_policy::{ServiceOverride, Site, Traffic, Transport};
use voipfleet_ruleset::ruleset::{
    Family, InvalidToken, PortRange, Ports, Protocol, Rate, RateUnit, Rule, RuleSubject, Scope,
    Verdict,
};

use super::{CompileError, set_names};

/// The ports of SIP by the vendor's page: media never opens them, wherever SIP itself moves.
const SIP_PORTS: [u16; 3] = [5050, 5060, 5061];

/// Echo requests from all sources together: room for monitoring, none for a flood.
const ECHO_LIMIT: Rate = Rate {
    count: 50,
    unit: RateUnit::Second,
    burst: 100,
};

/// Packets of one kind: protocol and ports of a rule.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// For labels: `udp`, `tcp:2`, `type-8`.
    pub(super) name: String,
    pub(super) scope: Scope,
    /// `None`: any.
    pub(super) protocol: Option<Protocol>,
    pub(super) ports: Ports,
    pub(super) icmp_type: Option<u8>,
    /// All sources together are accepted up to this.
    pub(super) limit: Option<Rate>,
    /// Open to every source that is not denied, whatever the service's `from`.
    pub(super) for_all: bool,
}

impl Flow {
    /// A rule for these packets from any source.
    pub(super) fn rule(
        &self,
        subject: RuleSubject,
        details: &[Option<&str>],
        verdict: Verdict,
    ) -> Result<Rule, InvalidToken> {
        let mut rule = set_names::rule(subject, details, verdict)?;
        rule.scope = self.scope;
        rule.protocol = self.protocol;
        rule.destination_ports = self.ports.clone();
        rule.icmp_type = self.icmp_type;
        Ok(rule)
    }

    /// Whether some packet is of both.
    pub(super) fn overlaps(&self, other: &Flow) -> bool {
        let same = self.protocol == other.protocol;
        self.protocol.is_none()
            || other.protocol.is_none()
            || same
                && self.ports.ranges().iter().any(|a| {
                    let mut others = other.ports.ranges().iter();
                    others.any(|b| a.first <= b.last && b.first <= a.last)
                })
    }
}

/// A service as one site has it.
#[derive(Debug)]
pub(super) struct Effective {
    pub(super) service: &'static Service,
    pub(super) changes: ServiceOverride,
    pub(super) flows: Vec<Flow>,
    /// The lowest of the SIP ports that its own ports had to leave out.
    pub(super) gave_up: Vec<PortRange>,
}

/// Every inbound service of the catalogue as `site` has it, in the catalogue's order.
pub(super) fn effective(site: &Site) -> Result<Vec<Effective>, CompileError> {
    for (name, changes) in &site.services {
        if service(name).is_none() {
            return Err(CompileError::UnknownService(name.clone()));
        }
        if changes.notrack {
            return Err(CompileError::NotOffered(format!("services.{name}.notrack")));
        }
    }
    let inbound = SERVICES
        .iter()
        .filter(|service| service.direction == Direction::Inbound);
    let mut all = Vec::new();
    let mut sip: Vec<PortRange> = SIP_PORTS.into_iter().map(PortRange::single).collect();
    for service in inbound {
        let changes = site.services.get(service.name).cloned().unwrap_or_default();
        let ports = listening(service, &changes)?;
        if service.group == Group::Sip {
            sip.extend(ports.values().flatten());
        }
        all.push((service, changes, ports));
    }
    Ok(all
        .into_iter()
        .map(|(service, changes, mut ports)| {
            let mut gave_up = Vec::new();
            if service.media {
                for ranges in ports.values_mut() {
                    let (kept, cut) = without(ranges, &sip);
                    *ranges = kept;
                    gave_up.extend(cut);
                }
            }
            let flows = ports
                .into_iter()
                .flat_map(|(transport, ranges)| transport_flows(transport.0, ranges))
                .chain(service.icmp.iter().map(icmp_flow))
                .collect();
            Effective {
                service,
                changes,
                flows,
                gave_up,
            }
        })
        .collect())
}

/// The packets of a rule of the site.
pub(super) fn traffic_flows(traffic: &Traffic) -> Vec<Flow> {
    let whole = |name: String, scope, protocol| {
        vec![Flow {
            name,
            scope,
            protocol,
            ports: Ports::ANY,
            icmp_type: None,
            limit: None,
            for_all: false,
        }]
    };
    match traffic {
        Traffic::Ports(transport, ranges) => transport_flows(*transport, ranges.clone()),
        Traffic::Protocol(other) => {
            let scope = if other.is_v4_only() {
                Scope::V4
            } else {
                Scope::Both
            };
            whole(other.to_string(), scope, Some(Protocol::Other(*other)))
        }
        Traffic::Any => whole("any".to_owned(), Scope::Both, None),
    }
}

/// The packets of one transport to `ranges`: one flow for each list that fits a rule.
fn transport_flows(transport: Transport, ranges: Vec<PortRange>) -> Vec<Flow> {
    let (name, protocol) = match transport {
        Transport::Tcp => ("tcp", Protocol::Tcp),
        Transport::Udp => ("udp", Protocol::Udp),
    };
    Ports::split(ranges)
        .into_iter()
        .enumerate()
        .map(|(index, ports)| Flow {
            name: match index {
                0 => name.to_owned(),
                more => format!("{name}:{}", more + 1),
            },
            scope: Scope::Both,
            protocol: Some(protocol),
            ports,
            icmp_type: None,
            limit: None,
            for_all: false,
        })
        .collect()
}

fn icmp_flow(opening: &IcmpOpening) -> Flow {
    Flow {
        name: format!("type-{}", opening.icmp_type),
        scope: opening.family.into(),
        protocol: Some(match opening.family {
            Family::V4 => Protocol::Icmp,
            Family::V6 => Protocol::Icmpv6,
        }),
        ports: Ports::ANY,
        icmp_type: Some(opening.icmp_type),
        limit: opening.echo.then_some(ECHO_LIMIT),
        for_all: !opening.echo,
    }
}

/// Its ports by transport, UDP first: most packets are.
fn listening(
    service: &Service,
    changes: &ServiceOverride,
) -> Result<BTreeMap<Reverse<Transport>, Vec<PortRange>>, CompileError> {
    if !service.icmp.is_empty() {
        let field = match (&changes.ports, &changes.proto) {
            (Some(_), _) => "ports",
            (None, Some(_)) => "proto",
            (None, None) => return Ok(BTreeMap::new()),
        };
        return Err(CompileError::Meaningless {
            place: format!("services.{}.{field}", service.name),
            word: "set".to_owned(),
            reason: "ICMP has types, which the catalogue gives",
        });
    }
    let published = |transport: Transport| {
        let mut openings = service.openings.iter();
        openings.find(|opening| opening.transport == transport)
    };
    let transports: BTreeSet<Transport> = match &changes.proto {
        Some(transports) => transports.iter().copied().collect(),
        None => service.openings.iter().map(|o| o.transport).collect(),
    };
    Ok(transports
        .into_iter()
        .map(|transport| {
            let ports = match (&changes.ports, published(transport)) {
                (Some(ports), _) => ports.clone(),
                (None, Some(opening)) => opening.ports.to_vec(),
                // A transport that the catalogue does not have: the ports of the other.
                (None, None) => service
                    .openings
                    .iter()
                    .flat_map(|opening| opening.ports)
                    .copied()
                    .collect(),
            };
            (Reverse(transport), ports)
        })
        .collect())
}

/// `ranges` without `holes`, and what was cut out of them.
fn without(ranges: &[PortRange], holes: &[PortRange]) -> (Vec<PortRange>, Vec<PortRange>) {
    let mut kept = ranges.to_vec();
    let mut cut = Vec::new();
    for hole in holes {
        let mut next = Vec::with_capacity(kept.len() + 1);
        for range in kept {
            let (first, last) = (range.first.max(hole.first), range.last.min(hole.last));
            if first > last {
                next.push(range);
                continue;
            }
            cut.push(PortRange { first, last });
            next.extend(PortRange::new(range.first, first.saturating_sub(1)));
            if last < u16::MAX {
                next.extend(PortRange::new(last + 1, range.last));
            }
        }
        kept = next;
    }
    (kept, cut)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_range() -> impl Strategy<Value = PortRange> {
        (1_u16.., 0_u16..2000).prop_map(|(first, width)| PortRange {
            first,
            last: first.saturating_add(width),
        })
    }

    proptest! {
        #[test]
        fn cutting_ports_is_exact(
            ranges in prop::collection::vec(any_range(), 0..8),
            holes in prop::collection::vec(any_range(), 0..8),
        ) {
            let (kept, cut) = without(&ranges, &holes);
            let inside = |ranges: &[PortRange], port| ranges.iter().any(|r| r.contains(port));
            for edge in ranges.iter().chain(&holes) {
                for port in [edge.first.saturating_sub(1), edge.first, edge.last, edge.last.saturating_add(1)] {
                    let wanted = inside(&ranges, port) && !inside(&holes, port);
                    prop_assert_eq!(inside(&kept, port), wanted, "{}", port);
                    prop_assert_eq!(
                        inside(&cut, port),
                        inside(&ranges, port) && inside(&holes, port)
                    );
                }
            }
        }
    }
}
