//! The smallest restore that turns what the kernel holds into what it should hold.

use std::fmt::Write as _;

use super::jump::{jump_edit, retire};
use super::lcs::{common_count, longest_common_subsequence};
use super::words::is_ours;
use super::{SavedChain, Table, filter_section};

/// A part of a table or of the sets that is repaired, or left alone, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepairPart {
    /// All of it.
    Table,
    /// A chain or set that the ruleset names; `INPUT` means the jump and the policy.
    Named(String),
    /// Every chain or set of ours by name that the ruleset does not name.
    Unwanted,
}

/// Edits of single rules that one chain is worth: each makes the tool count through the chain.
const MAX_EDITS: usize = 200;

/// What a repair is for.
#[derive(Clone, Copy)]
pub struct Repair<'a> {
    /// Our chains, in the words of the node's iptables-save.
    pub wanted: &'a Table,
    /// The policy of `INPUT`; `None` leaves it as it is.
    pub policy: Option<&'a str>,
    /// What to leave as it is.
    pub spares: &'a dyn Fn(&RepairPart) -> bool,
    /// Chains that differ are written anew as a whole: it asks less of the tool.
    pub whole_chains: bool,
}

impl std::fmt::Debug for Repair<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repair")
            .field("wanted", self.wanted)
            .field("policy", &self.policy)
            .field("whole_chains", &self.whole_chains)
            .finish_non_exhaustive()
    }
}

impl<'a> Repair<'a> {
    /// The repair of everything.
    pub fn of(wanted: &'a Table, policy: Option<&'a str>) -> Self {
        Self {
            wanted,
            policy,
            spares: &|_| false,
            whole_chains: false,
        }
    }
}

/// One input of `iptables-restore --noflush` that makes our chains in `observed`, the whole
/// filter table, those of `repair.wanted`; none when they are, and the jump and the policy are
/// right.
///
/// Both are as the same iptables-save prints them. Rules that are in their place are left alone,
/// and so keep their counters and the memory of their matches. Chains of ours that are
/// not wanted go, with every rule that jumps to them. The kernel takes all of it or nothing.
///
/// Rules of ours are deleted by number. If another program changes the chain between inspection
/// and repair, the wrong rule may go; the inspection after the repair finds that.
pub fn repair_input(repair: &Repair<'_>, observed: &Table) -> Option<String> {
    let wanted = repair.wanted;
    let mut declared = String::new();
    let mut rules = String::new();
    let spares = |name: &str| (repair.spares)(&RepairPart::Named(name.to_owned()));
    for chain in wanted.chains.iter().filter(|chain| !spares(&chain.name)) {
        let found = observed.chain(&chain.name);
        if found.is_some_and(|found| found.rules == chain.rules) {
            continue;
        }
        let edits = found
            // The rules around one that iptables cannot print are not known word by word.
            .filter(|_| !repair.whole_chains && observed.hidden_in(&chain.name).next().is_none())
            .and_then(|found| edits(chain, found));
        rules.push_str(&edits.unwrap_or_else(|| {
            declare(&mut declared, &chain.name);
            all(chain)
        }));
    }
    let stale: Vec<&str> = observed
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .filter(|name| is_ours(name) && wanted.chain(name).is_none())
        .filter(|_| !(repair.spares)(&RepairPart::Unwanted))
        .collect();
    for name in &stale {
        declare(&mut declared, name);
    }
    let mut lines = declared + &rules;
    if !spares("INPUT") {
        let policy = observed.chain("INPUT").and_then(|c| c.policy.as_deref());
        // A table that is made anew lets everything in.
        let policy = policy.unwrap_or("ACCEPT");
        if let Some(wanted) = repair.policy.filter(|wanted| *wanted != policy) {
            let _ = writeln!(lines, "-P INPUT {wanted}");
        }
        lines.push_str(&jump_edit(observed).unwrap_or_default());
    }
    lines.push_str(&retire(&stale, observed));
    (!lines.is_empty()).then(|| filter_section(&lines))
}

/// Declaring a chain makes it, and empties it where it exists.
fn declare(lines: &mut String, name: &str) {
    let _ = writeln!(lines, ":{name} - [0:0]");
}

fn all(chain: &SavedChain) -> String {
    chain.rules.iter().fold(String::new(), |mut lines, rule| {
        let _ = writeln!(lines, "{rule}");
        lines
    })
}

/// Lines that delete and insert single rules; none where the whole chain is less work.
fn edits(wanted: &SavedChain, found: &SavedChain) -> Option<String> {
    let rules = wanted.rules.len() + found.rules.len();
    let most_kept = common_count(&wanted.rules, &found.rules);
    if rules - 2 * most_kept > MAX_EDITS {
        return None;
    }
    let kept = longest_common_subsequence(&wanted.rules, &found.rules);
    if kept.is_empty() || rules - 2 * kept.len() > MAX_EDITS {
        return None;
    }
    let name = &wanted.name;
    let mut lines = String::new();
    let (mut w, mut o) = (0, 0);
    // The number of the next rule, from 1, after the lines so far.
    let mut place = 1;
    // Deletions first, so that a rule is inserted before one that was there before: 1.8.4 on
    // older kernels does not find those of the same restore.
    for (next_wanted, next_found) in kept {
        for _ in o..next_found {
            let _ = writeln!(lines, "-D {name} {place}");
        }
        for rule in wanted.rules.get(w..next_wanted)? {
            let body = rule.strip_prefix("-A ")?.strip_prefix(name.as_str())?;
            let _ = writeln!(lines, "-I {name} {place}{body}");
            place += 1;
        }
        place += 1;
        (w, o) = (next_wanted + 1, next_found + 1);
    }
    for _ in o..found.rules.len() {
        let _ = writeln!(lines, "-D {name} {place}");
    }
    for rule in wanted.rules.get(w..)? {
        let _ = writeln!(lines, "{rule}");
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::parse_save;

    const WANTED: &str = "*filter
:VF-INPUT - [0:0]
:VF-SIP - [0:0]
-A VF-INPUT -j VF-SIP
-A VF-SIP -p udp -j ACCEPT
COMMIT
";

    fn observed(ours: &str, input: &str) -> Table {
        let text =
            format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n{ours}{input}COMMIT\n");
        parse_save(&text).unwrap()
    }

    #[test]
    fn a_correct_table_needs_no_repair() {
        let wanted = parse_save(WANTED).unwrap();
        let ours = ":VF-SIP - [0:0]\n:VF-INPUT - [0:0]\n-A VF-SIP -p udp -j ACCEPT\n-A VF-INPUT -j VF-SIP\n";
        let right = observed(ours, "-A INPUT -j VF-INPUT\n");
        assert_eq!(repair_input(&Repair::of(&wanted, None), &right), None);
        let without_jump = observed(ours, "");
        assert_eq!(
            repair_input(&Repair::of(&wanted, None), &without_jump).unwrap(),
            "*filter\n-A INPUT -j VF-INPUT\nCOMMIT\n"
        );
    }

    #[test]
    fn only_the_rules_that_differ_are_written() {
        let wanted = format!(
            "*filter\n:VF-A - [0:0]\n{}COMMIT\n",
            numbered(&[1, 2, 3, 4])
        );
        let wanted = parse_save(&wanted).unwrap();
        for (found, lines) in [
            (&[1, 2, 4][..], "-I VF-A 3 -i eth3 -j DROP\n"),
            (&[1, 2, 3], "-A VF-A -i eth4 -j DROP\n"),
            (&[9, 1, 2, 8, 3, 4, 7], "-D VF-A 1\n-D VF-A 3\n-D VF-A 5\n"),
            (
                &[1, 9, 8, 4],
                "-D VF-A 2\n-D VF-A 2\n-I VF-A 2 -i eth2 -j DROP\n-I VF-A 3 -i eth3 -j DROP\n",
            ),
            (&[2, 3, 4, 1], "-I VF-A 1 -i eth1 -j DROP\n-D VF-A 5\n"),
        ] {
            let text = format!(
                "*filter\n:INPUT DROP [0:0]\n:VF-A - [0:0]\n{}-A INPUT -j VF-INPUT\nCOMMIT\n",
                numbered(found)
            );
            let found = parse_save(&text).unwrap();
            assert_eq!(
                repair_input(&Repair::of(&wanted, None), &found).unwrap(),
                filter_section(lines)
            );
            let whole = Repair {
                whole_chains: true,
                ..Repair::of(&wanted, None)
            };
            let input = repair_input(&whole, &found).unwrap();
            assert!(
                input.starts_with("*filter\n:VF-A - [0:0]\n-A VF-A -i eth1"),
                "{input}"
            );
            let spared = Repair {
                spares: &|part| *part == RepairPart::Named("VF-A".to_owned()),
                ..Repair::of(&wanted, Some("ACCEPT"))
            };
            assert_eq!(
                repair_input(&spared, &found).unwrap(),
                filter_section("-P INPUT ACCEPT\n")
            );
        }
    }

    fn numbered(rules: &[u8]) -> String {
        rules.iter().fold(String::new(), |mut lines, number| {
            let _ = writeln!(lines, "-A VF-A -i eth{number} -j DROP");
            lines
        })
    }

    #[test]
    fn an_unwanted_chain_is_removed_with_its_jumps() {
        let wanted = parse_save(WANTED).unwrap();
        let ours = ":VF-SIP - [0:0]\n:VF-INPUT - [0:0]\n:VF-X - [0:0]\n-A VF-X -j DROP\n\
                    -A VF-SIP -p udp -j ACCEPT\n-A VF-INPUT -j VF-SIP\n-A FORWARD -j VF-X\n";
        let found = observed(ours, "-A INPUT -j VF-INPUT\n");
        assert_eq!(
            repair_input(&Repair::of(&wanted, None), &found).unwrap(),
            "*filter\n:VF-X - [0:0]\n-D FORWARD -j VF-X\n-X VF-X\nCOMMIT\n"
        );
    }
}
