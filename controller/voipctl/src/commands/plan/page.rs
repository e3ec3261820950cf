//! Changes in indented lines, wrapped to the terminal, with long lists cut.

use voipfleet_proto::v1;

use crate::console::Pane;
use crate::console::style::Tone;
use crate::format::{count, printable, thousands};

/// How many entries of a list are shown.
pub const SHOWN: usize = 20;
/// Columns of one level of indentation.
const INDENT: usize = 2;
/// The narrowest text that is still wrapped.
const NARROWEST: usize = 20;

/// Lines for an output.
pub struct Page<'p> {
    pane: &'p Pane,
    text: String,
}

impl<'p> Page<'p> {
    /// An empty page for `pane`.
    pub fn new(pane: &'p Pane) -> Self {
        Self {
            pane,
            text: String::new(),
        }
    }

    /// The text, with a line end.
    pub fn finish(self) -> String {
        self.text
    }

    /// The title of a part.
    pub fn title(&mut self, title: &str) {
        self.text.push('\n');
        self.line(0, Tone::Plain, title);
    }

    /// A line, or several if the terminal is narrow.
    pub fn line(&mut self, depth: usize, tone: Tone, text: &str) {
        let indent = depth * INDENT;
        let text = printable(text);
        let width = self.pane.width().unwrap_or(usize::MAX);
        for (at, part) in wrapped(&text, width.saturating_sub(indent))
            .iter()
            .enumerate()
        {
            let more = if at == 0 { 0 } else { INDENT };
            self.text.extend(std::iter::repeat_n(' ', indent + more));
            self.text.push_str(&self.pane.toned(tone, part));
            self.text.push('\n');
        }
    }

    fn removed(&mut self, depth: usize, text: &str) {
        self.line(depth, Tone::Bad, &format!("- {text}"));
    }

    fn added(&mut self, depth: usize, text: &str) {
        self.line(depth, Tone::Good, &format!("+ {text}"));
    }

    fn more(&mut self, depth: usize, hidden: u64) {
        if hidden > 0 {
            let hidden = thousands(hidden);
            self.line(
                depth,
                Tone::Plain,
                &format!("… and {hidden} more (all with -o json)"),
            );
        }
    }

    /// Removed and added entries, the first [`SHOWN`] of each.
    fn list(&mut self, depth: usize, removed: &[String], added: &[String], more: u64) {
        for entry in removed.iter().take(SHOWN) {
            self.removed(depth, entry);
        }
        for entry in added.iter().take(SHOWN) {
            self.added(depth, entry);
        }
        let hidden = removed.len().saturating_sub(SHOWN) + added.len().saturating_sub(SHOWN);
        self.more(depth, hidden as u64 + more);
    }

    /// Documents, by field.
    pub fn documents(&mut self, documents: &[v1::DocumentDifference]) {
        if documents.is_empty() {
            return;
        }
        self.title("documents");
        for document in documents.iter().take(SHOWN) {
            let tone = match document.change.as_str() {
                "created" => Tone::Good,
                "deleted" => Tone::Bad,
                _ => Tone::Plain,
            };
            let (kind, name) = (document.kind.to_lowercase(), &document.name);
            let change = match document.change.as_str() {
                "changed" => String::new(),
                other => format!(", {other}"),
            };
            self.line(1, tone, &format!("{kind} {name}{change}"));
            for field in &document.fields {
                self.field(field);
            }
        }
        self.more(1, documents.len().saturating_sub(SHOWN) as u64);
    }

    fn field(&mut self, field: &v1::FieldDifference) {
        let name = &field.field;
        match (&field.before, &field.after) {
            _ if field.order => {
                self.line(2, Tone::Plain, &format!("{name}: order changed"));
            }
            (Some(before), Some(after)) => {
                self.line(2, Tone::Plain, &format!("{name}: {before} → {after}"));
            }
            (Some(before), None) => self.removed(2, &format!("{name}: {before}")),
            (None, Some(after)) => self.added(2, &format!("{name}: {after}")),
            (None, None) => match (field.removed.as_slice(), field.added.as_slice()) {
                ([one], []) if field.more == 0 => self.removed(2, &format!("{name}: {one}")),
                ([], [one]) if field.more == 0 => self.added(2, &format!("{name}: {one}")),
                (removed, added) => {
                    self.line(2, Tone::Plain, &format!("{name}:"));
                    self.list(3, removed, added, field.more);
                }
            },
        }
    }

    /// Rules, members of sets and access, of a site with `all` nodes.
    pub fn rulesets(&mut self, changes: &v1::RulesetDifferences, all: usize) {
        if !changes.rules.is_empty() {
            self.title("rules");
        }
        for rule in &changes.rules {
            let nodes = on(&rule.nodes, all);
            match (rule.removed.as_slice(), rule.added.as_slice()) {
                ([before], [after]) => {
                    let text = format!("{}: {before} → {after} {nodes}", rule.subject);
                    self.line(1, Tone::Plain, &text);
                }
                ([], [one]) => self.added(1, &format!("{}: {one} {nodes}", rule.subject)),
                ([one], []) => self.removed(1, &format!("{}: {one} {nodes}", rule.subject)),
                (removed, added) => {
                    self.line(1, Tone::Plain, &format!("{} {nodes}", rule.subject));
                    self.list(2, removed, added, 0);
                }
            }
        }
        if !changes.sets.is_empty() {
            self.title("addresses");
        }
        for set in &changes.sets {
            self.set(set, all);
        }
        if !changes.access.is_empty() {
            self.title("access");
        }
        for access in changes.access.iter().take(SHOWN) {
            self.access(access, all);
        }
        self.more(1, changes.access.len().saturating_sub(SHOWN) as u64);
        if changes.cut {
            self.line(
                1,
                Tone::Attention,
                "too many changes for one answer: the rest is only counted",
            );
        }
    }

    fn set(&mut self, set: &v1::SetDifference, all: usize) {
        let used = if set.used_by.is_empty() {
            String::new()
        } else {
            format!(" ({})", set.used_by.join("; "))
        };
        let nodes = on(&set.nodes, all);
        let (before, after) = (thousands(set.before), thousands(set.after));
        self.line(
            1,
            Tone::Plain,
            &format!("{}{used}: {before} → {after} entries {nodes}", set.set),
        );
        let members =
            |members: &[v1::SetMember]| -> Vec<String> { members.iter().map(member).collect() };
        let dynamic = |names: &[String]| -> Vec<String> {
            names
                .iter()
                .map(|name| format!("the addresses of {name}"))
                .collect()
        };
        self.list(
            2,
            &dynamic(&set.dynamic_removed),
            &dynamic(&set.dynamic_added),
            0,
        );
        self.list(2, &members(&set.removed), &members(&set.added), set.more);
    }

    fn access(&mut self, access: &v1::AccessDifference, all: usize) {
        let verb = if access.gains { "gains" } else { "loses" };
        let tone = if access.gains { Tone::Good } else { Tone::Bad };
        for reach in &access.reach {
            let (what, nodes) = (reach.what.join("; "), on(&reach.nodes, all));
            self.line(1, tone, &format!("{} {verb} {what} {nodes}", access.owner));
        }
        let shown: Vec<&str> = access
            .networks
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        if !shown.is_empty() {
            self.line(2, Tone::Plain, &shown.join(", "));
        }
        let hidden = access.networks.len().saturating_sub(SHOWN) as u64;
        self.more(2, hidden + access.more);
    }
}

/// `203.0.113.0/24 (tenant acme: offices)`.
fn member(member: &v1::SetMember) -> String {
    let time = |word: &str, seconds: u64| {
        let time = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(0));
        match time {
            Ok(time) if seconds > 0 => format!(" {word} {time}"),
            _ => String::new(),
        }
    };
    let until = time("from", member.from) + &time("until", member.until);
    let owners = if member.owners.is_empty() {
        String::new()
    } else {
        format!(" ({})", member.owners.join("; "))
    };
    format!("{}{until}{owners}", member.network)
}

/// `on sip1, sip2`; many are counted.
fn on(nodes: &[String], all: usize) -> String {
    const NAMED: usize = 4;
    if nodes.len() == all && all > 1 {
        format!("on all {}", count(all, "node"))
    } else if nodes.len() > NAMED {
        let first: Vec<&str> = nodes.iter().take(NAMED).map(String::as_str).collect();
        format!("on {} and {} more", first.join(", "), nodes.len() - NAMED)
    } else {
        format!("on {}", nodes.join(", "))
    }
}

/// The text in lines of at most `width` characters, the continuation lines two less. A longer
/// word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(NARROWEST);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    // Runs of spaces, which align columns, are kept.
    for word in text.split(' ') {
        let size = word.chars().count();
        let room = if lines.is_empty() {
            width
        } else {
            width - INDENT
        };
        if !line.is_empty() && length + 1 + size > room {
            lines.push(line.trim_end().to_owned());
            line = String::new();
            length = 0;
        }
        if !line.is_empty() || (length > 0) {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += size;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_word() {
        let text = "sip1  changes (not compared: no rules of it are known)";
        for width in [20, 21, 30, 49, 50, 51] {
            let lines = wrapped(text, width);
            let joined: Vec<&str> = lines
                .iter()
                .flat_map(|line| line.split_whitespace())
                .collect();
            assert_eq!(joined, text.split_whitespace().collect::<Vec<_>>());
            let fits = |(at, line): (usize, &String)| {
                line.chars().count() + if at == 0 { 0 } else { INDENT } <= width
            };
            assert!(lines.iter().enumerate().all(fits), "{width}: {lines:?}");
        }
        assert_eq!(wrapped(text, usize::MAX), [text]);
    }
}
