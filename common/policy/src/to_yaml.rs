//! Documents to trees: the fields of `schema` in their order, without those at their default.

use ipnet::IpNet;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    DnsName, Interface, IpProtocol, Mode, PortRange, Probe, Rate, RateUnit, Until,
};

use super::address::written;
use super::cluster::{Cluster, ClusterOverride, Trust};
use super::decode::written_duration;
use super::document::{
    AddressWord, Batch, CustomRule, Dated, DefaultVerdict, Document, Ipv6, List, OnFailure,
    PolicyTest, Provider, Rollout, ServiceOverride, Site, Tenant,
};
use super::feed::FeedSource;
use super::traffic::{TestPacket, Traffic, Transport};
use super::yaml_writer::Tree;

impl Document {
    /// The document as YAML, in the one canonical form. It parses back to the same document.
    pub fn to_yaml(&self) -> String {
        self.tree().to_yaml()
    }

    pub(super) fn tree(&self) -> Tree {
        let mut entries = vec![
            entry("kind", text(self.kind().as_str())),
            entry("name", text(self.name())),
        ];
        match self {
            Document::Site(site) => site_fields(site, &mut entries),
            Document::Tenant(tenant) => entries.push(tenant_networks(tenant)),
            Document::Provider(provider) => provider_networks(provider, &mut entries),
            Document::List(list) => list_fields(list, &mut entries),
        }
        Tree::Map(entries)
    }
}

type Entry = (String, Tree);

fn entry(name: &str, value: Tree) -> Entry {
    (name.to_owned(), value)
}

fn text(value: &str) -> Tree {
    Tree::Text(value.to_owned())
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Tree) -> Tree {
    Tree::List(items.iter().map(one).collect())
}

fn site_fields(site: &Site, entries: &mut Vec<Entry>) {
    entries.extend(filled("tenants", &site.tenants, |name| text(name.as_str())));
    entries.extend(filled("providers", &site.providers, |name| {
        text(name.as_str())
    }));
    entries.push(entry("admins", list(&site.admins, word)));
    entries.extend(cluster(&site.cluster));
    entries.extend(ipv6(&site.ipv6));
    entries.push(entry(
        "mode",
        text(match site.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }),
    ));
    entries.push(entry(
        "default",
        text(match site.default {
            DefaultVerdict::Drop => "drop",
            DefaultVerdict::Reject => "reject",
        }),
    ));
    if !site.services.is_empty() {
        let services = site
            .services
            .iter()
            .map(|(name, change)| entry(name, service(change)));
        entries.push(entry("services", Tree::Map(services.collect())));
    }
    entries.extend(filled("rules", &site.rules, rule));
    entries.extend(filled("deny", &site.deny, word));
    entries.extend(filled("probes", &site.probes, probe));
    entries.push(entry("rollout", rollout(&site.rollout)));
    entries.extend(filled("tests", &site.tests, test));
}

/// Which nodes have no IPv6, if any.
fn ipv6(ipv6: &Ipv6) -> Option<Entry> {
    let (nodes, roles) = match ipv6 {
        Ipv6::None => return Some(entry("ipv6", text("none"))),
        Ipv6::NoneOn { nodes, roles } => (nodes, roles),
    };
    let nodes: Vec<&str> = nodes
        .iter()
        .map(voipfleet_ruleset::identifiers::NodeName::as_str)
        .collect();
    let roles: Vec<Role> = roles.iter().copied().collect();
    let mut fields = Vec::new();
    fields.extend(filled("nodes", &nodes, |node| text(node)));
    fields.extend(filled("roles", &roles, |role| text(role.code())));
    (!fields.is_empty()).then(|| entry("ipv6", Tree::Map(fields)))
}

/// None where it names no member, which is the default.
fn cluster(cluster: &Cluster) -> Option<Entry> {
    let mut entries = Vec::new();
    entries.extend(filled("networks", &cluster.networks, network));
    entries.extend(interface(cluster.interface.as_ref()));
    entries.extend(filled("members", &cluster.members, network));
    entries.extend(filled("protocols", &cluster.protocols, protocol));
    if !cluster.names_nobody() || cluster.trust == Trust::Strict {
        entries.push(entry(
            "trust",
            text(match cluster.trust {
                Trust::Full => "full",
                Trust::Strict => "strict",
            }),
        ));
    }
    let roles = cluster.roles.iter();
    let roles = roles.map(|(role, change)| entry(role.code(), cluster_override(change)));
    entries.extend(mapping("roles", roles.collect()));
    let nodes = cluster.nodes.iter();
    let nodes = nodes.map(|(node, change)| entry(node.as_str(), cluster_override(change)));
    entries.extend(mapping("nodes", nodes.collect()));
    mapping("cluster", entries)
}

fn cluster_override(change: &ClusterOverride) -> Tree {
    let protocols = change.protocols.as_ref();
    let protocols = protocols.map(|all| entry("protocols", list(all, protocol)));
    let interface = interface(change.interface.as_ref());
    Tree::Map(interface.into_iter().chain(protocols).collect())
}

fn interface(interface: Option<&Interface>) -> Option<Entry> {
    interface.map(|interface| entry("interface", text(interface.as_str())))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "lists pass references to their entries"
)]
fn protocol(protocol: &IpProtocol) -> Tree {
    Tree::Text(protocol.to_string())
}

/// A mapping, if there is anything in it.
fn mapping(name: &str, entries: Vec<Entry>) -> Option<Entry> {
    (!entries.is_empty()).then(|| entry(name, Tree::Map(entries)))
}

fn rollout(rollout: &Rollout) -> Tree {
    let confirm_within = written_duration(rollout.confirm_within_ms);
    let confirm_within = entry("confirm_within", Tree::Text(confirm_within));
    if rollout.is_at_once() {
        return Tree::Map(vec![confirm_within]);
    }
    let mut entries = vec![
        entry("canary", Tree::Number(rollout.canary)),
        entry(
            "batch",
            match rollout.batch {
                Batch::Count(count) => Tree::Number(count),
                Batch::Percent(percent) => Tree::Text(format!("{percent}%")),
            },
        ),
        entry("max_failures", Tree::Number(rollout.max_failures)),
    ];
    if rollout.pause_ms > 0 {
        let pause = written_duration(rollout.pause_ms);
        entries.push(entry("pause", Tree::Text(pause)));
    }
    if rollout.on_failure == OnFailure::Rollback {
        entries.push(entry("on_failure", text("rollback")));
    }
    entries.push(confirm_within);
    Tree::Map(entries)
}

/// A list, if there is anything in it.
fn filled<T>(name: &str, items: &[T], one: impl Fn(&T) -> Tree) -> Option<Entry> {
    (!items.is_empty()).then(|| entry(name, list(items, one)))
}

fn service(change: &ServiceOverride) -> Tree {
    let mut entries = Vec::new();
    if let Some(from) = &change.from {
        entries.push(entry("from", list(from, word)));
    }
    if let Some(ports) = &change.ports {
        entries.push(entry("ports", list(ports, |range| port_range(*range))));
    }
    if let Some(proto) = &change.proto {
        entries.push(entry("proto", list(proto, |proto| transport(*proto))));
    }
    if let Some(limit) = &change.limit {
        entries.push(entry("limit", rate(limit)));
    }
    if change.notrack {
        entries.push(entry("notrack", Tree::Flag(true)));
    }
    if change.dangerous {
        entries.push(entry("dangerous", Tree::Flag(true)));
    }
    Tree::Map(entries)
}

fn rule(rule: &CustomRule) -> Tree {
    let mut accept = match &rule.traffic {
        Traffic::Ports(proto, ports) => vec![
            entry("proto", transport(*proto)),
            entry("ports", list(ports, |range| port_range(*range))),
        ],
        Traffic::Protocol(other) => vec![entry("proto", protocol(other))],
        Traffic::Any => vec![entry("proto", text("any"))],
    };
    accept.push(entry("from", list(&rule.from, word)));
    accept.extend(interface(rule.interface.as_ref()));
    accept.extend(filled("roles", &rule.roles, |role| text(role.code())));
    let mut entries = vec![
        entry("name", text(&rule.name)),
        entry("accept", Tree::Map(accept)),
    ];
    if rule.dangerous {
        entries.push(entry("dangerous", Tree::Flag(true)));
    }
    Tree::Map(entries)
}

fn probe(probe: &Probe) -> Tree {
    Tree::Map(vec![
        entry("name", text(probe.name.as_str())),
        entry(probe.check.kind(), Tree::Text(probe.check.target())),
    ])
}

fn test(test: &PolicyTest) -> Tree {
    let mut to = vec![entry("role", text(test.role.code()))];
    match test.packet {
        TestPacket::Port(proto, port) => {
            to.push(entry("proto", transport(proto)));
            to.push(entry("port", Tree::Number(port.into())));
        }
        TestPacket::Protocol(other) => to.push(entry("proto", protocol(&other))),
    }
    to.extend(interface(test.interface.as_ref()));
    Tree::Map(vec![
        entry("name", text(&test.name)),
        entry("from", Tree::Text(test.from.to_string())),
        entry("to", Tree::Map(to)),
        entry("expect", text(if test.accept { "accept" } else { "drop" })),
    ])
}

fn tenant_networks(tenant: &Tenant) -> Entry {
    let none = Dated::default();
    let networks = tenant.networks.iter().map(|(name, networks)| {
        let hosts = tenant.names.get(name).map_or(&[][..], Vec::as_slice);
        let dated = tenant.dated.get(name).unwrap_or(&none);
        entry(name, peers(networks, dated, hosts))
    });
    entry("networks", Tree::Map(networks.collect()))
}

/// Networks, those with dates, and behind them DNS names.
fn peers(networks: &[IpNet], dated: &Dated, names: &[DnsName]) -> Tree {
    let mut with_dates = dates(dated);
    with_dates.sort_unstable();
    let names = names.iter().map(|name| text(name.as_str()));
    let networks = networks.iter().map(network);
    let with_dates = with_dates.into_iter().map(dated_network);
    Tree::List(networks.chain(with_dates).chain(names).collect())
}

/// A network with its beginning and its end.
type WithDates = (IpNet, Option<Until>, Option<Until>);

fn dates(dated: &Dated) -> Vec<WithDates> {
    let ending = dated.expiring.iter();
    let ending = ending.map(|one| (one.net, None, Some(one.until)));
    let beginning = dated.scheduled.iter();
    let beginning = beginning.map(|one| (one.net, Some(one.from), one.until));
    ending.chain(beginning).collect()
}

fn dated_network((net, from, until): WithDates) -> Tree {
    if from.is_none() && until.is_none() {
        return network(&net);
    }
    let time =
        |name, time: Option<Until>| time.map(|time| entry(name, Tree::Text(time.to_string())));
    let mut fields = vec![entry("address", network(&net))];
    fields.extend(time("from", from));
    fields.extend(time("until", until));
    Tree::Map(fields)
}

fn provider_networks(provider: &Provider, entries: &mut Vec<Entry>) {
    let Provider {
        signalling, media, ..
    } = provider;
    for (field, networks, dated, names) in [
        (
            "signalling",
            signalling,
            &provider.signalling_dated,
            &provider.signalling_names,
        ),
        ("media", media, &provider.media_dated, &provider.media_names),
    ] {
        if !networks.is_empty() || !dated.is_empty() || !names.is_empty() {
            entries.push(entry(field, peers(networks, dated, names)));
        }
    }
}

fn list_fields(list: &List, entries: &mut Vec<Entry>) {
    if list.feed.is_none() || list.nets().next().is_some() {
        entries.push(list_addresses(list));
    }
    let Some(feed) = &list.feed else {
        return;
    };
    entries.push(match &feed.source {
        FeedSource::Url(url) => entry("url", text(url.as_str())),
        FeedSource::File(file) => entry("file", text(file.as_str())),
    });
    entries.push(entry(
        "refresh",
        Tree::Text(written_duration(feed.refresh_ms)),
    ));
    entries.push(entry("max_entries", Tree::Number(feed.max_entries)));
}

/// In the order of the addresses, whether they end or not.
fn list_addresses(addresses: &List) -> Entry {
    let lasting = addresses.addresses.iter().map(|net| (*net, None, None));
    let mut entries: Vec<WithDates> = lasting.chain(dates(&addresses.dated)).collect();
    entries.sort_unstable();
    entry("addresses", list(&entries, |one| dated_network(*one)))
}

fn network(net: &IpNet) -> Tree {
    Tree::Text(written(net))
}

fn transport(transport: Transport) -> Tree {
    text(match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    })
}

fn port_range(range: PortRange) -> Tree {
    if range.first == range.last {
        Tree::Number(range.first.into())
    } else {
        Tree::Text(range.to_string())
    }
}

fn rate(rate: &Rate) -> Tree {
    let unit = match rate.unit {
        RateUnit::Second => 's',
        RateUnit::Minute => 'm',
        RateUnit::Hour => 'h',
    };
    Tree::Map(vec![
        entry("per_source", Tree::Text(format!("{}/{unit}", rate.count))),
        entry("burst", Tree::Number(rate.burst)),
    ])
}

fn word(word: &AddressWord) -> Tree {
    Tree::Text(word.to_string())
}

impl std::fmt::Display for AddressWord {
    /// As documents write it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AddressWord::World => f.pad("world"),
            AddressWord::Clients => f.pad("clients"),
            AddressWord::Providers => f.pad("providers"),
            AddressWord::Tenants => f.pad("tenants"),
            AddressWord::Admins => f.pad("admins"),
            AddressWord::Cluster => f.pad("cluster"),
            AddressWord::Local => f.pad("local"),
            AddressWord::Tenant(name) => f.pad(&format!("tenant:{name}")),
            AddressWord::Provider(name) => f.pad(&format!("provider:{name}")),
            AddressWord::List(name) => f.pad(&format!("list:{name}")),
            AddressWord::Net(net) => f.pad(&written(net)),
        }
    }
}
