//! The four kinds of documents, typed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::{ListName, NodeName, ProviderName, SiteName, TenantName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    DnsName, Expiring, Interface, Mode, PortRange, Probe, Rate, Scheduled, distinct,
};

use super::cluster::Cluster;
use super::feed::Feed;
use super::traffic::{TestPacket, Traffic, Transport};

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A site and its policy.
    Site(Box<Site>),
    /// A customer and its networks.
    Tenant(Tenant),
    /// A carrier and its networks.
    Provider(Provider),
    /// A list of addresses.
    List(List),
}

/// Every document of an installation, by kind and name: the input of a compile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// Sites.
    pub sites: BTreeMap<SiteName, Site>,
    /// Tenants.
    pub tenants: BTreeMap<TenantName, Tenant>,
    /// Providers.
    pub providers: BTreeMap<ProviderName, Provider>,
    /// Lists.
    pub lists: BTreeMap<ListName, List>,
}

/// One VoipNow infrastructure and its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// The customers that it serves.
    pub tenants: Vec<TenantName>,
    /// The carriers that it uses.
    pub providers: Vec<ProviderName>,
    /// Who may use SSH everywhere, and the web interface of the controller role; never empty.
    pub admins: Vec<AddressWord>,
    /// How its nodes reach each other.
    pub cluster: Cluster,
    /// Which nodes have no IPv6.
    pub ipv6: Ipv6,
    /// Enforce or observe.
    pub mode: Mode,
    /// What happens to a packet that no rule accepts.
    pub default: DefaultVerdict,
    /// Changes to the catalogue's defaults, by service.
    pub services: BTreeMap<String, ServiceOverride>,
    /// Openings beyond the catalogue.
    pub rules: Vec<CustomRule>,
    /// Sources that reach nothing, established or not.
    pub deny: Vec<AddressWord>,
    /// What must still be reachable from a node after a push.
    pub probes: Vec<Probe>,
    /// How a push goes through the nodes.
    pub rollout: Rollout,
    /// Packets with the verdict that the policy must give.
    pub tests: Vec<PolicyTest>,
}

/// Which nodes of a site have no IPv6: only IPv4 is filtered there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipv6 {
    /// All of them.
    None,
    /// Those with one of these names or roles; none, where both are empty.
    NoneOn {
        /// Ascending.
        nodes: BTreeSet<NodeName>,
        /// Ascending.
        roles: BTreeSet<Role>,
    },
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self::NoneOn {
            nodes: BTreeSet::new(),
            roles: BTreeSet::new(),
        }
    }
}

impl Ipv6 {
    /// Whether a node has no IPv6.
    pub fn is_none_on(&self, node: &NodeName, its: &BTreeSet<Role>) -> bool {
        match self {
            Self::None => true,
            Self::NoneOn { nodes, roles } => nodes.contains(node) || !roles.is_disjoint(its),
        }
    }
}

/// What happens to a packet that no rule accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultVerdict {
    /// It is dropped.
    Drop,
    /// It is answered with port unreachable.
    Reject,
}

/// Whom an opening is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressWord {
    /// `world`: any source that is not denied.
    World,
    /// `clients`: the site's tenants and providers.
    Clients,
    /// `providers`: the site's providers.
    Providers,
    /// `tenants`: the site's tenants.
    Tenants,
    /// `admins`: the site's admins.
    Admins,
    /// `cluster`: the site's nodes.
    Cluster,
    /// `local`: the node itself.
    Local,
    /// `tenant:NAME`.
    Tenant(TenantName),
    /// `provider:NAME`.
    Provider(ProviderName),
    /// `list:NAME`.
    List(ListName),
    /// An address or prefix, host bits cleared.
    Net(IpNet),
}

/// What a site changes of a service; absent fields keep the catalogue's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceOverride {
    /// Who may reach it; empty closes it.
    pub from: Option<Vec<AddressWord>>,
    /// Its ports.
    pub ports: Option<Vec<PortRange>>,
    /// Its transports.
    pub proto: Option<Vec<Transport>>,
    /// Packets a source may send; sources in `clients`, `admins` and `cluster` are not limited.
    /// Written `{per_source: 20/s, burst: 60}`.
    pub limit: Option<Rate>,
    /// Keep its packets out of connection tracking.
    pub notrack: bool,
    /// The operator accepts the risk of opening it to the world.
    pub dangerous: bool,
}

/// An opening beyond the catalogue: `{name, accept: {proto, ports, from, interface, roles}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRule {
    /// Its name, unique in the site; the rule's label is `rule:<name>`.
    pub name: String,
    /// What it lets through.
    pub traffic: Traffic,
    /// Who may reach it; never empty.
    pub from: Vec<AddressWord>,
    /// The interface by which its packets come; `None`: any.
    pub interface: Option<Interface>,
    /// On nodes of which role; empty: every node.
    pub roles: Vec<Role>,
    /// The operator accepts the risk of opening it to the world.
    pub dangerous: bool,
}

/// How a push goes through the nodes of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Nodes that go first, alone.
    pub canary: u32,
    /// Nodes at a time after that.
    pub batch: Batch,
    /// Failures that are still no reason to stop.
    pub max_failures: u32,
    /// How long is waited between two batches, milliseconds.
    pub pause_ms: u64,
    /// What happens when there were more failures.
    pub on_failure: OnFailure,
    /// How long a node has to prove that it is still reachable, milliseconds.
    pub confirm_within_ms: u64,
}

/// What becomes of a push with too many failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It stops where it is, and waits for an operator.
    Halt,
    /// The nodes that have it go back.
    Rollback,
}

/// A number of nodes, or a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Batch {
    /// So many nodes, 1 or more.
    Count(u32),
    /// So many percent of the nodes, 1 to 100.
    Percent(u8),
}

/// A packet and the verdict that the policy must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// The source address.
    pub from: IpAddr,
    /// A role whose nodes receive it.
    pub role: Role,
    /// What it is.
    pub packet: TestPacket,
    /// The interface by which it comes; `None`: for a member of the cluster the cluster's, else
    /// one that no rule names.
    pub interface: Option<Interface>,
    /// Whether it must get through.
    pub accept: bool,
}

/// A customer and its networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its networks, by a name of the operator's choice.
    pub networks: BTreeMap<String, Vec<IpNet>>,
    /// DNS names of its networks, by network; no entry is empty.
    pub names: BTreeMap<String, Vec<DnsName>>,
    /// Its networks that end or begin, by network; no entry is empty.
    pub dated: BTreeMap<String, Dated>,
}

/// Networks that are valid for a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dated {
    /// Those that are valid until their end, ascending.
    pub expiring: Vec<Expiring>,
    /// Those that are valid from their beginning, ascending.
    pub scheduled: Vec<Scheduled>,
}

impl Dated {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.expiring.is_empty() && self.scheduled.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.expiring.len() + self.scheduled.len()
    }

    /// All of them, whatever their time.
    pub fn nets(&self) -> impl Iterator<Item = &IpNet> {
        let ending = self.expiring.iter().map(|one| &one.net);
        ending.chain(self.scheduled.iter().map(|one| &one.net))
    }

    /// Ascending, each once, and none that `lasting` (ascending) holds for ever.
    pub(super) fn settle(&mut self, lasting: &[IpNet]) {
        self.expiring = distinct(std::mem::take(&mut self.expiring), lasting);
        self.scheduled
            .retain(|one| lasting.binary_search(&one.net).is_err());
        self.scheduled.sort_unstable();
        self.scheduled.dedup();
    }
}

/// A SIP trunk carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name.
    pub name: ProviderName,
    /// Where its signalling comes from.
    pub signalling: Vec<IpNet>,
    /// Where its media comes from.
    pub media: Vec<IpNet>,
    /// DNS names of hosts where its signalling comes from.
    pub signalling_names: Vec<DnsName>,
    /// DNS names of hosts where its media comes from.
    pub media_names: Vec<DnsName>,
    /// Networks of its signalling that end or begin.
    pub signalling_dated: Dated,
    /// Networks of its media that end or begin.
    pub media_dated: Dated,
}

/// A named list of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Its name.
    pub name: ListName,
    /// Its addresses that stay, ascending and distinct.
    pub addresses: Vec<IpNet>,
    /// Its addresses that end or begin, none of `addresses`.
    pub dated: Dated,
    /// Where the controller fetches more; `None`: these are all.
    pub feed: Option<Feed>,
}

impl List {
    /// All addresses that it names itself.
    pub fn nets(&self) -> impl Iterator<Item = &IpNet> {
        self.addresses.iter().chain(self.dated.nets())
    }

    /// Takes more addresses. One that is here twice stays if it does so once, and else until
    /// the later end.
    pub(super) fn extend(&mut self, addresses: impl IntoIterator<Item = IpNet>, dated: Dated) {
        self.addresses.extend(addresses);
        self.addresses.sort_unstable();
        self.addresses.dedup();
        self.dated.expiring.extend(dated.expiring);
        self.dated.scheduled.extend(dated.scheduled);
        self.dated.settle(&self.addresses);
    }
}
