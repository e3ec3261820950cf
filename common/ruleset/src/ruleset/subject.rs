//! Which part of a policy a rule enforces, and whose addresses a set holds. The kernel holds
//! texts made from these; nothing reads the texts back.

use std::fmt;

use crate::identifiers::{ListName, ProviderName, TenantName};

/// Which part of a policy a rule enforces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSubject {
    /// Members of the cluster.
    Cluster,
    /// Addresses that operators block for a while.
    Block,
    /// Addresses that operators block for a while although the site serves them.
    BlockForced,
    /// Addresses that operators let in for a while.
    Open,
    /// What the site's `deny` names by hand, and the jump to the chain of all that is denied.
    Deny,
    /// A list that the site denies.
    DenyList(ListName),
    /// Sources that no deny set applies to.
    DenyExempt,
    /// Established and related connections.
    Established,
    /// Packets that connection tracking calls invalid.
    Invalid,
    /// A service of the catalogue, by its name.
    Service(String),
    /// One of the site's `rules`, by its name.
    Custom(String),
    /// The limit of a service.
    Limit(String),
    /// Sources that no limit applies to.
    LimitExempt,
    /// The log of what the default verdict refuses.
    Log,
    /// In `mode: observe`, the log of what the next rule would drop.
    WouldDrop,
    /// In `mode: observe`, the log of sources above their limit.
    OverLimit,
    /// The default verdict.
    Default,
    /// The agent's own rules while a node has no ruleset to run.
    Management,
}

/// The start of the rule's label: `sip`, `rule:monitoring`, `deny:list:voipbl`.
impl fmt::Display for RuleSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Block => f.write_str("block"),
            Self::BlockForced => f.write_str("block:forced"),
            Self::Open => f.write_str("open"),
            Self::Deny => f.write_str("deny"),
            Self::DenyList(name) => write!(f, "deny:list:{name}"),
            Self::DenyExempt => f.write_str("deny:exempt"),
            Self::Established => f.write_str("established"),
            Self::Invalid => f.write_str("invalid"),
            Self::Service(name) => f.write_str(name),
            Self::Custom(name) => write!(f, "rule:{name}"),
            Self::Limit(name) => write!(f, "limit:{name}"),
            Self::LimitExempt => f.write_str("limit:exempt"),
            Self::Log => f.write_str("log"),
            Self::WouldDrop => f.write_str("would-drop"),
            Self::OverLimit => f.write_str("observed"),
            Self::Default => f.write_str("default"),
            Self::Management => f.write_str("management"),
        }
    }
}

/// Which of a provider's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProviderPart {
    /// Where its signalling comes from.
    Signalling,
    /// Where its media comes from.
    Media,
}

impl ProviderPart {
    /// Both, in the order of documents.
    pub const BOTH: [Self; 2] = [Self::Signalling, Self::Media];

    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signalling => "signalling",
            Self::Media => "media",
        }
    }
}

/// Whose addresses a set holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetOwner {
    /// All tenants and providers of the site, and addresses that operators let in as clients.
    Clients(ProviderPart),
    /// All tenants of the site.
    Tenants,
    /// All providers of the site.
    Providers(ProviderPart),
    /// The site's admins.
    Admins,
    /// The site's nodes.
    Cluster,
    /// One tenant.
    Tenant(TenantName),
    /// One provider.
    Provider(ProviderName, ProviderPart),
    /// A list to which something is opened.
    List(ListName),
    /// Addresses written into a service's `from`.
    Service(String),
    /// Addresses written into the `from` of one of the site's `rules`.
    Custom(String),
    /// What the site's `deny` names by hand.
    Deny,
    /// A list that the site denies.
    DenyList(ListName),
    /// Addresses that operators block for a while.
    Block,
    /// Addresses that operators block for a while although the site serves them.
    BlockForced,
    /// Addresses that operators let in for a while.
    Open,
}

/// As documents write it: `clients`, `tenant:acme`, `services.sip.from`.
impl fmt::Display for SetOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(_) => f.write_str("clients"),
            Self::Tenants => f.write_str("tenants"),
            Self::Providers(_) => f.write_str("providers"),
            Self::Admins => f.write_str("admins"),
            Self::Cluster => f.write_str("cluster"),
            Self::Tenant(name) => write!(f, "tenant:{name}"),
            Self::Provider(name, _) => write!(f, "provider:{name}"),
            Self::List(name) | Self::DenyList(name) => write!(f, "list:{name}"),
            Self::Service(name) => write!(f, "services.{name}.from"),
            Self::Custom(name) => write!(f, "rules.{name}.from"),
            Self::Deny => f.write_str("deny"),
            Self::Block => f.write_str("block"),
            Self::BlockForced => f.write_str("forced blocks"),
            Self::Open => f.write_str("open"),
        }
    }
}
