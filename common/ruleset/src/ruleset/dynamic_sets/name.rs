//! What dynamic sets are called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::identifiers::ListName;
use crate::ruleset::{HostName, Interface, InvalidToken};

/// A dynamic set: where addresses come from that change between pushes. Its text is its name on
/// the wire and in records; names sort as their texts do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DynamicSetName {
    /// `allow`: what operators let in for a while, as if it were a client's.
    Allow,
    /// `block`: what operators block.
    Block,
    /// `block-forced`: what operators block although the site serves it.
    BlockForced,
    /// `cluster` or `cluster:IFACE`: the addresses of the site's nodes that others can reach; with
    /// an interface those on it.
    Cluster(Option<Interface>),
    /// `deny-feed:LIST`: a feed without what a site must not deny.
    DenyFeed(ListName),
    /// `feed:LIST`: the entries that a list is fetched with, without private ranges.
    Feed(ListName),
    /// `name:HOST`: the addresses of a DNS name.
    Name(DnsName),
    /// `open`: the world, while an emergency has the site open.
    Open,
}

/// The most bytes of a name: `name:` and the longest DNS name.
pub(in crate::ruleset) const MAX_DYNAMIC_SET_NAME: usize = 5 + 253;

fn invalid(text: &str) -> InvalidToken {
    InvalidToken {
        what: "dynamic set: allow, block, block-forced, open, cluster, cluster:IFACE, name:HOST, feed:LIST or \
               deny-feed:LIST",
        text: text.chars().take(80).collect(),
    }
}

impl FromStr for DynamicSetName {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        let list = |name: &str| name.parse::<ListName>().map_err(|_| invalid(text));
        Ok(match (kind, name) {
            ("allow", None) => Self::Allow,
            ("block", None) => Self::Block,
            ("block-forced", None) => Self::BlockForced,
            ("open", None) => Self::Open,
            ("cluster", None) => Self::Cluster(None),
            ("cluster", Some(name)) => Self::Cluster(Some(name.parse()?)),
            ("name", Some(name)) => Self::Name(name.parse()?),
            ("feed", Some(name)) => Self::Feed(list(name)?),
            ("deny-feed", Some(name)) => Self::DenyFeed(list(name)?),
            _ => return Err(invalid(text)),
        })
    }
}

impl fmt::Display for DynamicSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Block => f.write_str("block"),
            Self::BlockForced => f.write_str("block-forced"),
            Self::Cluster(None) => f.write_str("cluster"),
            Self::Cluster(Some(interface)) => write!(f, "cluster:{interface}"),
            Self::DenyFeed(list) => write!(f, "deny-feed:{list}"),
            Self::Feed(list) => write!(f, "feed:{list}"),
            Self::Name(host) => write!(f, "name:{host}"),
            Self::Open => f.write_str("open"),
        }
    }
}

impl TryFrom<String> for DynamicSetName {
    type Error = InvalidToken;

    fn try_from(text: String) -> Result<Self, InvalidToken> {
        text.parse()
    }
}

impl From<DynamicSetName> for String {
    fn from(name: DynamicSetName) -> Self {
        name.to_string()
    }
}

/// A DNS name whose addresses a policy means: lower case, of two labels or more, the last of two
/// letters or more. An address with a slip of the pen (`10.0.0.x`) is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name in letters of any case, with or without the final dot.
    pub fn written(text: &str) -> Result<Self, InvalidToken> {
        text.strip_suffix('.')
            .unwrap_or(text)
            .to_ascii_lowercase()
            .parse()
    }
}

impl FromStr for DnsName {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let qualified = text.rsplit_once('.').is_some_and(|(labels, last)| {
            last.len() > 1
                && last.starts_with(|first: char| first.is_ascii_alphabetic())
                && !labels.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        });
        if lower && qualified && text.parse::<HostName>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidToken {
                what: "DNS name of two labels or more",
                text: text.chars().take(80).collect(),
            })
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for DnsName {
    type Error = InvalidToken;

    fn try_from(text: String) -> Result<Self, InvalidToken> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}
