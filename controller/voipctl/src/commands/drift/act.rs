//! An act in one line, and its differences one by one.

use std::fmt::Write as _;

use voipfleet_proto::v1::{DriftClass, DriftDifference, DriftRecord, NodeDrift};

use super::author;
use crate::format::{Moment, count, printable, thousands, took};
use crate::labels;

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub(super) now: jiff::Timestamp,
    pub(super) with_site: bool,
    /// Of the terminal; none: there is none.
    pub(super) width: Option<usize>,
}

impl Lines {
    /// `sip1  12s ago  23 rules of VF-INPUT missing, by cron (root), back after 53 ms`; without
    /// what is known of the author where that has no room.
    pub(super) fn of(self, found: &NodeDrift) -> String {
        let record = found.record.clone().unwrap_or_default();
        let by = record.by.as_ref();
        let whole = self.by(found, &record, &author::brief(by));
        let fits = |width| whole.chars().count() <= width;
        if self.width.is_none_or(fits) {
            return whole;
        }
        self.by(found, &record, author::name(by).unwrap_or("unknown"))
    }

    fn by(self, found: &NodeDrift, record: &DriftRecord, by: &str) -> String {
        let node = if self.with_site {
            format!("{}/{}", found.site, found.node)
        } else {
            found.node.clone()
        };
        // A clock that is ahead does not make it come from the future.
        let at = Moment::of(match record.received_ms {
            0 => record.at_ms,
            received_ms => record.at_ms.min(received_ms),
        });
        let (age, what, fate) = (at.relative(self.now), what(record), fate(record));
        printable(&format!("{node}  {age}  {what}, by {by}, {fate}")).replace('\n', " ")
    }
}

fn fate(record: &DriftRecord) -> String {
    match record.all_repaired_after_ms() {
        None => "not repaired".to_owned(),
        Some(ms) if record.unannounced => format!("back after at most {}", took(ms)),
        Some(ms) => format!("back after {}", took(ms)),
    }
}

/// `23 rules of VF-INPUT missing and 4 other changes`.
pub(super) fn what(record: &DriftRecord) -> String {
    let mut groups: Vec<(String, usize, DriftDifference)> = Vec::new();
    for difference in record.differences() {
        let key = group(&difference);
        match groups.iter_mut().find(|(known, _, _)| *known == key) {
            Some((_, number, _)) => *number += 1,
            None => groups.push((key, 1, difference)),
        }
    }
    // The largest; of equal ones the first.
    let largest = groups.iter().rev().max_by_key(|(_, number, _)| *number);
    let Some((_, number, difference)) = largest else {
        return String::new();
    };
    let others = record.count().saturating_sub(*number as u64);
    let most = if *number == 1 {
        one(difference)
    } else {
        several(*number, difference)
    };
    match others {
        0 => most,
        1 => format!("{most} and another change"),
        others => format!("{most} and {} other changes", thousands(others)),
    }
}

/// What is counted together: the same kind of change at the same place.
fn group(difference: &DriftDifference) -> String {
    format!("{} {}", difference.class, several(2, difference))
}

/// Whether it is about the jump from `INPUT` to our chains.
fn is_jump(difference: &DriftDifference) -> bool {
    difference.chain == "INPUT" && difference.class() != DriftClass::Policy
}

fn several(number: usize, difference: &DriftDifference) -> String {
    let chain = &difference.chain;
    let rules = |done: &str| format!("{} of {chain} {done}", count(number, "rule"));
    match difference.class() {
        _ if chain.is_empty() => unplaced(difference),
        DriftClass::Set => {
            let done = set_change(difference);
            format!("{} of {chain} {done}", count(number, "entry"))
        }
        DriftClass::Policy | DriftClass::Bypass => one(difference),
        _ if is_jump(difference) => one(difference),
        DriftClass::Missing => rules("missing"),
        DriftClass::Altered => rules("altered"),
        DriftClass::Extra => rules("added"),
        DriftClass::Order => rules("moved"),
        DriftClass::Unreadable | DriftClass::Unspecified => unplaced(difference),
    }
}

fn one(difference: &DriftDifference) -> String {
    let DriftDifference {
        chain,
        rule,
        wanted,
        observed,
        ..
    } = difference;
    let rule = if rule.is_empty() {
        format!("a rule of {chain}")
    } else {
        format!("rule {rule} of {chain}")
    };
    match difference.class() {
        _ if chain.is_empty() => unplaced(difference),
        DriftClass::Set => {
            let entry = if wanted.is_empty() { observed } else { wanted };
            let done = set_change(difference);
            // What is not an entry is the set's own declaration.
            if entry.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':') {
                format!("{entry} in {chain} {done}")
            } else {
                format!("set {chain} {done}")
            }
        }
        DriftClass::Policy => format!("policy of {chain} changed"),
        DriftClass::Bypass => "jump to VF-INPUT bypassed".to_owned(),
        DriftClass::Missing if is_jump(difference) => "jump to VF-INPUT missing".to_owned(),
        DriftClass::Altered if is_jump(difference) => "jump to VF-INPUT altered".to_owned(),
        DriftClass::Extra if is_jump(difference) => "another jump to VF-INPUT".to_owned(),
        // As iptables-save declares a chain.
        DriftClass::Missing if wanted.starts_with(':') => format!("chain {chain} missing"),
        DriftClass::Extra if observed.starts_with(':') => format!("chain {chain} added"),
        DriftClass::Missing => format!("{rule} missing"),
        DriftClass::Altered => format!("{rule} altered"),
        DriftClass::Extra => format!("{rule} added"),
        DriftClass::Order => format!("{rule} moved"),
        DriftClass::Unreadable | DriftClass::Unspecified => unplaced(difference),
    }
}

fn set_change(difference: &DriftDifference) -> &'static str {
    match (difference.wanted.is_empty(), difference.observed.is_empty()) {
        (false, true) => "missing",
        (true, false) => "added",
        _ => "altered",
    }
}

/// `ipv4 filter unreadable`.
fn unplaced(difference: &DriftDifference) -> String {
    let family = labels::family(difference.family).unwrap_or_default();
    let class = labels::class(difference.class);
    let words = [family, difference.table.as_str(), class];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Each difference, as it should be and as it was found.
pub(super) fn details(found: &NodeDrift) -> String {
    let Some(record) = &found.record else {
        return String::new();
    };
    let mut text = String::new();
    let mut field = |title: &str, value: &str| {
        for (index, line) in printable(value).lines().enumerate() {
            let title = if index == 0 { title } else { "" };
            let _ = writeln!(text, "  {title:8}  {line}");
        }
    };
    let or_nothing = |value: &str| match value {
        "" => "nothing".to_owned(),
        value => value.to_owned(),
    };
    for difference in record.differences() {
        let class = labels::class(difference.class);
        let family = labels::family(difference.family).unwrap_or_default();
        let DriftDifference {
            table, chain, rule, ..
        } = &difference;
        let place = [class, family, table.as_str(), chain.as_str(), rule.as_str()];
        let place: Vec<&str> = place.into_iter().filter(|word| !word.is_empty()).collect();
        field("class", &place.join(" "));
        field("wanted", &or_nothing(&difference.wanted));
        field("observed", &or_nothing(&difference.observed));
        if difference.repaired_after_ms.is_none() {
            field("repaired", "not yet");
        }
    }
    if record.left_out > 0 {
        field(
            "more",
            &format!("{} left out", thousands(record.left_out.into())),
        );
    }
    field("by", &author::describe(record.by.as_ref()));
    text
}
