//! How far nodes' clocks are from the controller's.

/// A clock that is further off is worth a warning. Messages take some milliseconds, and clocks that
/// are kept right differ by less.
const TOLERATED_MS: u64 = 5000;

/// One node's clock, as its messages show it.
#[derive(Debug, Default)]
pub(super) struct ClockSkew {
    is_off: bool,
}

impl ClockSkew {
    /// How far the node's clock is ahead, milliseconds; none: it was not said. Logs when that
    /// becomes too much, and when it is right again.
    pub(super) fn hear(&mut self, clock_ms: u64, now_ms: u64) -> Option<i64> {
        if clock_ms == 0 {
            return None;
        }
        let signed = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
        let skew_ms = signed(clock_ms).saturating_sub(signed(now_ms));
        let is_off = skew_ms.unsigned_abs() > TOLERATED_MS;
        if is_off && !self.is_off {
            tracing::warn!(
                ahead_seconds = skew_ms / 1000,
                "the node's clock is not the controller's; check time synchronization on both"
            );
        } else if self.is_off && !is_off {
            tracing::info!("the node's clock is right again");
        }
        self.is_off = is_off;
        Some(skew_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_more_than_five_seconds() {
        let mut skew = ClockSkew::default();
        for (clock_ms, wanted, is_off) in [
            (0, None, false),
            (100_000, Some(0), false),
            (105_000, Some(5000), false),
            (94_000, Some(-6000), true),
            (7_300_000, Some(7_200_000), true),
            (u64::MAX, Some(i64::MAX - 100_000), true),
            (99_000, Some(-1000), false),
        ] {
            assert_eq!(skew.hear(clock_ms, 100_000), wanted);
            assert_eq!(skew.is_off, is_off, "{clock_ms}");
        }
    }
}
