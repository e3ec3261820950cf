//! The fields of the documents: one table that drives both the parser and the JSON schema.

use super::feed::Feed;
use crate::Kind;

/// A mapping and the fields that it may have.
#[derive(Debug)]
pub(super) struct Table {
    /// What it is, with its article, for messages: "a site".
    pub(super) what: &'static str,
    /// Its fields, in canonical order.
    pub(super) fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) shape: Shape,
    /// Its description in the JSON schema.
    pub(super) about: &'static str,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Shape {
    /// The document's kind.
    Kind,
    /// A name: 1 to 63 of `a-z 0-9 - _ .`.
    Name,
    /// A list of names, or one.
    Names,
    /// A short text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count { least: u32, most: u32 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of these words, or one.
    Choices(&'static [&'static str]),
    /// A text of a form.
    Pattern(&'static str),
    /// An IP address.
    Address,
    /// A list of addresses and prefixes, alone or as mappings of this table, and DNS names, or one.
    Peers(&'static Table),
    /// A list of addresses and prefixes, or one.
    Networks,
    /// A list of texts of a form, or one.
    Patterns(&'static str),
    /// An address or prefix.
    Network,
    /// A list of addresses and prefixes, alone or as mappings of this table, or one.
    Entries(&'static Table),
    /// A moment: RFC 3339 in UTC, whole seconds.
    Time,
    /// A list of address words, or one.
    AddressWords,
    /// A port, a range, or a list of them.
    Ports,
    /// A mapping.
    Mapping(&'static Table),
    /// A list of mappings.
    Mappings(&'static Table),
    /// A mapping from these words to mappings.
    MappingByWord(&'static [&'static str], &'static Table),
    /// A mapping from names to mappings.
    MappingByName(&'static Table),
    /// A mapping from names to lists as those of `Peers`.
    PeersByName(&'static Table),
    /// `none`, or a mapping of this table.
    NoneOrMapping(&'static Table),
}

const fn field(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field {
        name,
        required: false,
        shape,
        about,
    }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field {
        name,
        required: true,
        shape,
        about,
    }
}

pub(super) const ROLES: &[&str] = &[
    "sip", "pbx", "http", "ic", "wk", "que", "sql", "dd", "es", "jabber",
];
pub(super) const MODES: &[&str] = &["enforce", "observe"];
pub(super) const DEFAULTS: &[&str] = &["drop", "reject"];
pub(super) const TRUSTS: &[&str] = &["full", "strict"];
pub(super) const TRANSPORTS: &[&str] = &["tcp", "udp"];
pub(super) const ON_FAILURE: &[&str] = &["halt", "rollback"];
pub(super) const EXPECTATIONS: &[&str] = &["accept", "drop"];
/// The address words without a name.
pub(super) const WORDS: &[&str] = &[
    "world",
    "clients",
    "providers",
    "tenants",
    "admins",
    "cluster",
    "local",
];

const DURATION: &str = "^[0-9]+(ms|s|m|h|d|w)$";
const RATE: &str = "^[0-9]+/(s|m|h)$";
const INTERFACE: &str = "^[A-Za-z0-9_.:][A-Za-z0-9_.:-]{0,14}$";
const IP_PROTOCOL: &str = "^([a-z][a-z0-9.-]*|[0-9]{1,3})$";
const PROTO: &str = "^(tcp|udp|any|[a-z][a-z0-9.-]*|[0-9]{1,3})$";
const TARGET: &str = "^.+:[0-9]+$";

pub(super) static SITE: Table = Table {
    what: "a site",
    fields: &[
        required("kind", Shape::Kind, "Site"),
        required("name", Shape::Name, "the site's name"),
        field("tenants", Shape::Names, "the customers that it serves"),
        field("providers", Shape::Names, "the carriers that it uses"),
        required(
            "admins",
            Shape::AddressWords,
            "who may use SSH on every node, and the web interface of the controller role; never \
             empty",
        ),
        field(
            "cluster",
            Shape::Mapping(&CLUSTER),
            "how its nodes reach each other",
        ),
        field(
            "ipv6",
            Shape::NoneOrMapping(&IPV6),
            "`none` where no node has IPv6, or which nodes have none: `{nodes: [sql1], roles: [sql]}`; \
             ip6tables are not run there",
        ),
        field(
            "mode",
            Shape::Choice(MODES),
            "enforce, or observe: count and log what would be dropped",
        ),
        field(
            "default",
            Shape::Choice(DEFAULTS),
            "what happens to a packet that no rule accepts",
        ),
        field(
            "services",
            Shape::MappingByName(&SERVICE),
            "changes to the catalogue's defaults, by service",
        ),
        field(
            "rules",
            Shape::Mappings(&RULE),
            "openings beyond the catalogue",
        ),
        field(
            "deny",
            Shape::AddressWords,
            "sources that reach nothing, established or not",
        ),
        field(
            "probes",
            Shape::Mappings(&PROBE),
            "what must still be reachable from a node after a push",
        ),
        field(
            "rollout",
            Shape::Mapping(&ROLLOUT),
            "how a push goes through the nodes",
        ),
        field(
            "tests",
            Shape::Mappings(&TEST),
            "packets with the verdict that the policy must give",
        ),
    ],
};

pub(super) static CLUSTER: Table = Table {
    what: "cluster",
    fields: &[
        field(
            "networks",
            Shape::Networks,
            "where the addresses of its nodes lie: a node is a member by those that it has inside",
        ),
        field(
            "interface",
            Shape::Pattern(INTERFACE),
            "the private network's interface; without it members come by any interface",
        ),
        field(
            "members",
            Shape::Networks,
            "members that no node reports: addresses behind NAT",
        ),
        field(
            "protocols",
            Shape::Patterns(IP_PROTOCOL),
            "IP protocols between members, on any interface: vrrp, esp, gre, ospf, or a number",
        ),
        field(
            "trust",
            Shape::Choice(TRUSTS),
            "full, or strict: only the services that the catalogue opens to the cluster",
        ),
        field(
            "roles",
            Shape::MappingByWord(ROLES, &CLUSTER_OVERRIDE),
            "what is different on nodes of a role",
        ),
        field(
            "nodes",
            Shape::MappingByName(&CLUSTER_OVERRIDE),
            "what is different on one node; it comes before its roles",
        ),
    ],
};

pub(super) static CLUSTER_OVERRIDE: Table = Table {
    what: "a change of the cluster",
    fields: &[
        field(
            "interface",
            Shape::Pattern(INTERFACE),
            "the private network's interface there",
        ),
        field(
            "protocols",
            Shape::Patterns(IP_PROTOCOL),
            "IP protocols between members there, in place of the site's",
        ),
    ],
};

pub(super) static IPV6: Table = Table {
    what: "ipv6",
    fields: &[
        field("nodes", Shape::Names, "nodes without IPv6"),
        field(
            "roles",
            Shape::Choices(ROLES),
            "roles whose nodes have no IPv6",
        ),
    ],
};

pub(super) static SERVICE: Table = Table {
    what: "a service",
    fields: &[
        field(
            "from",
            Shape::AddressWords,
            "who may reach it; an empty list closes it",
        ),
        field("ports", Shape::Ports, "its ports"),
        field("proto", Shape::Choices(TRANSPORTS), "its transports"),
        field(
            "limit",
            Shape::Mapping(&LIMIT),
            "packets that a source may send; clients, admins and cluster are not limited",
        ),
        field(
            "notrack",
            Shape::Flag,
            "keep its packets out of connection tracking; true is not offered yet",
        ),
        field(
            "dangerous",
            Shape::Flag,
            "the operator accepts the risk of opening it to the world",
        ),
    ],
};

pub(super) static LIMIT: Table = Table {
    what: "a limit",
    fields: &[
        required(
            "per_source",
            Shape::Pattern(RATE),
            "packets in a second, minute or hour",
        ),
        field(
            "burst",
            Shape::Count {
                least: 1,
                most: 10_000,
            },
            "packets at once; as many as per_source counts, if absent",
        ),
    ],
};

pub(super) static RULE: Table = Table {
    what: "a rule",
    fields: &[
        required("name", Shape::Name, "its name, unique in the site"),
        required("accept", Shape::Mapping(&ACCEPT), "what it lets through"),
        field(
            "dangerous",
            Shape::Flag,
            "the operator accepts the risk of opening it to the world",
        ),
    ],
};

pub(super) static ACCEPT: Table = Table {
    what: "accept",
    fields: &[
        required(
            "proto",
            Shape::Pattern(PROTO),
            "its transport; or an IP protocol as a whole: vrrp, esp, gre, ospf, a number; or any, of \
             an interface",
        ),
        field(
            "ports",
            Shape::Ports,
            "its ports, of tcp and udp; never empty",
        ),
        required("from", Shape::AddressWords, "who may reach it; never empty"),
        field(
            "interface",
            Shape::Pattern(INTERFACE),
            "by which its packets come; without it any interface",
        ),
        field(
            "roles",
            Shape::Choices(ROLES),
            "on nodes of which role; without it every node",
        ),
    ],
};

pub(super) static PROBE: Table = Table {
    what: "a probe",
    fields: &[
        required("name", Shape::Name, "its name, unique in the site"),
        field(
            "tcp",
            Shape::Pattern(TARGET),
            "opens a connection to HOST:PORT",
        ),
        field(
            "udp-sip",
            Shape::Pattern(TARGET),
            "sends SIP OPTIONS to HOST:PORT and awaits any answer",
        ),
        field(
            "dns",
            Shape::Pattern(TARGET),
            "asks the resolver at HOST:PORT",
        ),
        field("icmp", Shape::Text, "sends an echo request to a host"),
    ],
};

/// The checks of a probe; exactly one is given.
pub(super) const PROBE_CHECKS: &[&str] = &["tcp", "udp-sip", "dns", "icmp"];

pub(super) static ROLLOUT: Table = Table {
    what: "rollout",
    fields: &[
        field(
            "canary",
            Shape::Count {
                least: 0,
                most: 10_000,
            },
            "nodes that go first, alone",
        ),
        field(
            "batch",
            Shape::Pattern("^[1-9][0-9]*%?$"),
            "nodes at a time after that: a number, or a part of them as 25%",
        ),
        field(
            "max_failures",
            Shape::Count {
                least: 0,
                most: 10_000,
            },
            "failures that are still no reason to stop",
        ),
        field(
            "pause",
            Shape::Pattern(DURATION),
            "how long to wait between two batches",
        ),
        field(
            "on_failure",
            Shape::Choice(ON_FAILURE),
            "after more failures: halt, or rollback of the nodes that have it",
        ),
        field(
            "confirm_within",
            Shape::Pattern(DURATION),
            "how long a node has to prove that it is still reachable",
        ),
    ],
};

pub(super) static TEST: Table = Table {
    what: "a test",
    fields: &[
        required("name", Shape::Text, "its name, unique in the site"),
        required("from", Shape::Address, "the source address"),
        required("to", Shape::Mapping(&TEST_TARGET), "where the packet goes"),
        required(
            "expect",
            Shape::Choice(EXPECTATIONS),
            "the verdict that it must get",
        ),
    ],
};

pub(super) static TEST_TARGET: Table = Table {
    what: "to",
    fields: &[
        required(
            "role",
            Shape::Choice(ROLES),
            "a role whose nodes receive it",
        ),
        required(
            "proto",
            Shape::Pattern(PROTO),
            "the transport, or an IP protocol",
        ),
        field(
            "port",
            Shape::Count {
                least: 1,
                most: 65_535,
            },
            "the destination port, of tcp and udp",
        ),
        field(
            "interface",
            Shape::Pattern(INTERFACE),
            "by which it comes; for members of the cluster the cluster's, if absent",
        ),
    ],
};

pub(super) static TENANT: Table = Table {
    what: "a tenant",
    fields: &[
        required("kind", Shape::Kind, "Tenant"),
        required("name", Shape::Name, "the tenant's name"),
        required(
            "networks",
            Shape::PeersByName(&DATED_NETWORK),
            "its networks, by a name of your choice; DNS names are resolved by the controller; \
             `{address: 203.0.113.0/24, from: 2026-12-01T00:00:00Z}` is one that begins or ends",
        ),
    ],
};

pub(super) static PROVIDER: Table = Table {
    what: "a provider",
    fields: &[
        required("kind", Shape::Kind, "Provider"),
        required("name", Shape::Name, "the provider's name"),
        field(
            "signalling",
            Shape::Peers(&DATED_NETWORK),
            "where its signalling comes from; DNS names are resolved by the controller",
        ),
        field(
            "media",
            Shape::Peers(&DATED_NETWORK),
            "where its media comes from; `{address: 192.0.2.128/25, until: 2026-12-01T00:00:00Z}` is \
             a network that ends, `from` one that begins",
        ),
    ],
};

pub(super) static LIST: Table = Table {
    what: "a list",
    fields: &[
        required("kind", Shape::Kind, "List"),
        required("name", Shape::Name, "the list's name"),
        field(
            "addresses",
            Shape::Entries(&DATED_NETWORK),
            "its addresses; `{address: 198.51.100.7, until: 2026-12-01T00:00:00Z}` is one that \
             ends",
        ),
        field(
            "file",
            Shape::Text,
            "a text file with one address, prefix or range a line, or comma separated values with it \
             first, and # comments, relative to this document's folder; with refresh, a path on the \
             controller's host",
        ),
        field(
            "url",
            Shape::Pattern("^https?://.+$"),
            "where the controller fetches more addresses, one a line",
        ),
        field(
            "refresh",
            Shape::Pattern(DURATION),
            "how often the controller fetches them: 1m to 168h, 1h if absent",
        ),
        field(
            "max_entries",
            Shape::Count {
                least: 1,
                most: Feed::MOST_ENTRIES,
            },
            "more fetched entries than these are not taken; 200000 if absent",
        ),
    ],
};

pub(super) static DATED_NETWORK: Table = Table {
    what: "an address with dates",
    fields: &[
        required("address", Shape::Network, "an address or prefix"),
        field(
            "from",
            Shape::Time,
            "when the nodes add it to their sets by themselves, in UTC; at once, if absent",
        ),
        field(
            "until",
            Shape::Time,
            "when the nodes take it out of their sets by themselves, in UTC",
        ),
    ],
};

impl Table {
    /// The fields of a kind of document.
    pub(super) fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::Site => &SITE,
            Kind::Tenant => &TENANT,
            Kind::Provider => &PROVIDER,
            Kind::List => &LIST,
        }
    }

    /// The field of a name.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}
