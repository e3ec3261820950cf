//! Openings that expose more than an operator can want.

use std::collections::BTreeMap;

use ipnet::IpNet;
use voipfleet_ruleset::ruleset::PortRange;

use super::Decoder;
use crate::address_space::{AddressSpace, is_world};
use crate::catalogue::{Group, SERVICES, Service};
use crate::diagnostic::Span;
use crate::document::AddressWord;
use crate::traffic::Transport;

/// So many ports of one transport are not opened to the world by chance.
const WIDE_RANGE: usize = 1024;

/// An opening of a site: a service, or a rule of its own.
pub(super) struct Opened<'a> {
    /// What it is, for messages.
    pub(super) what: &'a str,
    /// The catalogue's service; none for a rule.
    pub(super) service: Option<&'static Service>,
    pub(super) openings: &'a [(Transport, PortRange)],
    /// Where its ports are written.
    pub(super) ports: Option<Span>,
    pub(super) from: &'a [(AddressWord, Span)],
    pub(super) dangerous: bool,
    pub(super) limited: bool,
}

impl Decoder<'_> {
    /// Reports a back-end service that is open to the world, and other likely mistakes.
    pub(super) fn exposure(&mut self, opened: &Opened<'_>) {
        if self.scope.is_none() || opened.from.is_empty() {
            return;
        }
        self.inbound_dns(opened);
        let mut world: Vec<Span> = opened
            .from
            .iter()
            .filter(|(word, _)| self.is_world(word))
            .map(|(_, span)| *span)
            .collect();
        let literal = |(word, span): &(AddressWord, Span)| match word {
            AddressWord::Net(net) => Some((*net, *span)),
            _ => None,
        };
        let literals: Vec<(IpNet, Span)> = opened.from.iter().filter_map(literal).collect();
        let mut reach = "every address";
        if world.is_empty() && AddressSpace::of(literals.iter().map(|(net, _)| net)).is_wide() {
            reach = "a sixteenth of all addresses, or more,";
            world.extend(literals.first().map(|(_, span)| *span));
        }
        let Some(first) = world.first() else {
            return;
        };
        if let Some((never, what)) = reached(opened) {
            if !opened.dangerous {
                for span in &world {
                    self.sink.error(
                        *span,
                        format!("{what} must not be open to the world"),
                        format!("{reach} could reach `{}`", never.name),
                        "name the sources that need it (cluster, admins, an address); if it must be \
                         so, write `dangerous: true` beside it",
                    );
                }
            }
            return;
        }
        if self.wide_range(opened, *first) {
            return;
        }
        self.unlimited(opened, *first);
    }

    /// Reports so many ports for the world that nobody knows what listens there. Media is meant for
    /// it.
    fn wide_range(&mut self, opened: &Opened<'_>, first: Span) -> bool {
        let is_media = opened.service.is_some_and(|service| service.media);
        let mut ports: BTreeMap<Transport, usize> = BTreeMap::new();
        for (transport, range) in opened.openings {
            *ports.entry(*transport).or_default() += usize::from(range.last - range.first) + 1;
        }
        let most = ports.into_values().max().unwrap_or(0);
        if is_media || opened.dangerous || most < WIDE_RANGE {
            return false;
        }
        self.sink.error(
            opened.ports.unwrap_or(first),
            format!("{} opens {most} ports to the world", opened.what),
            "whatever listens there could be reached by every address",
            "name the ports and sources that need it; if it must be so, write `dangerous: true` \
             beside it",
        );
        true
    }

    /// Whether a word means every address, or nearly.
    fn is_world(&self, word: &AddressWord) -> bool {
        match word {
            AddressWord::World => true,
            AddressWord::Net(net) => is_world(net),
            AddressWord::List(name) => self
                .scope
                .is_some_and(|scope| scope.wide_lists.contains(name.as_str())),
            _ => false,
        }
    }

    fn inbound_dns(&mut self, opened: &Opened<'_>) {
        if let Some(span) = opened.ports
            && opened.openings.iter().any(|(_, range)| range.contains(53))
        {
            self.sink.warning(
                span,
                format!("{} opens port 53 to the nodes", opened.what),
                "DNS",
                "nodes ask DNS servers, and the answers pass without it: remove it, unless this node \
                 answers DNS itself",
            );
        }
    }

    fn unlimited(&mut self, opened: &Opened<'_>, span: Span) {
        let Some(service) = opened.service else {
            let sip = |port| {
                opened.openings.iter().any(|(proto, range)| {
                    *proto == Transport::Udp && range.first != range.last && range.contains(port)
                })
            };
            if sip(5060) || sip(5061) {
                self.sink.warning(
                    opened.ports.unwrap_or(span),
                    format!("the ports of {} cover SIP", opened.what),
                    "contains 5060 or 5061",
                    "leave the SIP ports out, or open SIP with `services`, where it can be limited",
                );
            }
            return;
        };
        if service.group == Group::Sip && !opened.limited {
            self.sink.warning(
                span,
                format!("`{}` is open to the world without a limit", service.name),
                "scanners will try passwords here",
                "add `limit: {per_source: 20/s, burst: 60}`: clients, admins and cluster are not \
                 limited by it",
            );
        }
        if service.name == "ssh" {
            self.sink.warning(
                span,
                "`ssh` is open to the world",
                "",
                "name the networks that need it; `admins` and `cluster` have it already",
            );
        }
    }
}

/// The back-end service that an opening reaches, and how to word that.
fn reached(opened: &Opened<'_>) -> Option<(&'static Service, String)> {
    if let Some(service) = opened.service.filter(|service| service.never_world) {
        return Some((service, format!("`{}`", service.name)));
    }
    SERVICES
        .iter()
        .filter(|service| service.never_world)
        .find_map(|service| {
            let (proto, range) = service.openings.iter().find_map(|opening| {
                opened
                    .openings
                    .iter()
                    .filter(|(proto, _)| *proto == opening.transport)
                    .find_map(|(proto, opened)| {
                        let inner = opening
                            .ports
                            .iter()
                            .find(|r| r.first <= opened.last && opened.first <= r.last)?;
                        Some((*proto, *inner))
                    })
            })?;
            let proto = match proto {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            let what = format!(
                "port {range}/{proto} of `{}`, which {} opens,",
                service.name, opened.what
            );
            Some((service, what))
        })
}
