//! Changes in indented lines, wrapped to the terminal, with long lists cut.

use voipfleet_proto::v1;
use voipfleet_ruleset::ruleset::DynamicSetName;

use crate::console::Pane;
use crate::console::style::Tone;
use crate::format::{count, first_names, printable, thousands};

/// How many entries of a list are shown.
pub const SHOWN: usize = 20;
/// Columns of one level of indentation.
const INDENT: usize = 2;
/// The narrowest text that is still wrapped.
const NARROWEST: usize = 20;
/// Nodes or owners that a line names.
const NAMED: usize = 4;

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
        let groups = by_reach(&changes.access);
        for group in groups.iter().take(SHOWN) {
            self.access(group, all);
        }
        let hidden = groups.iter().skip(SHOWN).map(Vec::len).sum::<usize>();
        self.more(1, hidden as u64);
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
        let entries = match (set.before, set.after) {
            // What it holds comes between pushes.
            (0, 0) => String::new(),
            (0, after) => format!(" {}, new", count(after, "entry")),
            (before, after) => format!(" {} → {}", thousands(before), count(after, "entry")),
        };
        self.line(
            1,
            Tone::Plain,
            &format!("{}{used}:{entries} {nodes}", set.set),
        );
        let members =
            |members: &[v1::SetMember]| -> Vec<String> { members.iter().map(member).collect() };
        let dynamic = |names: &[String]| -> Vec<String> {
            names.iter().map(|name| dynamic_set(name)).collect()
        };
        self.list(
            2,
            &dynamic(&set.dynamic_removed),
            &dynamic(&set.dynamic_added),
            0,
        );
        self.list(2, &members(&set.removed), &members(&set.added), set.more);
    }

    /// Owners that gain or lose the same.
    fn access(&mut self, group: &[&v1::AccessDifference], all: usize) {
        let Some(access) = group.first() else {
            return;
        };
        let verb = match (access.gains, group.len()) {
            (true, 1) => "gains",
            (false, 1) => "loses",
            (true, _) => "gain",
            (false, _) => "lose",
        };
        let tone = if access.gains { Tone::Good } else { Tone::Bad };
        let owners: Vec<&str> = group.iter().map(|one| one.owner.as_str()).collect();
        let owners = first_names(&owners, NAMED);
        for reach in &access.reach {
            let (what, nodes) = (reach.what.join("; "), on(&reach.nodes, all));
            self.line(1, tone, &format!("{owners} {verb} {what} {nodes}"));
        }
        if group.len() > 1 {
            let networks = group.iter().map(|one| one.networks.len() as u64 + one.more);
            let networks = count(networks.sum::<u64>(), "network");
            self.line(2, Tone::Plain, &format!("{networks} (all with -o json)"));
            return;
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

/// Changes of access, together where owners gain or lose the same.
fn by_reach(access: &[v1::AccessDifference]) -> Vec<Vec<&v1::AccessDifference>> {
    let mut groups: Vec<Vec<&v1::AccessDifference>> = Vec::new();
    for one in access {
        let alike = |group: &&mut Vec<&v1::AccessDifference>| {
            let first = group.first();
            first.is_some_and(|first| first.gains == one.gains && first.reach == one.reach)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// What a set holds that is filled between pushes.
fn dynamic_set(name: &str) -> String {
    match name.parse() {
        Ok(DynamicSetName::Allow) => "addresses allowed for a while (voipctl allow)".to_owned(),
        Ok(DynamicSetName::Block) => "blocked addresses (voipctl block)".to_owned(),
        Ok(DynamicSetName::BlockForced) => {
            "addresses blocked by force (voipctl block --force)".to_owned()
        }
        Ok(DynamicSetName::Open) => {
            "everyone, while the site is open (voipctl panic-open)".to_owned()
        }
        Ok(DynamicSetName::Cluster(_)) => "addresses of the site's nodes".to_owned(),
        Ok(DynamicSetName::DenyFeed(list) | DynamicSetName::Feed(list)) => {
            format!("entries of the fetched list {list}")
        }
        Ok(DynamicSetName::Name(host)) => format!("addresses of {host}"),
        // Of a newer controller.
        Err(_) => format!("addresses of {name}"),
    }
}

/// `name sbc.example.net`, `list voipbl`.
pub fn source_name(name: &str) -> String {
    match name.parse() {
        Ok(DynamicSetName::Name(host)) => format!("name {host}"),
        Ok(DynamicSetName::DenyFeed(list) | DynamicSetName::Feed(list)) => format!("list {list}"),
        _ => name.to_owned(),
    }
}

/// `on sip1, sip2`; many are counted.
fn on(nodes: &[String], all: usize) -> String {
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
