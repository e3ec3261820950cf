//! A node whose clock is not the controller's.

use jiff::SignedDuration;
use voipfleet_proto::v1;

use crate::format::span;

/// A clock that is further off is worth a warning, milliseconds.
const TOLERATED_MS: u64 = 5000;

/// `the clock is 2h ahead of the controller's; …`; none where it is right, or not known.
pub fn warning(node: &v1::NodeReport) -> Option<String> {
    let skew_ms = node.clock_skew_ms?;
    if skew_ms.unsigned_abs() <= TOLERATED_MS {
        return None;
    }
    let by = span(SignedDuration::from_millis(skew_ms).abs());
    let side = if skew_ms > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "the clock is {by} {side} the controller's; check time synchronization on both"
    ))
}
