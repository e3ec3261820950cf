//! What a site changes of the catalogue's services.

use voipfleet_ruleset::ruleset::{MAX_PORT_SLOTS, PortRange, Rate};

use super::super::diagnostic::{Span, quoted};
use super::super::document::ServiceOverride;
use super::super::schema::{LIMIT, SERVICE};
use super::super::traffic::Transport;
use super::super::yaml::{Entry, Node};
use super::exposure::Opened;
use super::values::is_empty;
use super::{Decoder, Fields};
use crate::catalogue::{self, Direction, SERVICES, Service};

/// The ports of SIP, TCP and UDP: 5050 is Asterisk's behind Kamailio.
const SIP_PORTS: [u16; 3] = [5050, 5060, 5061];

impl Decoder<'_> {
    pub(super) fn service(&mut self, entry: &Entry<'_>) -> Option<ServiceOverride> {
        if entry.key.is_empty() {
            return None;
        }
        let known = self.known_service(entry);
        let fields = self.fields(&entry.value, &SERVICE)?;
        let dangerous = fields
            .get("dangerous")
            .and_then(|node| self.flag(node, "dangerous"))
            .unwrap_or(false);
        let from = fields.get("from").map(|node| self.words(node, "from"));
        let ports = fields
            .get("ports")
            .and_then(|node| self.ports(node, "ports"));
        let proto = fields.get("proto").map(|node| {
            if is_empty(node) {
                self.sink.error(
                    node.span,
                    "`proto` names no transport",
                    "",
                    "write tcp, udp or [tcp, udp]; to close the service write `from: []`",
                );
            }
            self.distinct(node, "proto", Self::transport)
        });
        let limit = fields.get("limit").and_then(|node| self.limit(node));
        if let Some(node) = fields.get("notrack")
            && self.flag(node, "notrack") == Some(true)
        {
            self.sink.error(
                node.span,
                "`notrack: true` is not offered yet",
                "",
                "remove it: packets of this service are tracked",
            );
        }
        let service = ServiceOverride {
            from: None,
            ports,
            proto,
            limit,
            notrack: false,
            dangerous,
        };
        if let Some(known) = known
            && self.scope.is_some()
            && self.fits(known, &fields, &service)
        {
            let openings = service.openings(known);
            let default: Vec<_> = known
                .default_from
                .iter()
                .map(|exposure| ((*exposure).into(), entry.key_span))
                .collect();
            self.exposure(&Opened {
                what: known.name,
                service: Some(known),
                openings: &openings,
                ports: fields.get("ports").map(|node| node.span),
                from: from.as_deref().unwrap_or(&default),
                dangerous,
                limited: service.limit.is_some(),
            });
        }
        Some(ServiceOverride {
            from: from.map(|words| words.into_iter().map(|(word, _)| word).collect()),
            ..service
        })
    }

    fn known_service(&mut self, entry: &Entry<'_>) -> Option<&'static Service> {
        let known = catalogue::service(&entry.key);
        if self.scope.is_none() {
            return known;
        }
        match known {
            None => {
                let names = SERVICES
                    .iter()
                    .filter(|service| service.direction == Direction::Inbound)
                    .map(|service| service.name);
                let help = match self.sink.nearest(&entry.key, names.clone()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "the services are: {}; open anything else with `rules`",
                        names.collect::<Vec<_>>().join(", ")
                    ),
                };
                self.sink.error(
                    entry.key_span,
                    format!("there is no service {}", quoted(&entry.key)),
                    "unknown service",
                    help,
                );
            }
            Some(service) if service.direction == Direction::Egress => {
                self.sink.error(
                    entry.key_span,
                    format!("`{}` goes out from the nodes", service.name),
                    "nothing to open",
                    "remove it: the policy filters what comes in, and replies always pass",
                );
                return None;
            }
            Some(_) => {}
        }
        known
    }

    /// Whether the changed fields fit the service; if not, that is reported.
    fn fits(
        &mut self,
        known: &Service,
        fields: &Fields<'_, '_>,
        service: &ServiceOverride,
    ) -> bool {
        let before = self.sink.errors();
        if known.openings.is_empty() {
            for name in ["ports", "proto"] {
                if let Some(node) = fields.get(name) {
                    self.sink.error(
                        node.span,
                        format!("`{}` has no ports", known.name),
                        "",
                        format!("remove `{name}`"),
                    );
                }
            }
        }
        if known.media
            && let (Some(node), Some(ports)) = (fields.get("ports"), &service.ports)
        {
            self.media_ports(known.name, node.span, ports);
        }
        if known.name == "ssh" {
            self.ssh_ports(fields, service);
        }
        before == self.sink.errors()
    }

    /// SSH of the admins is what every node keeps open, in one rule.
    fn ssh_ports(&mut self, fields: &Fields<'_, '_>, service: &ServiceOverride) {
        if let Some(node) = fields.get("proto")
            && service
                .proto
                .as_ref()
                .is_some_and(|proto| !proto.contains(&Transport::Tcp))
        {
            self.sink.error(
                node.span,
                "`ssh` needs tcp",
                "",
                "admins could not reach the nodes any more: remove `proto`",
            );
        }
        let ranges = service.ports.as_deref().unwrap_or_default();
        let count: usize = ranges
            .iter()
            .map(|range| usize::from(range.last - range.first) + 1)
            .sum();
        if let Some(node) = fields.get("ports")
            && count > MAX_PORT_SLOTS
        {
            self.sink.error(
                node.span,
                format!("`ssh` has {count} ports, and {MAX_PORT_SLOTS} is the most"),
                "",
                "name the ports on which sshd listens",
            );
        } else if let Some(node) = fields.get("ports")
            && !ranges.iter().any(|range| range.contains(22))
        {
            self.sink.warning(
                node.span,
                "`ssh` leaves port 22 out",
                "admins are let in here only",
                "make sure that sshd of every node listens on it before you push",
            );
        }
    }

    /// Reports media ports that contain those of SIP: a source of media could also signal.
    fn media_ports(&mut self, name: &str, span: Span, ports: &[PortRange]) {
        let covered: Vec<String> = SIP_PORTS
            .iter()
            .filter(|port| ports.iter().any(|range| range.contains(**port)))
            .map(u16::to_string)
            .collect();
        if covered.is_empty() {
            return;
        }
        let split: Vec<String> = ports
            .iter()
            .flat_map(|range| without(*range, &SIP_PORTS))
            .map(|range| range.to_string())
            .collect();
        let help = if split.is_empty() {
            "choose ports that no signalling uses".to_owned()
        } else {
            format!("leave the SIP ports out: `ports: [{}]`", split.join(", "))
        };
        self.sink.error(
            span,
            format!("the ports of `{name}` cover SIP"),
            format!("contains {}", covered.join(", ")),
            help,
        );
    }

    fn limit(&mut self, node: &Node<'_>) -> Option<Rate> {
        let fields = self.fields(node, &LIMIT)?;
        let rate = fields
            .get("per_source")
            .and_then(|node| self.rate(node, "per_source"));
        let burst = match fields.get("burst") {
            Some(node) => Some(self.count(node, "burst", 1, Rate::MAX)?),
            None => None,
        };
        let (count, unit) = rate?;
        Rate::new(count, unit, burst.unwrap_or(count))
    }
}

/// `range` without some ports, which ascend.
fn without(range: PortRange, ports: &[u16]) -> Vec<PortRange> {
    let mut rest = Vec::new();
    let mut first = u32::from(range.first);
    for port in ports.iter().filter(|port| range.contains(**port)) {
        push(&mut rest, first, u32::from(*port) - 1);
        first = u32::from(*port) + 1;
    }
    push(&mut rest, first, u32::from(range.last));
    rest
}

fn push(ranges: &mut Vec<PortRange>, first: u32, last: u32) {
    if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) {
        ranges.extend(PortRange::new(first, last));
    }
}

impl ServiceOverride {
    /// The transports and ports that the service has with this change.
    fn openings(&self, service: &Service) -> Vec<(Transport, PortRange)> {
        let published: Vec<(Transport, PortRange)> = service
            .openings
            .iter()
            .flat_map(|opening| {
                opening
                    .ports
                    .iter()
                    .map(|range| (opening.transport, *range))
            })
            .collect();
        let transports: Vec<Transport> = match &self.proto {
            Some(proto) => proto.clone(),
            None => service.openings.iter().map(|o| o.transport).collect(),
        };
        let mut openings = Vec::new();
        for transport in transports {
            let known = published.iter().any(|(proto, _)| *proto == transport);
            openings.extend(match &self.ports {
                Some(ports) => ports.iter().map(|range| (transport, *range)).collect(),
                // A transport that the catalogue does not have takes the ports of the other.
                None => published
                    .iter()
                    .filter(|(proto, _)| *proto == transport || !known)
                    .map(|(_, range)| (transport, *range))
                    .collect::<Vec<_>>(),
            });
        }
        openings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_around_ports() {
        let split = |first, last| {
            without(PortRange { first, last }, &SIP_PORTS)
                .iter()
                .map(PortRange::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(split(4000, 5999), ["4000-5049", "5051-5059", "5062-5999"]);
        assert_eq!(split(5060, 5061), Vec::<String>::new());
        assert_eq!(split(1, 65_535).len(), 3);
    }
}
