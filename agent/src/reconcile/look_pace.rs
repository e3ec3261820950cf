//! How often the kernel is inspected because of announced changes: at once, unless many of the
//! last looks found nothing.
//!
//! Programs that keep rules of their own, such as rtpengine with a rule for each call, change the
//! table many times a second, and a look at it takes milliseconds.

use std::time::{Duration, Instant};

/// Looks at changes that touch neither our chains nor `INPUT`. They can only make an earlier jump
/// accept.
const OTHERS: Allowance = Allowance::new(4, Duration::from_secs(1));
/// Looks at changes that may touch them.
const OURS: Allowance = Allowance::new(10, Duration::from_secs(1));

/// Looks that may find nothing: so many in a row, then one in each interval.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: u32,
    interval: Duration,
    /// When all of them may be made in a row again.
    whole_at: Option<Instant>,
}

impl Allowance {
    const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            whole_at: None,
        }
    }

    /// The earliest time for another one; none: at once.
    fn earliest(&self) -> Option<Instant> {
        let last = self.interval * self.burst.saturating_sub(1);
        self.whole_at.and_then(|at| at.checked_sub(last))
    }

    fn found_nothing(&mut self, now: Instant) {
        let from = self.whole_at.map_or(now, |at| at.max(now));
        self.whole_at = Some(from + self.interval);
    }
}

/// How soon looks may follow each other.
#[derive(Debug)]
pub(super) struct LookPace {
    others: Allowance,
    ours: Allowance,
}

impl Default for LookPace {
    fn default() -> Self {
        Self {
            others: OTHERS,
            ours: OURS,
        }
    }
}

impl LookPace {
    /// When to look at a change that was noticed then.
    pub(super) fn due(&self, noticed: Instant, may_touch_ours: bool) -> Instant {
        let earliest = self.of(may_touch_ours).earliest();
        earliest.map_or(noticed, |earliest| noticed.max(earliest))
    }

    /// Whether looks are not held back.
    pub(super) fn is_calm(&self, now: Instant) -> bool {
        self.ours.earliest().is_none_or(|earliest| earliest <= now)
    }

    /// A look at an announced change found nothing.
    pub(super) fn found_nothing(&mut self, now: Instant, may_touch_ours: bool) {
        if may_touch_ours {
            self.ours.found_nothing(now);
        } else {
            self.others.found_nothing(now);
        }
    }

    fn of(&self, may_touch_ours: bool) -> &Allowance {
        if may_touch_ours {
            &self.ours
        } else {
            &self.others
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_held_back_once_many_found_nothing() {
        let start = Instant::now();
        let mut pace = LookPace::default();
        for _ in 0..10 {
            assert_eq!(pace.due(start, true), start, "a few are made at once");
            pace.found_nothing(start, true);
        }
        let next = start + Duration::from_secs(1);
        assert_eq!(pace.due(start, true), next);
        assert!(!pace.is_calm(start) && pace.is_calm(next));
        // A change of ours in a storm of others is not held back by it.
        assert_eq!(pace.due(start, false), start);
        // In a storm there is one look in each interval.
        let (mut looks, mut now) = (0, start);
        while now < start + Duration::from_secs(10) {
            if pace.due(now, true) <= now {
                looks += 1;
                pace.found_nothing(now, true);
            }
            now += Duration::from_millis(50);
        }
        assert!((9..=10).contains(&looks), "{looks}");
        let calm = now + Duration::from_secs(20);
        for _ in 0..10 {
            assert_eq!(pace.due(calm, true), calm);
            pace.found_nothing(calm, true);
        }
        assert!(pace.due(calm, true) > calm);
    }
}
