//! Bounds that controllers and agents share: what one side sends, the other must accept.

use std::time::Duration;

pub use voipfleet_ruleset::ruleset::dynamic_sets::{MAX_DYNAMIC_SETS, MAX_DYNAMIC_SETS_BYTES};
pub use voipfleet_ruleset::ruleset::{MAX_PROBES, MAX_RULESET_BYTES};

/// The longest trial, whatever an offer asks for: every trial ends.
pub const MAX_CONFIRM_WITHIN: Duration = Duration::from_hours(1);
/// A trial's length where the offer names none.
pub const DEFAULT_CONFIRM_WITHIN: Duration = Duration::from_secs(30);

/// The largest chunk of a ruleset or of dynamic sets.
pub const MAX_CHUNK_BYTES: usize = 256 << 10;
/// The largest message from an agent.
pub const MAX_AGENT_MESSAGE_BYTES: usize = 256 << 10;
/// The largest message from a controller: a chunk fits.
pub const MAX_CONTROLLER_MESSAGE_BYTES: usize = 512 << 10;

/// The longest drift record: an act with the first of its differences.
pub const MAX_ACT_BYTES: usize = 64 << 10;
/// Differences of one drift record.
pub const MAX_ACT_DIFFERENCES: usize = 128;
/// Drift records of one report.
pub const MAX_REPORTED_RECORDS: usize = 1000;
/// Sets of one status that lack elements.
pub const MAX_SHORT_SETS: usize = 32;

const _: () = assert!(MAX_CHUNK_BYTES * 2 <= MAX_CONTROLLER_MESSAGE_BYTES);
