//! How the nodes of a site reach each other.

use std::collections::BTreeMap;

use ipnet::IpNet;
use voipfleet_ruleset::ruleset::{Interface, IpProtocol};

use super::super::address_space::{AddressSpace, is_no_source};
use super::super::cluster::{Cluster, ClusterOverride, Trust};
use super::super::diagnostic::quoted;
use super::super::schema::{CLUSTER, CLUSTER_OVERRIDE, TRANSPORTS, TRUSTS};
use super::super::yaml::{Node, Value};
use super::{Decoder, Fields};

/// Networks, and members, that a cluster may name.
const MOST_NETWORKS: usize = 64;
/// What to write where a cluster names nobody.
const NAME_MEMBERS: &str = "name the networks in which its nodes have their addresses: `networks: \
                            [10.20.0.0/24]`; or the private network's interface: `interface: eth1`";

impl Decoder<'_> {
    pub(super) fn cluster(&mut self, node: &Node<'_>) -> Cluster {
        let Some(fields) = self.fields(node, &CLUSTER) else {
            return Cluster::default();
        };
        let before = self.sink.errors();
        let trust = fields
            .get("trust")
            .and_then(|node| self.choice(node, "trust", TRUSTS))
            .map(|trust| match trust {
                "strict" => Trust::Strict,
                _ => Trust::Full,
            });
        let cluster = Cluster {
            networks: self.cluster_networks(&fields, "networks"),
            interface: self.interface(&fields),
            members: self.cluster_networks(&fields, "members"),
            protocols: self.protocols(&fields).unwrap_or_default(),
            trust: trust.unwrap_or_default(),
            roles: self.overrides(&fields, "roles", |decoder, node| {
                decoder.role(node, "roles")
            }),
            nodes: self.overrides(&fields, "nodes", |decoder, node| {
                decoder.name(node, "nodes")
            }),
        };
        if self.scope.is_some() && before == self.sink.errors() {
            self.members_are_named(&cluster, trust, node, &fields);
        }
        cluster
    }

    /// Members get in only where the document says who they are.
    fn members_are_named(
        &mut self,
        cluster: &Cluster,
        trust: Option<Trust>,
        node: &Node<'_>,
        fields: &Fields<'_, '_>,
    ) {
        if cluster.names_nobody() {
            if let (Some(Trust::Full), Some(node)) = (trust, fields.get("trust")) {
                self.sink.error(
                    node.span,
                    "`trust: full` does not say whom it trusts",
                    "any address that a node reports would reach every port of all nodes",
                    NAME_MEMBERS,
                );
            } else if !cluster.protocols.is_empty() {
                self.sink.error(
                    fields.get("protocols").map_or(node.span, |node| node.span),
                    "`protocols` are for members of the cluster, and it names none",
                    "",
                    NAME_MEMBERS,
                );
            }
        }
        if cluster.networks.is_empty() && cluster.interface.is_none() {
            let by_interface = cluster.interfaces().into_iter().next();
            if let Some(interface) = by_interface {
                self.sink.error(
                    node.span,
                    format!("only some nodes have an interface of the cluster ({interface})"),
                    "",
                    "name `networks`, or the `interface` of all other nodes, beside `roles` and \
                     `nodes`",
                );
            }
        }
    }

    /// The interface of a cluster, a rule or a test.
    pub(super) fn interface(&mut self, fields: &Fields<'_, '_>) -> Option<Interface> {
        let node = fields.get("interface")?;
        let text = self.scalar(node, "interface")?;
        let interface = text.parse().ok();
        if interface.is_none() {
            self.sink.error(
                node.span,
                format!("{} is not a network interface", quoted(text)),
                "",
                "write its name as `ip link` shows it, 1 to 15 characters: eth1",
            );
        }
        interface
    }

    fn protocols(&mut self, fields: &Fields<'_, '_>) -> Option<Vec<IpProtocol>> {
        let node = fields.get("protocols")?;
        let mut protocols = self.distinct(node, "protocols", Self::ip_protocol);
        protocols.sort_unstable();
        Some(protocols)
    }

    /// `vrrp`, `112`.
    pub(super) fn ip_protocol(&mut self, node: &Node<'_>, what: &str) -> Option<IpProtocol> {
        let text = self.scalar(node, what)?;
        let protocol = text.parse().ok();
        if protocol.is_none() {
            let help = match text {
                "tcp" | "udp" | "6" | "17" => {
                    "open ports with `services` or `rules`: `{proto: udp, ports: 5060}`".to_owned()
                }
                "icmp" | "icmpv6" | "ipv6-icmp" | "1" | "58" => {
                    "ICMP is a service of the catalogue: `services: {icmp: {from: […]}}`".to_owned()
                }
                _ => match self
                    .sink
                    .nearest(text, TRANSPORTS.iter().copied().chain(IpProtocol::names()))
                {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "write a name (vrrp, esp, ah, gre, ospf, igmp, pim, sctp, l2tp) or a \
                             number from 2 to 255"
                        .to_owned(),
                },
            };
            self.sink.error(
                node.span,
                format!(
                    "{} is not an IP protocol that can be opened as a whole",
                    quoted(text)
                ),
                "",
                help,
            );
        }
        protocol
    }

    /// Addresses and prefixes, each once and ascending.
    fn cluster_networks(&mut self, fields: &Fields<'_, '_>, what: &'static str) -> Vec<IpNet> {
        let Some(list) = fields.get(what) else {
            return Vec::new();
        };
        let mut nets = Vec::new();
        for item in self.one_or_many(list, what) {
            let Some(text) = self.scalar(item, what) else {
                continue;
            };
            let Some(net) = self.network(text, item.span) else {
                continue;
            };
            if self.scope.is_some() && is_no_source(&net) {
                self.sink.error(
                    item.span,
                    format!("no other machine has an address of {net}"),
                    "no node can be reached there",
                    "name the network that the nodes share",
                );
            }
            nets.push(net.trunc());
        }
        nets.sort_unstable();
        nets.dedup();
        if self.scope.is_some() && AddressSpace::of(&nets).is_wide() {
            self.sink.error(
                list.span,
                format!("`{what}` are a sixteenth of all addresses, or more"),
                "whoever has one of them would be a member",
                "name the networks in which the nodes have their addresses, as 10.20.0.0/24",
            );
        }
        if nets.len() > MOST_NETWORKS {
            self.sink.error(
                list.span,
                format!(
                    "`{what}` has {} entries, and {MOST_NETWORKS} is the most",
                    nets.len()
                ),
                "",
                "name wider networks",
            );
        }
        nets
    }

    fn overrides<K: Ord>(
        &mut self,
        fields: &Fields<'_, '_>,
        what: &'static str,
        key: fn(&mut Self, &Node<'_>) -> Option<K>,
    ) -> BTreeMap<K, ClusterOverride> {
        let mut all = BTreeMap::new();
        let Some(node) = fields.get(what) else {
            return all;
        };
        for entry in self.mapping(node, what).unwrap_or_default() {
            if entry.key.is_empty() {
                continue;
            }
            let name = Node {
                value: Value::Scalar {
                    text: entry.key.clone(),
                    plain: true,
                },
                span: entry.key_span,
            };
            let key = key(self, &name);
            let Some(fields) = self.fields(&entry.value, &CLUSTER_OVERRIDE) else {
                continue;
            };
            let change = ClusterOverride {
                interface: self.interface(&fields),
                protocols: self.protocols(&fields),
            };
            if let Some(key) = key {
                all.insert(key, change);
            }
        }
        all
    }
}
