//! What an answer of a source makes of what a list had.

use voipfleet_policy::AddressSpace;

use super::fetch::{FetchError, Fetched};
use crate::errors::chain;
use crate::records::{Dropped, FeedRecord};

/// A list so short may shrink as it likes.
const SHORT: usize = 50;
/// A list that keeps less than one part in so many has most probably lost the rest by mistake.
const SHRINKS: usize = 10;

/// What a list may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// As short as it likes, but not empty.
    pub shrink: bool,
    /// So wide that nothing may be opened to it: it is for denial only.
    pub wide: bool,
}

/// What an operator would want to know about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The list has other elements than before.
    Changed,
    /// The first answer that is not good.
    Failing,
    /// The first good one after that, with the same elements.
    Recovered,
}

/// Takes an answer of `source`. The last good elements outlive every answer that is not good.
pub fn take(
    record: &mut FeedRecord,
    now_ms: u64,
    source: &str,
    answer: Result<Fetched, FetchError>,
    allowed: Allowed,
) -> Option<Event> {
    let was_failing = record.failing_since_ms != 0;
    record.checked_ms = now_ms;
    record.shrunk_to = None;
    match accept(record, now_ms, source, answer, allowed) {
        Ok(changed) => {
            record.failing_since_ms = 0;
            record.failures = 0;
            record.error.clear();
            match (changed, was_failing) {
                (true, _) => Some(Event::Changed),
                (false, true) => Some(Event::Recovered),
                (false, false) => None,
            }
        }
        Err(error) => {
            if !was_failing {
                record.failing_since_ms = now_ms;
            }
            record.failures = record.failures.saturating_add(1);
            record.error = error;
            (!was_failing).then_some(Event::Failing)
        }
    }
}

/// Takes a good answer; whether it changes anything. An error: why it is not good.
fn accept(
    record: &mut FeedRecord,
    now_ms: u64,
    source: &str,
    answer: Result<Fetched, FetchError>,
    allowed: Allowed,
) -> Result<bool, String> {
    let (parsed, etag, last_modified) = match answer.map_err(|error| chain(&error))? {
        Fetched::Same => return Ok(false),
        Fetched::New {
            parsed,
            etag,
            last_modified,
        } => (parsed, etag, last_modified),
    };
    let (before, after) = (record.len(), parsed.elements.len());
    // A list that has never held anything may be empty, apart from comments.
    if after == 0 && (before > 0 || parsed.dropped != Dropped::default()) {
        return Err("it holds no address that can be taken".to_owned());
    }
    let breadth = AddressSpace::of(&parsed.elements);
    if breadth.is_world() {
        return Err(
            "together its entries are half of IPv4, or all of IPv6: that is no list of \
             somebody's networks"
                .to_owned(),
        );
    }
    if breadth.is_wide() && !allowed.wide {
        return Err(
            "together its entries are a sixteenth of IPv4, or as much of IPv6 as sixteen \
             /16, or more: too wide for a list that a site opens something to"
                .to_owned(),
        );
    }
    let lost = before > SHORT && after * SHRINKS < before;
    if lost && !allowed.shrink && record.source == source {
        record.shrunk_to = Some(after as u64);
        return Err(format!("it shrank from {before} entries to {after}"));
    }
    let mut new = FeedRecord {
        source: source.to_owned(),
        fetched_ms: now_ms,
        etag,
        last_modified,
        dropped: Some(parsed.dropped),
        ..FeedRecord::default()
    };
    new.set_elements(&parsed.elements);
    new.checked_ms = record.checked_ms;
    let changed = record.fetched_ms == 0 || new.v4 != record.v4 || new.v6 != record.v6;
    *record = new;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::super::parse::{Parsed, parse};
    use super::*;

    fn new(parsed: Parsed) -> Fetched {
        Fetched::New {
            parsed,
            etag: "\"1\"".to_owned(),
            last_modified: String::new(),
        }
    }

    fn hosts(count: u32) -> Fetched {
        let net = |n: u32| IpNet::from(std::net::IpAddr::from((0x0808_0000 + n).to_be_bytes()));
        new(Parsed {
            elements: (0..count).map(net).collect(),
            dropped: Dropped::default(),
        })
    }

    #[test]
    fn keeps_the_last_good_elements() {
        let mut record = FeedRecord::default();
        let first = take(&mut record, 5, "s", Ok(hosts(1000)), Allowed::default());
        assert_eq!(first, Some(Event::Changed));
        let good = record.elements();

        let private = parse(b"10.0.0.1\n", 9).unwrap();
        let bad = [
            Err(FetchError::Status(500)),
            Ok(hosts(0)),
            Ok(new(private)),
            Ok(hosts(99)),
        ];
        for (n, answer) in (10..).zip(bad) {
            let event = take(&mut record, n, "s", answer, Allowed::default());
            assert_eq!(event, (n == 10).then_some(Event::Failing), "told once");
            assert_eq!(record.elements(), good);
            assert_eq!((record.fetched_ms, record.failing_since_ms), (5, 10));
            assert_eq!(record.checked_ms, n);
        }
        assert_eq!((record.failures, record.shrunk_to), (4, Some(99)));
        assert_eq!(record.error, "it shrank from 1000 entries to 99");

        let same = take(&mut record, 20, "s", Ok(Fetched::Same), Allowed::default());
        assert_eq!(same, Some(Event::Recovered));
        assert_eq!((record.failures, record.error.as_str()), (0, ""));
        assert_eq!(record.shrunk_to, None);
        assert_eq!(
            take(&mut record, 21, "s", Ok(hosts(1000)), Allowed::default()),
            None
        );
        let less = take(&mut record, 22, "s", Ok(hosts(100)), Allowed::default());
        assert_eq!(less, Some(Event::Changed));
    }

    #[test]
    fn shrinking_needs_a_short_list_acceptance_or_a_new_source() {
        for (first, then, source, accept, taken) in [
            (50, 1, "s", false, true),
            (51, 5, "s", false, false),
            (51, 5, "s", true, true),
            (51, 5, "other", false, true),
            (51, 0, "s", true, false),
            (0, 0, "s", false, true),
        ] {
            let mut record = FeedRecord::default();
            take(&mut record, 1, "s", Ok(hosts(first)), Allowed::default());
            take(
                &mut record,
                2,
                source,
                Ok(hosts(then)),
                Allowed {
                    shrink: accept,
                    wide: false,
                },
            );
            let wanted = if taken { then } else { first };
            let case = format!("{first} {then} {source} {accept}");
            assert_eq!(record.len(), wanted as usize, "{case}");
            assert_eq!(record.failing_since_ms == 0, taken, "{case}");
        }
    }

    #[test]
    fn refuses_wide_lists_for_openings_and_the_world_for_all() {
        // Each is a network that is in use.
        let eights = |count: u8| {
            let lines: Vec<String> = (11..11 + count).map(|n| format!("{n}.0.0.0/8")).collect();
            let lines = lines.join("\n");
            Ok(new(parse(lines.as_bytes(), 999).unwrap()))
        };
        for (count, wide, taken) in [
            (15, false, true),
            (16, false, false),
            (16, true, true),
            (100, true, true),
            (100, false, false),
            (150, true, false),
        ] {
            let mut record = FeedRecord::default();
            take(&mut record, 1, "s", Ok(hosts(3)), Allowed::default());
            let good = record.elements();
            let allowed = Allowed { shrink: true, wide };
            take(&mut record, 2, "s", eights(count), allowed);
            assert_eq!(
                record.error.is_empty(),
                taken,
                "{count} {wide}: {}",
                record.error
            );
            assert_eq!(record.elements() != good, taken, "the last good ones stay");
        }
    }
}
