//! Rates in the steps that the kernel counts in.
//!
//! iptables turns `7777/min` into the time between two packets, in whole steps, and prints
//! that time as a rate again: another number, or another unit, of the same effect.

use crate::ruleset::{Rate, RateUnit, SourceLimit};

/// Steps a second of the `limit` match (`XT_LIMIT_SCALE`).
pub(super) const LIMIT_SCALE: u64 = 10_000;
/// Steps a second of the `hashlimit` match from revision 2 on (`XT_HASHLIMIT_SCALE_v2`).
pub(super) const SOURCE_LIMIT_SCALE: u64 = 1_000_000;

/// The burst that iptables does not print (`XT_LIMIT_BURST`, `XT_HASHLIMIT_BURST`).
pub(super) const DEFAULT_BURST: u32 = 5;

/// The longest time that a silent source is remembered: a day.
const LONGEST_MEMORY_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) fn seconds(unit: RateUnit) -> u64 {
    match unit {
        RateUnit::Second => 1,
        RateUnit::Minute => 60,
        RateUnit::Hour => 3600,
    }
}

/// The unit as iptables prints it.
pub(super) fn unit_word(unit: RateUnit) -> &'static str {
    match unit {
        RateUnit::Second => "sec",
        RateUnit::Minute => "min",
        RateUnit::Hour => "hour",
    }
}

/// The rate that iptables prints after it was given `rate`.
pub(super) fn as_printed(rate: Rate, scale: u64) -> Rate {
    let steps = |unit| seconds(unit) * scale;
    // A count of 10,000 a second is one step of the coarser scale: never zero.
    let period = (steps(rate.unit) / u64::from(rate.count.max(1))).max(1);
    // As print_rate of libxt_limit.c: the finest unit before the first that does not fit.
    // An hour always fits, because no rate is below one an hour.
    let mut unit = RateUnit::Hour;
    for finer in [RateUnit::Minute, RateUnit::Second] {
        let whole = steps(finer);
        if period > whole || whole / period < whole % period {
            break;
        }
        unit = finer;
    }
    let count = u32::try_from(steps(unit) / period).unwrap_or(u32::MAX);
    Rate {
        count,
        unit,
        burst: rate.burst,
    }
}

/// How long hashlimit remembers a silent source, in milliseconds: until its burst is whole
/// again, at least one unit of the rate.
///
/// iptables would take one unit alone, and forget at 20 a second a burst of 60 after one
/// second in place of three: three times the rate for a source that sends in bursts.
pub(super) fn memory_ms(limit: &SourceLimit) -> u64 {
    let unit = seconds(limit.above.unit) * 1000;
    let refill =
        (unit * u64::from(limit.above.burst)).div_ceil(u64::from(limit.above.count.max(1)));
    // Whole seconds: the kernel sweeps once a second.
    refill
        .max(unit)
        .next_multiple_of(1000)
        .min(LONGEST_MEMORY_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, unit: RateUnit) -> Rate {
        Rate::new(count, unit, 5).unwrap()
    }

    #[test]
    fn rates_come_out_as_iptables_prints_them() {
        // Each pair was seen on iptables 1.8.9.
        for (given, printed) in [
            (rate(60, RateUnit::Minute), rate(1, RateUnit::Second)),
            (rate(7, RateUnit::Second), rate(7, RateUnit::Second)),
            (rate(7777, RateUnit::Minute), rate(129, RateUnit::Second)),
            (rate(7777, RateUnit::Second), rate(10_000, RateUnit::Second)),
            (rate(10_000, RateUnit::Hour), rate(10_000, RateUnit::Hour)),
        ] {
            assert_eq!(as_printed(given, LIMIT_SCALE), printed);
        }
        assert_eq!(
            as_printed(rate(7777, RateUnit::Minute), SOURCE_LIMIT_SCALE),
            rate(7777, RateUnit::Minute)
        );
    }

    #[test]
    fn a_burst_is_remembered_until_it_is_whole() {
        let limit = |count, unit, burst| SourceLimit {
            name: "sip".parse().unwrap(),
            above: Rate::new(count, unit, burst).unwrap(),
        };
        assert_eq!(memory_ms(&limit(20, RateUnit::Second, 60)), 3000);
        assert_eq!(memory_ms(&limit(20, RateUnit::Second, 5)), 1000);
        assert_eq!(memory_ms(&limit(7, RateUnit::Minute, 9)), 78_000);
        assert_eq!(memory_ms(&limit(1, RateUnit::Hour, 10_000)), 86_400_000);
    }

    proptest! {
        #[test]
        fn what_is_printed_prints_the_same_again(count in 1..=Rate::MAX, unit in 0..3_usize) {
            let unit = [RateUnit::Second, RateUnit::Minute, RateUnit::Hour][unit];
            for scale in [LIMIT_SCALE, SOURCE_LIMIT_SCALE] {
                let printed = as_printed(rate(count, unit), scale);
                prop_assert_eq!(as_printed(printed, scale), printed);
            }
        }
    }
}
