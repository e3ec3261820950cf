//! Acts that come again and again: something on the node undoes repairs, and will go on.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use voipfleet_proto::v1::NodeDrift;

use super::act::what;
use super::author;
use crate::format::{printable, span, thousands};

/// So often it is no accident.
const OFTEN: usize = 3;
/// Hints in one answer.
const MOST: usize = 5;

/// Site, node, author and what was changed.
type Key<'a> = (&'a str, &'a str, Option<&'a str>, String);

/// A sentence for each act that was made again and again by the same author, the most frequent
/// first: `sip1: "jump to VF-INPUT missing" 14 times, every 60s, by ruby; …`.
pub(super) fn repetitions(records: &[NodeDrift]) -> Vec<String> {
    let mut times: BTreeMap<Key<'_>, Vec<u64>> = BTreeMap::new();
    for found in records {
        if let Some(record) = &found.record {
            let by = author::name(record.by.as_ref());
            let key = (found.site.as_str(), found.node.as_str(), by, what(record));
            times.entry(key).or_default().push(record.at_ms);
        }
    }
    let mut often: Vec<_> = times
        .into_iter()
        .filter(|(_, times)| times.len() >= OFTEN)
        .collect();
    often.sort_by_key(|(_, times)| std::cmp::Reverse(times.len()));
    let sentence = |((site, node, by, what), times): (Key<'_>, Vec<u64>)| {
        let by = by.unwrap_or("an unknown program");
        let number = thousands(times.len() as u64);
        let rhythm = rhythm(times);
        let text = format!(
            "{site}/{node}: \"{what}\" {number} times{rhythm}, by {by}; stop it there, or \
             configure it not to touch VF-*, vf-* and the jump to VF-INPUT"
        );
        printable(&text).replace('\n', " ")
    };
    often.into_iter().take(MOST).map(sentence).collect()
}

/// `, every 60s` where it comes regularly, else in how long.
fn rhythm(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let mut gaps: Vec<u64> = times
        .windows(2)
        .filter_map(|pair| pair.last()?.checked_sub(*pair.first()?))
        .collect();
    gaps.sort_unstable();
    let Some(median) = gaps.get(gaps.len() / 2).copied() else {
        return String::new();
    };
    let near = gaps.iter().filter(|gap| gap.abs_diff(median) <= median / 5);
    let milliseconds = |ms: u64| SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
    if median >= 1000 && near.count() * 4 >= gaps.len() * 3 {
        // To the next second: a job of every minute comes after 59.9 s as well.
        return format!(", every {}", span(milliseconds(median.saturating_add(500))));
    }
    let whole = gaps.iter().fold(0_u64, |sum, gap| sum.saturating_add(*gap));
    format!(" within {}", span(milliseconds(whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_acts_have_their_interval() {
        let every_minute = (0..10).map(|n| n * 60_000 + n % 3 * 100).collect();
        assert_eq!(rhythm(every_minute), ", every 1m");
        assert_eq!(rhythm(vec![0, 15_000, 30_000, 45_000]), ", every 15s");
        assert_eq!(rhythm(vec![0, 1_000, 100_000, 101_000]), " within 1m");
    }
}
