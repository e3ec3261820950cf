//! What operators decide between pushes: addresses that are blocked or allowed, sites that are
//! open.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use voipfleet_ruleset::ruleset::Until;

use crate::exception::SiteScope;

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
