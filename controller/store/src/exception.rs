//! Which addresses an operator's exception is about: their keys and their records name it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::{InvalidName, SiteName};

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
}
