//! Outcomes as a table: who reaches what.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::plan::{Kind, Outcome};

/// A table of a row per node and port and a column per source. A cell stands for IPv4 and
/// IPv6, or is `IPv4/IPv6` where they differ; it is in capitals where another thing was
/// expected.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut cells: BTreeMap<(usize, usize), [Option<&Outcome>; 2]> = BTreeMap::new();
    for outcome in outcomes {
        let probe = &outcome.probe;
        let row = (probe.node.as_str(), what(outcome));
        let row = position(&mut rows, row);
        let column = position(&mut columns, probe.who.as_str());
        let [v4, v6] = cells.entry((row, column)).or_default();
        *(if probe.to.is_ipv4() { v4 } else { v6 }) = Some(outcome);
    }
    let node_width = rows
        .iter()
        .map(|(node, _)| node.len())
        .max()
        .unwrap_or_default();
    let what_width = rows
        .iter()
        .map(|(_, what)| what.len())
        .max()
        .unwrap_or_default();
    let margin = node_width + 2 + what_width;
    let mut text = format!("{:margin$}", "");
    for column in &columns {
        let _infallible = write!(text, "  {column:<8}");
    }
    let mut previous = "";
    for (index, (node, what)) in rows.iter().enumerate() {
        let shown = if *node == previous { "" } else { node };
        previous = node;
        let _infallible = write!(text, "\n{shown:<node_width$}  {what:<what_width$}");
        for column in 0..columns.len() {
            let families = cells.get(&(index, column)).copied().unwrap_or_default();
            let _infallible = write!(text, "  {:<8}", cell(families));
        }
    }
    let mut trimmed = String::with_capacity(text.len());
    for line in text.lines() {
        trimmed.push_str(line.trim_end());
        trimmed.push('\n');
    }
    trimmed
}

fn what(outcome: &Outcome) -> String {
    let probe = &outcome.probe;
    match probe.kind {
        Kind::Ping => "ping".to_owned(),
        kind => format!("{}/{kind}", probe.port),
    }
}

fn position<T: PartialEq>(known: &mut Vec<T>, item: T) -> usize {
    known
        .iter()
        .position(|old| *old == item)
        .unwrap_or_else(|| {
            known.push(item);
            known.len() - 1
        })
}

fn cell(families: [Option<&Outcome>; 2]) -> String {
    let mut words: Vec<String> = families.into_iter().flatten().map(word).collect();
    words.dedup();
    if words.is_empty() {
        return "-".to_owned();
    }
    words.join("/")
}

fn word(outcome: &Outcome) -> String {
    let seen = outcome.seen.to_string();
    if outcome.is_right() {
        seen
    } else {
        seen.to_uppercase()
    }
}
