//! What operators decide between pushes: addresses that are blocked or allowed, sites that are
//! open.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::{InvalidName, SiteName};
use voipfleet_ruleset::ruleset::Until;

/// The word for every site in a key; no site can have this name.
const ALL: &str = "_all";

/// One site, or every one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SiteScope {
    /// Every site, those that come later among them.
    All,
    /// This one.
    One(SiteName),
}

impl SiteScope {
    /// Whether it holds in a site.
    pub fn covers(&self, site: &SiteName) -> bool {
        match self {
            SiteScope::All => true,
            SiteScope::One(one) => one == site,
        }
    }
}

impl fmt::Display for SiteScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SiteScope::All => f.pad(ALL),
            SiteScope::One(site) => site.fmt(f),
        }
    }
}

impl FromStr for SiteScope {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == ALL {
            Ok(SiteScope::All)
        } else {
            text.parse().map(SiteScope::One)
        }
    }
}

impl TryFrom<String> for SiteScope {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SiteScope> for String {
    fn from(scope: SiteScope) -> Self {
        scope.to_string()
    }
}

/// What an exception means for its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExceptionKind {
    /// It reaches nothing.
    Block,
    /// It reaches what clients reach.
    Allow,
}

impl ExceptionKind {
    /// Both.
    pub const ALL: [ExceptionKind; 2] = [ExceptionKind::Block, ExceptionKind::Allow];

    /// The word in its key.
    pub fn word(self) -> &'static str {
        match self {
            ExceptionKind::Block => "block",
            ExceptionKind::Allow => "allow",
        }
    }
}

/// An address that an operator blocked or allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionRecord {
    /// The prefix, host bits zero.
    pub net: IpNet,
    /// Where it holds.
    pub scope: SiteScope,
    /// When it was said, Unix time.
    pub at_ms: u64,
    /// When it ends, Unix time in seconds; none: it stays.
    pub until: Option<u64>,
    /// The operator.
    pub by: String,
    /// Why.
    pub reason: String,
    /// It hits somebody whom the site serves, and that is meant.
    #[serde(default)]
    pub forced: bool,
}

/// A site that lets everybody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {
    /// When it was opened, Unix time.
    pub at_ms: u64,
    /// When that ends, Unix time in seconds; none: when it is closed.
    pub until: Option<u64>,
    /// The operator.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Whether an end, Unix time in seconds, is over at `now_ms`.
pub fn is_over(until: Option<u64>, now_ms: u64) -> bool {
    until.is_some_and(|until| until <= now_ms / 1000)
}

impl ExceptionRecord {
    /// When it ends; none: it stays.
    pub fn end(&self) -> Option<Until> {
        self.until.and_then(Until::from_unix)
    }
}

impl OpenRecord {
    /// When it ends; none: it stays.
    pub fn end(&self) -> Option<Until> {
        self.until.and_then(Until::from_unix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_is_no_site() {
        assert!(ALL.parse::<SiteName>().is_err());
        for scope in [SiteScope::All, SiteScope::One("site-a".parse().unwrap())] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
    }

    #[test]
    fn an_end_is_over_in_its_own_second() {
        for (until, now_ms, over) in [
            (Some(10), 9_999, false),
            (Some(10), 10_000, true),
            (None, u64::MAX, false),
        ] {
            assert_eq!(is_over(until, now_ms), over, "{until:?} at {now_ms}");
        }
    }
}
