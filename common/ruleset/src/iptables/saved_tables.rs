//! What `iptables-save` prints, as a table of chains.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::words::{is_ours, leaves_quote_open, shorten};

/// The longest output of iptables-save that is read.
pub const MAX_SAVE_BYTES: usize = 64 << 20;

/// The filter table as iptables-save prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its chains in the order of the output.
    pub chains: Vec<SavedChain>,
    /// Why iptables-save does not print it; none where it does.
    pub unprintable: Option<Unprintable>,
}

/// Why a table was read by other means than iptables-save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprintable {
    /// The words of iptables-save.
    pub reason: String,
    /// The rules that it has no words for.
    pub rules: Vec<HiddenRule>,
}

/// A rule that iptables cannot print. The chain has a line in its place, in other words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenRule {
    pub chain: String,
    /// Its place in the chain, from 0.
    pub place: usize,
    /// The rule as nft prints it, or as much of it as iptables does.
    pub text: String,
    pub cause: HiddenCause,
}

/// Why iptables cannot print a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HiddenCause {
    /// Only nft has words for it. The tools refuse to print any rule of its chain.
    NftOnly,
    /// The library of its extension is missing. The name is not always known.
    NoLibrary(Option<String>),
}

/// One chain as iptables-save prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// `ACCEPT` or `DROP` of a built-in chain; none of a chain that is jumped to.
    pub policy: Option<String>,
    /// Its rules, `-A CHAIN …`, without counters.
    pub rules: Vec<String>,
}

/// Output of iptables-save that cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The table holds what only `nft` can show.
    #[error("the filter table holds rules that iptables cannot show: {0}; inspect it with nft")]
    Incompatible(String),
    /// The output has no end: the tool was stopped, or its output cut.
    #[error("the output of iptables-save ends without COMMIT")]
    Truncated,
    /// A line that is no part of the format.
    #[error("line {line} of the output of iptables-save makes no sense: {text:?}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The line, cut to what is worth showing.
        text: String,
    },
    /// More than [`MAX_SAVE_BYTES`].
    #[error("the output of iptables-save is longer than {MAX_SAVE_BYTES} bytes")]
    TooLong,
}

/// Reads the filter table in the output of iptables-save, with or without counters. No
/// output is an empty table: that is what a kernel without the table gives.
pub fn parse_save(text: &str) -> Result<Table, Unreadable> {
    if text.len() > MAX_SAVE_BYTES {
        return Err(Unreadable::TooLong);
    }
    let mut table = Table::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    // Whether the section that is open is the filter table.
    let mut section: Option<bool> = None;
    let mut seen_filter = false;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let nonsense = || Unreadable::Line {
            line: index + 1,
            text: shorten(line),
        };
        let line = line.trim_end();
        let mut long = String::new();
        let line = if is_rule(line) && leaves_quote_open(line, false) {
            // A line break in a comment is printed as it is.
            long.push_str(line);
            let mut open = true;
            while open {
                let (_, more) = lines.next().ok_or(Unreadable::Truncated)?;
                long.push('\n');
                long.push_str(more);
                open = leaves_quote_open(more, true);
            }
            long.as_str()
        } else {
            line
        };
        if let Some(comment) = line.strip_prefix('#') {
            if hides_filter(comment) {
                return Err(Unreadable::Incompatible(shorten(comment.trim())));
            }
        } else if let Some(name) = line.strip_prefix('*') {
            // A second filter section would be what two tools printed into one another.
            if section.is_some() || (name == "filter" && seen_filter) {
                return Err(nonsense());
            }
            seen_filter |= name == "filter";
            section = Some(name == "filter");
        } else if line == "COMMIT" {
            section.take().ok_or_else(nonsense)?;
        } else if line.is_empty() {
        } else if section != Some(true) {
            if section.is_none() || !line.starts_with([':', '-', '[']) {
                return Err(nonsense());
            }
        } else if let Some(declared) = line.strip_prefix(':') {
            let chain = declaration(declared).ok_or_else(nonsense)?;
            if places
                .insert(chain.name.clone(), table.chains.len())
                .is_some()
            {
                return Err(nonsense());
            }
            table.chains.push(chain);
        } else {
            let (name, rule) = rule(line).ok_or_else(nonsense)?;
            let place = places.get(name).ok_or_else(nonsense)?;
            let chain = table.chains.get_mut(*place).ok_or_else(nonsense)?;
            chain.rules.push(rule.to_owned());
        }
    }
    if section.is_some() {
        return Err(Unreadable::Truncated);
    }
    Ok(table)
}

/// Reads what `iptables -S` prints of the filter table, or of one of its chains.
pub fn parse_listing(text: &str) -> Result<Table, Unreadable> {
    let mut saved = String::from("*filter\n");
    let mut open = false;
    for line in text.lines() {
        let declared = if open { None } else { listed_chain(line) };
        if let Some((name, policy)) = declared {
            let _ = writeln!(saved, ":{name} {} [0:0]", policy.unwrap_or("-"));
        } else {
            saved.push_str(line);
            saved.push('\n');
        }
        open = leaves_quote_open(line, open);
    }
    saved.push_str("COMMIT\n");
    parse_save(&saved)
}

/// `-P NAME POLICY` of a built-in chain or `-N NAME`, without counters.
fn listed_chain(line: &str) -> Option<(&str, Option<&str>)> {
    let mut words = line.split_ascii_whitespace();
    match words.next()? {
        "-P" => Some((words.next()?, Some(words.next()?))),
        "-N" => Some((words.next()?, None)),
        _ => None,
    }
}

/// The chains that `iptables -S` lists before their rules, also where it fails at one of these.
pub fn listed_chains(text: &str) -> Vec<SavedChain> {
    text.lines()
        .map_while(listed_chain)
        .map(|(name, policy)| SavedChain {
            name: name.to_owned(),
            policy: policy.map(str::to_owned),
            rules: Vec::new(),
        })
        .collect()
}

/// Whether a comment says that the filter table was left out: ``# Table `filter' is
/// incompatible, use 'nft' tool.`` (`xtables-save.c`, which exits 0 with it).
fn hides_filter(comment: &str) -> bool {
    comment.contains("is incompatible") && comment.contains("filter'")
}

/// `NAME POLICY [packets:bytes]`.
fn declaration(text: &str) -> Option<SavedChain> {
    let mut words = text.split_ascii_whitespace();
    let name = words.next()?;
    let policy = words.next()?;
    let counters = words.next().is_none_or(is_counters);
    (counters && words.next().is_none()).then(|| SavedChain {
        name: name.to_owned(),
        policy: (policy != "-").then(|| policy.to_owned()),
        rules: Vec::new(),
    })
}

fn is_rule(line: &str) -> bool {
    line.starts_with(['-', '['])
}

/// `-A CHAIN …`, perhaps behind counters: the chain and the line without them.
fn rule(line: &str) -> Option<(&str, &str)> {
    let rule = if line.starts_with('[') {
        let (counters, rest) = line.split_once(' ')?;
        if !is_counters(counters) {
            return None;
        }
        rest
    } else {
        line
    };
    let name = rule.strip_prefix("-A ")?.split(' ').next()?;
    (!name.is_empty()).then_some((name, rule))
}

/// `[packets:bytes]`.
fn is_counters(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    word.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(packets, bytes)| digits(packets) && digits(bytes))
}

impl Table {
    /// Our own chains alone, without the jump to them.
    #[must_use]
    pub fn ours(&self) -> Table {
        Table {
            chains: self
                .chains
                .iter()
                .filter(|chain| is_ours(&chain.name))
                .cloned()
                .collect(),
            unprintable: None,
        }
    }

    /// The rules of a chain that iptables cannot print.
    pub fn hidden_in<'t>(&'t self, chain: &'t str) -> impl Iterator<Item = &'t HiddenRule> {
        let hidden = self.unprintable.iter().flat_map(|why| &why.rules);
        hidden.filter(move |rule| rule.chain == chain)
    }

    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&SavedChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 on Mon Nov 23 01:48:08 2026
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j DNAT --to-destination 10.0.0.1
COMMIT
*filter
:INPUT DROP [12:3456]
:VF-INPUT - [0:0]
:f2b-sshd - [0:0]
[7:8] -A INPUT -j VF-INPUT
-A VF-INPUT -m comment --comment \"vf:a\" -j DROP
[1:2] -A f2b-sshd -j RETURN
COMMIT
# Completed on Mon Nov 23 01:48:08 2026
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
";

    #[test]
    fn the_filter_table_is_found_among_others_and_loses_its_counters() {
        let table = parse_save(SAVED).unwrap();
        assert_eq!(
            table.chain("INPUT").unwrap().policy.as_deref(),
            Some("DROP")
        );
        assert_eq!(
            table.chain("INPUT").unwrap().rules,
            ["-A INPUT -j VF-INPUT"]
        );
        assert_eq!(
            table.chain("f2b-sshd").unwrap().rules,
            ["-A f2b-sshd -j RETURN"]
        );
        assert_eq!(table.chain("PREROUTING"), None);
        let ours = table.ours();
        assert_eq!(ours.chains.len(), 1);
        assert_eq!(
            ours.chain("VF-INPUT").unwrap().rules,
            ["-A VF-INPUT -m comment --comment \"vf:a\" -j DROP"]
        );
        assert_eq!(parse_save("").unwrap(), Table::default());
    }

    #[test]
    fn a_line_break_in_a_foreign_comment_is_part_of_the_rule() {
        // As iptables 1.8.9 prints it, both backends.
        let rule = "-A f2b -m comment --comment \"a\n-A VF-INPUT -j ACCEPT \\\" b\" -j ACCEPT";
        let text = format!("*filter\n:f2b - [0:0]\n:VF-INPUT - [0:0]\n{rule}\nCOMMIT\n");
        let table = parse_save(&text).unwrap();
        assert_eq!(table.chain("f2b").unwrap().rules, [rule]);
        assert!(table.chain("VF-INPUT").unwrap().rules.is_empty());
        let cut = text.split(" b\"").next().unwrap();
        assert_eq!(parse_save(cut), Err(Unreadable::Truncated));
    }

    #[test]
    fn unreliable_output_is_unreadable() {
        let hidden = "# Table `filter' is incompatible, use 'nft' tool.\n";
        assert!(matches!(
            parse_save(hidden),
            Err(Unreadable::Incompatible(_))
        ));
        assert!(parse_save("# Table `nat' is incompatible, use 'nft' tool.\n").is_ok());
        // Another base chain in the table: the built-in ones are all shown.
        let other =
            "# Table `filter' contains incompatible base-chains, use 'nft' tool to list them.\n";
        assert!(parse_save(&format!("{other}{SAVED}")).is_ok());
        let cut = SAVED.split("[1:2]").next().unwrap();
        assert_eq!(parse_save(cut), Err(Unreadable::Truncated));
        for garbage in [
            "hello\n",
            "COMMIT\n",
            "*filter\n*filter\nCOMMIT\n",
            "*filter\nCOMMIT\n*filter\nCOMMIT\n",
            "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n",
            "*filter\n:INPUT ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
            "*filter\n:INPUT ACCEPT [0:0\nCOMMIT\n",
            "*filter\n:INPUT\nCOMMIT\n",
            "*filter\n:INPUT ACCEPT [0:0]\n[x] -A INPUT -j ACCEPT\nCOMMIT\n",
            "*filter\n:INPUT ACCEPT [0:0]\n-I INPUT -j ACCEPT\nCOMMIT\n",
        ] {
            assert!(
                matches!(parse_save(garbage), Err(Unreadable::Line { .. })),
                "{garbage}"
            );
        }
    }

    #[test]
    fn listing_of_a_chain_or_table_reads_as_its_saved_form() {
        let listing = "-P INPUT DROP\n-N VF-INPUT\n-N f2b\n-A INPUT -j VF-INPUT\n\
                       -A f2b -m comment --comment \"a\n-N VF-X \\\" b\" -j ACCEPT\n";
        let saved = "*filter\n:INPUT DROP [0:0]\n:VF-INPUT - [0:0]\n:f2b - [0:0]\n\
                     -A INPUT -j VF-INPUT\n-A f2b -m comment --comment \"a\n-N VF-X \\\" b\" \
                     -j ACCEPT\nCOMMIT\n";
        assert_eq!(parse_listing(listing), parse_save(saved));
        assert!(parse_listing("-A INPUT -j ACCEPT\n").is_err());
        let names = |text| -> Vec<String> {
            let chains = listed_chains(text).into_iter();
            chains.map(|chain| chain.name).collect()
        };
        assert_eq!(
            names("-P INPUT DROP\n-N f2b\n-A INPUT -p udp"),
            ["INPUT", "f2b"]
        );
        assert!(names("-A INPUT -p udp").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(
            lines in prop::collection::vec(
                prop_oneof![
                    Just("*filter".to_owned()),
                    Just("COMMIT".to_owned()),
                    Just(":INPUT ACCEPT [0:0]".to_owned()),
                    "-A INPUT( -[a-z]| [a-zA-Z\"\\\\]{0,6}){0,6}",
                    "\\PC{0,40}",
                ],
                0..12,
            )
        ) {
            if let Ok(table) = parse_save(&lines.join("\n")) {
                let _ = (table.jump(), super::super::jump_edit(&table), super::super::removal(&table));
            }
        }
    }
}
