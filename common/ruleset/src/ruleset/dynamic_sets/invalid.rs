//! What dynamic sets must not be.

use crate::ruleset::check::InvalidRuleset;

/// The longest encoded dynamic sets that either side takes: room for about 2 million prefixes.
pub const MAX_DYNAMIC_SETS_BYTES: usize = 64 << 20;
/// The most sources of a site.
pub const MAX_DYNAMIC_SETS: usize = 4096;
/// Bytes or a delta that are no dynamic sets that we would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not valid dynamic sets: {0}")]
pub struct InvalidDynamicSets(String);

impl InvalidDynamicSets {
    pub(in crate::ruleset) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<InvalidRuleset> for InvalidDynamicSets {
    fn from(error: InvalidRuleset) -> Self {
        Self(error.into_reason())
    }
}
