//! The kernel counts an element's seconds down; a ruleset names the moment of its end.

use ipnet::IpNet;

use crate::ruleset::{AddressSet, Until};

/// The longest timer that ipset takes, about 24.8 days (`IPSET_MAX_TIMEOUT`). What ends later
/// is given it, and is given it again before it runs out.
pub(crate) const LONGEST: u32 = 2_147_483;
/// How much of [`LONGEST`] may pass before it is given again.
const RENEWED_AFTER: u32 = 24 * 60 * 60;

/// How far a timer in the kernel may be from the clock.
///
/// The clock is corrected all the time and the kernel's timers are not, and between reading
/// the clock and setting a timer a machine may be busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slack {
    /// Seconds.
    seconds: u32,
    /// Seconds that may have passed of the longest timer.
    of_longest: u32,
}

impl Slack {
    /// What is further off is set again.
    pub const EXACT: Slack = Slack {
        seconds: 3,
        of_longest: RENEWED_AFTER,
    };
    /// Anything further off is a foreign change.
    pub const DRIFT: Slack = Slack {
        seconds: 10,
        of_longest: 2 * RENEWED_AFTER,
    };
    /// The same right after an apply, in which a tool may take a minute.
    pub const WRITTEN: Slack = Slack {
        seconds: 60,
        of_longest: 2 * RENEWED_AFTER,
    };

    /// Whether an element with `left` seconds may be gone already, or one that is over with
    /// `left` seconds in the kernel still be there.
    pub(super) fn covers(self, left: u64) -> bool {
        left <= u64::from(self.seconds)
    }

    /// Whether the kernel may differ about an element of `set` that begins about now.
    pub(crate) fn may_begin(self, set: &AddressSet, net: &IpNet, now: u64) -> bool {
        set.begins_about(net, now, self.seconds.into())
    }

    /// Whether `found` seconds in the kernel are right for an element with `left`.
    pub(super) fn fits(self, left: u64, found: u32) -> bool {
        let wanted = capped(left);
        let counts_down = found <= wanted && found >= LONGEST - self.of_longest;
        counts_down || wanted.abs_diff(found) <= self.seconds
    }
}

/// The timer of an element that ends at `until`; `None`: it is over.
pub(super) fn seconds(until: Until, now: u64) -> Option<u32> {
    // To ipset, 0 is for ever.
    let left = until.left(now);
    (left > 0).then(|| capped(left))
}

fn capped(left: u64) -> u32 {
    u32::try_from(left).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_what_is_left_and_never_for_ever() {
        let until = Until::from_unix(5_000_000).unwrap();
        for (now, timer) in [
            (4_999_940, Some(60)),
            (4_999_999, Some(1)),
            (5_000_000, None),
            (6_000_000, None),
            (5_000_000 - 2_147_483, Some(2_147_483)),
            (5_000_000 - 2_147_484, Some(2_147_483)),
            (1, Some(2_147_483)),
        ] {
            assert_eq!(seconds(until, now), timer, "{now}");
        }
    }

    #[test]
    fn a_timer_that_counts_down_is_right() {
        for (left, found, exact, drift) in [
            (600, 600, true, true),
            (600, 597, true, true),
            (600, 603, true, true),
            (600, 594, false, true),
            (600, 606, false, true),
            (600, 580, false, false),
            (600, 620, false, false),
            // Given the longest a while ago.
            (9_000_000, LONGEST, true, true),
            (9_000_000, LONGEST - 80_000, true, true),
            (9_000_000, LONGEST - 90_000, false, true),
            (9_000_000, LONGEST - 200_000, false, false),
            // The end has come nearer than the longest since.
            (2_147_000, LONGEST - 50_000, true, true),
            (2_147_000, LONGEST, false, false),
        ] {
            let fits = (
                Slack::EXACT.fits(left, found),
                Slack::DRIFT.fits(left, found),
            );
            assert_eq!(fits, (exact, drift), "{found} of {left}");
        }
    }
}
