//! Sites.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_ruleset::ruleset::{Mode, PortRange};

use super::super::address_space::{is_no_source, is_world};
use super::super::diagnostic::{Span, quoted};
use super::super::document::{
    AddressWord, CustomRule, DefaultVerdict, Ipv6, PolicyTest, Rollout, Site,
};
use super::super::schema::{
    ACCEPT, DEFAULTS, EXPECTATIONS, IPV6, MODES, RULE, TEST, TEST_TARGET, TRANSPORTS,
};
use super::super::traffic::{TestPacket, Traffic, Transport};
use super::super::yaml::{Node, Value};
use super::exposure::Opened;
use super::values::is_empty;
use super::{Decoder, Fields};
use crate::Kind;

const ALL_PORTS: PortRange = PortRange {
    first: 1,
    last: u16::MAX,
};

impl Decoder<'_> {
    pub(super) fn site(&mut self, fields: &Fields<'_, '_>) -> Option<Site> {
        let name = fields.get("name").and_then(|node| self.name(node, "name"));
        let tenants = self.references(fields.get("tenants"), "tenants", Kind::Tenant);
        let providers = self.references(fields.get("providers"), "providers", Kind::Provider);
        let admins = fields
            .get("admins")
            .map(|node| self.admins(node, fields))
            .unwrap_or_default();
        let cluster = fields
            .get("cluster")
            .map(|node| self.cluster(node))
            .unwrap_or_default();
        let ipv6 = fields
            .get("ipv6")
            .map(|node| self.ipv6(node))
            .unwrap_or_default();
        let mode = fields
            .get("mode")
            .and_then(|node| self.choice(node, "mode", MODES))
            .map_or(Mode::Enforce, |mode| match mode {
                "observe" => Mode::Observe,
                _ => Mode::Enforce,
            });
        let default = fields
            .get("default")
            .and_then(|node| self.choice(node, "default", DEFAULTS))
            .map_or(DefaultVerdict::Drop, |default| match default {
                "reject" => DefaultVerdict::Reject,
                _ => DefaultVerdict::Drop,
            });
        let mut services = BTreeMap::new();
        if let Some(node) = fields.get("services") {
            for entry in self.mapping(node, "services").unwrap_or_default() {
                if let Some(service) = self.service(entry) {
                    services.insert(entry.key.clone().into_owned(), service);
                }
            }
        }
        let rules = self.each(fields.get("rules"), "rules", Self::rule);
        let deny = fields
            .get("deny")
            .map(|node| self.deny(node))
            .unwrap_or_default();
        let probes = self.probes(fields.get("probes"));
        let rollout = fields
            .get("rollout")
            .map_or_else(Rollout::at_once, |node| self.rollout(node));
        let tests = self.each(fields.get("tests"), "tests", Self::test);
        Some(Site {
            name: name?,
            tenants,
            providers,
            admins,
            cluster,
            ipv6,
            mode,
            default,
            services,
            rules,
            deny,
            probes,
            rollout,
            tests,
        })
    }

    /// The items of a list of mappings; each has a name of its own.
    pub(super) fn each<T>(
        &mut self,
        node: Option<&Node<'_>>,
        what: &str,
        read: fn(&mut Self, &Node<'_>, &mut BTreeSet<String>) -> Option<T>,
    ) -> Vec<T> {
        let Some(node) = node else {
            return Vec::new();
        };
        let mut names = BTreeSet::new();
        let items = self.sequence(node, what);
        items
            .iter()
            .filter_map(|item| read(self, item, &mut names))
            .collect()
    }

    pub(super) fn unique(
        &mut self,
        names: &mut BTreeSet<String>,
        name: &str,
        span: Span,
        what: &str,
    ) {
        if !names.insert(name.to_owned()) {
            self.sink.error(
                span,
                format!("two {what} have the name {}", quoted(name)),
                "again here",
                "give each a name of its own: reports identify them by it",
            );
        }
    }

    fn admins(&mut self, node: &Node<'_>, fields: &Fields<'_, '_>) -> Vec<AddressWord> {
        if is_empty(node) {
            let span = fields.entry("admins").map_or(node.span, |e| e.key_span);
            self.sink.error(
                span,
                "`admins` is empty",
                "no one could reach SSH on the nodes any more",
                "name the addresses from which you administer the nodes",
            );
            return Vec::new();
        }
        let words = self.words(node, "admins");
        for (word, span) in &words {
            match word {
                AddressWord::Net(net) if is_world(net) => self.sink.error(
                    *span,
                    format!("{net} is as wide as the world"),
                    "the whole Internet could try SSH on every node",
                    "name the networks from which you administer the nodes",
                ),
                AddressWord::Net(net) if self.scope.is_some() && is_no_source(net) => {
                    self.sink.error(
                        *span,
                        format!("no other machine has an address of {net}"),
                        "no machine can connect from it",
                        "name the addresses from which you administer the nodes",
                    );
                }
                AddressWord::Net(_)
                | AddressWord::List(_)
                | AddressWord::Tenant(_)
                | AddressWord::Provider(_) => {}
                AddressWord::Cluster => self.sink.error(
                    *span,
                    "`cluster` is no admin",
                    "",
                    "members of the cluster reach SSH anyway: name the addresses of people",
                ),
                _ => self.sink.error(
                    *span,
                    "this word is too wide for `admins`",
                    "SSH on every node",
                    "name addresses, or a list as `list:NAME`",
                ),
            }
        }
        words.into_iter().map(|(word, _)| word).collect()
    }

    fn deny(&mut self, node: &Node<'_>) -> Vec<AddressWord> {
        let words = self.words(node, "deny");
        for (word, span) in &words {
            let everything = match word {
                AddressWord::World => true,
                AddressWord::Net(net) => net.prefix_len() == 0,
                _ => false,
            };
            if everything {
                self.sink.error(
                    *span,
                    "`deny` of every address would cut every service",
                    "",
                    "name the sources to block; to close a service write `from: []` on it",
                );
            } else if matches!(
                word,
                AddressWord::Admins | AddressWord::Cluster | AddressWord::Local
            ) {
                self.sink.error(
                    *span,
                    "admins, cluster and the node itself cannot be denied",
                    "their rules come before `deny`",
                    "remove it here, or take the address out of `admins`",
                );
            }
        }
        words.into_iter().map(|(word, _)| word).collect()
    }

    /// `none`, or the nodes that have none.
    fn ipv6(&mut self, node: &Node<'_>) -> Ipv6 {
        if let Value::Scalar { text, .. } = &node.value {
            if text == "none" {
                return Ipv6::None;
            }
            self.sink.error(
                node.span,
                format!("{} is no value for `ipv6`", quoted(text)),
                "",
                "write `none` if no node has IPv6, or name those that have none: `{nodes: [sql1]}` \
                 or `{roles: [sql]}`; remove it where all have IPv6",
            );
            return Ipv6::default();
        }
        let Some(fields) = self.fields(node, &IPV6) else {
            return Ipv6::default();
        };
        let nodes = fields.get("nodes").map(|node| {
            let names = self.one_or_many(node, "nodes").iter();
            names.filter_map(|node| self.name(node, "nodes")).collect()
        });
        let roles = fields
            .get("roles")
            .map(|node| self.distinct(node, "roles", Self::role));
        Ipv6::NoneOn {
            nodes: nodes.unwrap_or_default(),
            roles: roles.unwrap_or_default().into_iter().collect(),
        }
    }

    fn rule(&mut self, node: &Node<'_>, names: &mut BTreeSet<String>) -> Option<CustomRule> {
        let fields = self.fields(node, &RULE)?;
        let name = fields.get("name").and_then(|node| {
            let text = self.scalar(node, "name")?;
            if !voipfleet_ruleset::identifiers::is_name(text) {
                self.bad_name(node.span, text);
                return None;
            }
            self.unique(names, text, node.span, "rules");
            Some(text.to_owned())
        });
        let dangerous = fields
            .get("dangerous")
            .and_then(|node| self.flag(node, "dangerous"))
            .unwrap_or(false);
        let accept = fields.get("accept")?;
        let accept = self.fields(accept, &ACCEPT)?;
        let interface = self.interface(&accept);
        let ports = accept.get("ports");
        let traffic = self.traffic(&accept, interface.is_some());
        let from = accept.get("from").map(|node| {
            if is_empty(node) {
                self.sink.error(
                    node.span,
                    "this rule admits no address",
                    "`from` is empty",
                    "name who may reach it, or remove the rule",
                );
            }
            self.words(node, "from")
        });
        let roles = accept.get("roles").map(|node| {
            if is_empty(node) {
                self.sink.error(
                    node.span,
                    "`roles` names no role",
                    "",
                    "remove it for every node, or name roles: [sip, pbx]",
                );
            }
            self.distinct(node, "roles", Self::role)
        });
        let (name, traffic, from) = (name?, traffic?, from?);
        let openings: Vec<_> = match &traffic {
            Traffic::Ports(proto, ranges) => ranges.iter().map(|range| (*proto, *range)).collect(),
            Traffic::Protocol(_) => Vec::new(),
            Traffic::Any => vec![(Transport::Tcp, ALL_PORTS), (Transport::Udp, ALL_PORTS)],
        };
        self.exposure(&Opened {
            what: &format!("rule `{name}`"),
            service: None,
            openings: &openings,
            ports: ports.map(|ports| ports.span),
            from: &from,
            dangerous,
            limited: false,
        });
        Some(CustomRule {
            name,
            traffic,
            interface,
            from: from.into_iter().map(|(word, _)| word).collect(),
            roles: roles.unwrap_or_default(),
            dangerous,
        })
    }

    /// `proto` and `ports` of a rule.
    fn traffic(&mut self, fields: &Fields<'_, '_>, has_interface: bool) -> Option<Traffic> {
        let node = fields.get("proto")?;
        let text = self.scalar(node, "proto")?;
        let ports = fields.get("ports");
        if TRANSPORTS.contains(&text) {
            let proto = self.transport(node, "proto")?;
            let Some(ports) = ports else {
                self.sink.error(
                    node.span,
                    format!("a rule for {text} needs the field `ports`"),
                    "`ports` is missing",
                    "add `ports`: a port (5060), a range (10000-20000) or several (80,443)",
                );
                return None;
            };
            return Some(Traffic::Ports(proto, self.ports(ports, "ports")?));
        }
        let traffic = if text == "any" {
            if !has_interface {
                self.sink.error(
                    node.span,
                    "`proto: any` is for an interface",
                    "of which one?",
                    "add `interface: tailscale0`, or name protocols and ports",
                );
                return None;
            }
            Traffic::Any
        } else {
            Traffic::Protocol(self.ip_protocol(node, "proto")?)
        };
        self.no_ports(text, ports);
        Some(traffic)
    }

    /// The packet of a test.
    fn test_packet(&mut self, fields: &Fields<'_, '_>) -> Option<TestPacket> {
        let node = fields.get("proto")?;
        let text = self.scalar(node, "proto")?;
        let port = fields.get("port");
        if !TRANSPORTS.contains(&text) {
            let protocol = self.ip_protocol(node, "proto")?;
            self.no_ports(text, port);
            return Some(TestPacket::Protocol(protocol));
        }
        let proto = self.transport(node, "proto")?;
        let Some(port) = port else {
            self.sink.error(
                node.span,
                format!("a test of {text} needs the field `port`"),
                "`port` is missing",
                "add `port`: 5060",
            );
            return None;
        };
        let port = self.count(port, "port", 1, 65_535)?;
        Some(TestPacket::Port(proto, u16::try_from(port).ok()?))
    }

    fn no_ports(&mut self, proto: &str, ports: Option<&Node<'_>>) {
        if let Some(ports) = ports {
            self.sink.error(
                ports.span,
                format!("{} has no ports here", quoted(proto)),
                "only tcp and udp have",
                "remove them: the rule is about the protocol as a whole",
            );
        }
    }

    fn test(&mut self, node: &Node<'_>, names: &mut BTreeSet<String>) -> Option<PolicyTest> {
        let fields = self.fields(node, &TEST)?;
        let name = fields.get("name").and_then(|node| {
            let text = self.text(node, "name")?;
            self.unique(names, &text, node.span, "tests");
            Some(text)
        });
        let from = fields.get("from").and_then(|node| self.host(node, "from"));
        let expect = fields
            .get("expect")
            .and_then(|node| self.choice(node, "expect", EXPECTATIONS));
        let target = fields.get("to")?;
        let target = self.fields(target, &TEST_TARGET)?;
        let role = target.get("role").and_then(|node| self.role(node, "role"));
        let packet = self.test_packet(&target);
        let interface = self.interface(&target);
        Some(PolicyTest {
            name: name?,
            from: from?,
            role: role?,
            packet: packet?,
            interface,
            accept: expect? == "accept",
        })
    }
}
