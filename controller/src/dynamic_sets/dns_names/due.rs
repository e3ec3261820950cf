//! When a name is asked for again.

/// The shortest wait, milliseconds.
pub(super) const LEAST_MS: u64 = 30 * 1000;
/// The longest wait, milliseconds.
pub(super) const MOST_MS: u64 = 600 * 1000;
/// The longest wait after failures, milliseconds.
const MOST_FAILING_MS: u64 = 300 * 1000;

/// The wait after an answer that is good for `ttl_s` seconds, or after so many failures in a row.
/// `jitter`, which is random, takes up to a fifth off: names that came together do not stay together.
pub(super) fn wait_ms(ttl_s: u32, failures: u32, jitter: u8) -> u64 {
    let wait = if failures == 0 {
        u64::from(ttl_s).saturating_mul(1000)
    } else {
        let doubled = LEAST_MS
            .checked_shl(failures - 1)
            .unwrap_or(MOST_FAILING_MS);
        doubled.min(MOST_FAILING_MS)
    };
    let wait = wait.clamp(LEAST_MS, MOST_MS);
    let off = wait / 5 * u64::from(jitter) / u64::from(u8::MAX);
    (wait - off).max(LEAST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_ttl_within_bounds() {
        for (ttl_s, failures, wanted_s) in [
            (0, 0, 30),
            (1, 0, 30),
            (60, 0, 60),
            (86_400, 0, 600),
            (86_400, 1, 30),
            (0, 2, 60),
            (0, 4, 240),
            (0, 5, 300),
            (0, 60, 300),
            (0, u32::MAX, 300),
        ] {
            assert_eq!(
                wait_ms(ttl_s, failures, 0),
                wanted_s * 1000,
                "{ttl_s} {failures}"
            );
            let earliest = (wanted_s * 800).max(LEAST_MS);
            assert_eq!(
                wait_ms(ttl_s, failures, 255),
                earliest,
                "{ttl_s} {failures}"
            );
        }
    }
}
