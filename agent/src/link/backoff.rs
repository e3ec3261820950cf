//! How long to wait before the next dial.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// After a session this long, the waits start again.
const LIVED: Duration = Duration::from_secs(10);

/// The wait between two dials of a trial: it is short, and every dial counts. `random` is even
/// in 0..1.
pub(super) fn in_trial(random: f64) -> Duration {
    spread(FIRST, random)
}

/// The wait before dynamic sets are fetched again that failed `failures` times before.
pub(super) fn of_notice(failures: u32, random: f64) -> Duration {
    spread(grown(failures), random)
}

/// Between half and all of it.
fn spread(whole: Duration, random: f64) -> Duration {
    whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

fn grown(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST)
}

/// Exponential, with jitter, so that a thousand nodes that lost their controller return apart.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a session of that length. `random` is even in 0..1.
    pub(super) fn next(&mut self, lived: Duration, random: f64) -> Duration {
        if lived >= LIVED {
            self.failures = 0;
        }
        let whole = grown(self.failures);
        self.failures = self.failures.saturating_add(1);
        spread(whole, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_limit_and_resets_after_a_session() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(Duration::ZERO, 1.0)).collect();
        assert!(waits.is_sorted());
        assert_eq!(waits[0], FIRST);
        assert_eq!(waits[8], LONGEST);
        assert_eq!(backoff.next(LIVED, 0.0), FIRST / 2);
    }
}
