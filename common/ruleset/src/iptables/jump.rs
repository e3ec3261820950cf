//! The one rule of ours in a chain that is not ours: the jump from `INPUT`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::words::{is_ours, options, split, target};
use super::{HiddenCause, SavedChain, Table, filter_section};
use crate::ruleset::INPUT_CHAIN;

/// The jump as iptables-save prints it.
pub const JUMP: &str = "-A INPUT -j VF-INPUT";

/// How `INPUT` jumps to our chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JumpState {
    /// Once, without conditions, and no rule above can accept a packet or ends all of them.
    Right,
    /// Not at all, or only under conditions.
    Missing,
    /// Once without conditions, and again, with or without.
    Repeated,
    /// Below a rule that can accept a packet before we see it, or lets none come to us.
    Below {
        /// That rule, as iptables-save prints it.
        rule: String,
    },
}

impl Table {
    /// The rules of `INPUT` that jump to a chain of ours, whatever their conditions.
    pub fn jumps(&self) -> Vec<&str> {
        self.chain("INPUT")
            .map(|input| references(input, is_ours).collect())
            .unwrap_or_default()
    }

    /// How `INPUT` jumps to our chain.
    ///
    /// A rule can accept if its target is `ACCEPT` or a queue to a program, or a chain of others
    /// from which one of these can be reached, be it through a chain of ours that is not meant
    /// to be entered there; and, where the policy is not DROP, if it leaves
    /// `INPUT` for good (`-j RETURN`, or `-g` to a chain that comes to its end). Rules that drop
    /// some packets, as fail2ban's, may be above us; one that drops all may not.
    pub fn jump(&self) -> JumpState {
        let Some(input) = self.chain("INPUT") else {
            return JumpState::Missing;
        };
        let Some(place) = input.rules.iter().position(|rule| rule == JUMP) else {
            return JumpState::Missing;
        };
        if references(input, is_ours).count() > 1 {
            return JumpState::Repeated;
        }
        let before_us = BeforeUs::of(self);
        match input
            .rules
            .iter()
            .take(place)
            .find(|rule| before_us.decides(rule))
        {
            Some(rule) => JumpState::Below { rule: rule.clone() },
            None => JumpState::Right,
        }
    }
}

impl Table {
    /// The rules of `INPUT` above our jump that may stay there: they drop some packets, and
    /// accept none. None without a jump.
    pub fn tolerated(&self) -> Vec<&str> {
        let Some(input) = self.chain("INPUT") else {
            return Vec::new();
        };
        let Some(place) = input.rules.iter().position(|rule| rule == JUMP) else {
            return Vec::new();
        };
        let before_us = BeforeUs::of(self);
        input
            .rules
            .iter()
            .take(place)
            .map(String::as_str)
            .filter(|rule| !before_us.decides(rule) && !jumps_to(rule, is_ours))
            .collect()
    }
}

impl Table {
    /// Whether iptables can delete a rule of that chain by its text. It compares the text with each
    /// rule of the chain, and fails at one whose library is missing. Where only nft has words for
    /// one, the text of the others is not known, except that of our jump.
    fn can_delete_by_text(&self, chain: &str, rule: &str) -> bool {
        let mut hidden = self.hidden_in(chain).peekable();
        hidden.peek().is_none()
            || (rule == JUMP && hidden.all(|hidden| hidden.cause == HiddenCause::NftOnly))
    }
}

/// Lines for a `*filter` section of `iptables-restore --noflush` that leave exactly one
/// jump, without conditions, just above the first rule that can accept or ends all packets;
/// none when it is right already. The chain `VF-INPUT` must exist by then.
///
/// Rules are deleted by their text and not by number, wherever that can be written: if another
/// program edits `INPUT` in the meantime, the restore fails and is tried again, and no
/// foreign rule is lost.
pub fn jump_edit(table: &Table) -> Option<String> {
    if table.jump() == JumpState::Right {
        return None;
    }
    let mut lines = String::new();
    let mut place = None;
    if let Some(input) = table.chain("INPUT") {
        delete(&mut lines, table, input, is_ours);
        let before_us = BeforeUs::of(table);
        place = input
            .rules
            .iter()
            .filter(|rule| !jumps_to(rule, is_ours))
            .position(|rule| before_us.decides(rule));
    }
    match place {
        Some(above) => {
            let _ = writeln!(lines, "-I INPUT {} -j VF-INPUT", above + 1);
        }
        None => {
            let _ = writeln!(lines, "{JUMP}");
        }
    }
    Some(lines)
}

/// Whole input of `iptables-restore --noflush` that removes our chains and every rule that
/// jumps to them; none when there is nothing of ours.
pub fn removal(table: &Table) -> Option<String> {
    let mut declared = String::new();
    let mut deleted = String::new();
    let mut removed = String::new();
    for chain in &table.chains {
        if is_ours(&chain.name) {
            // Declaring a chain empties it, so that no jump between ours is left.
            let _ = writeln!(declared, ":{} - [0:0]", chain.name);
            let _ = writeln!(removed, "-X {}", chain.name);
        } else {
            delete(&mut deleted, table, chain, is_ours);
        }
    }
    let lines = declared + &deleted + &removed;
    (!lines.is_empty()).then(|| filter_section(&lines))
}

/// Lines that remove the chains `stale`, which must be empty by then, with the rules of
/// foreign chains that jump to them. `INPUT` is left to [`jump_edit`].
pub(super) fn retire(stale: &[&str], observed: &Table) -> String {
    let mut lines = String::new();
    let foreign = |chain: &&SavedChain| !is_ours(&chain.name) && chain.name != "INPUT";
    for chain in observed.chains.iter().filter(foreign) {
        delete(&mut lines, observed, chain, |target| {
            stale.contains(&target)
        });
    }
    for name in stale {
        let _ = writeln!(lines, "-X {name}");
    }
    lines
}

/// Deletes the rules of `chain` that jump to one of the chosen chains.
fn delete(lines: &mut String, table: &Table, chain: &SavedChain, chosen: impl Fn(&str) -> bool) {
    let by_text = |rule: &str| fits_one_line(rule) && table.can_delete_by_text(&chain.name, rule);
    // A comment may hold a line break or bytes that are no text: no restore can write such a
    // rule. From the end, so that the numbers before it stay.
    for (place, rule) in chain.rules.iter().enumerate().rev() {
        if !by_text(rule) && jumps_to(rule, &chosen) {
            let _ = writeln!(lines, "-D {} {}", chain.name, place + 1);
        }
    }
    for rule in references(chain, chosen).filter(|rule| by_text(rule)) {
        let _ = writeln!(lines, "-D{}", rule.strip_prefix("-A").unwrap_or(rule));
    }
}

/// Whether a line of restore input can hold the rule.
fn fits_one_line(rule: &str) -> bool {
    !rule.contains(['\n', char::REPLACEMENT_CHARACTER])
}

fn jumps_to(rule: &str, chosen: impl Fn(&str) -> bool) -> bool {
    target(rule).is_some_and(|target| chosen(&target))
}

/// The rules of `chain` that jump to one of the chosen chains.
pub(super) fn references(
    chain: &SavedChain,
    chosen: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &str> {
    chain
        .rules
        .iter()
        .map(String::as_str)
        .filter(move |rule| jumps_to(rule, &chosen))
}

/// Targets that can let a packet in: a program behind a queue may, and so does the queue
/// itself with `--queue-bypass` while no program listens.
const ACCEPTING: [&str; 3] = ["ACCEPT", "NFQUEUE", "QUEUE"];

/// Which rules of `INPUT` decide on packets before our chain sees them.
struct BeforeUs {
    /// The chains from which a packet can be accepted without passing the start of ours.
    accepting: HashSet<String>,
    /// What leaves `INPUT` for good meets a policy that lets it in.
    leaving_accepts: bool,
}

impl BeforeUs {
    fn of(table: &Table) -> Self {
        let mut callers: HashMap<String, Vec<&str>> = HashMap::new();
        let not_our_start = |chain: &&SavedChain| chain.name != INPUT_CHAIN;
        for chain in table.chains.iter().filter(not_our_start) {
            for target in chain.rules.iter().filter_map(|rule| target(rule)) {
                callers.entry(target).or_default().push(&chain.name);
            }
        }
        let mut accepting = HashSet::new();
        let mut open = ACCEPTING.to_vec();
        while let Some(target) = open.pop() {
            for caller in callers.get(target).into_iter().flatten() {
                if accepting.insert((*caller).to_owned()) {
                    open.push(caller);
                }
            }
        }
        let policy = table
            .chain("INPUT")
            .and_then(|input| input.policy.as_deref());
        Self {
            accepting,
            leaving_accepts: policy != Some("DROP"),
        }
    }

    fn decides(&self, rule: &str) -> bool {
        let Some(words) = split(rule) else {
            return true;
        };
        let Some(target) = target(rule) else {
            return false;
        };
        // In a chain that is jumped to, RETURN comes back to the next rule; in INPUT, and after
        // the end of a chain that INPUT went to for good, the policy decides.
        let leaves = target == "RETURN" || goes_for_good(&words);
        ACCEPTING.contains(&target.as_str())
            || self.accepting.contains(&target)
            || (leaves && self.leaving_accepts)
            || (is_unconditional(&words) && matches!(target.as_str(), "DROP" | "REJECT" | "RETURN"))
    }
}

/// Whether a rule goes to its chain with `-g`: the end of that chain ends the rule's own.
fn goes_for_good(words: &[String]) -> bool {
    options(words).any(|option| option == "-g")
}

/// Whether a rule is for every packet: nothing but comments before its target.
fn is_unconditional(words: &[String]) -> bool {
    let rest = words.get(2..).unwrap_or_default();
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-j" | "-g" => return true,
            "-m" if rest.next() == Some("comment") => {}
            "--comment" => drop(rest.next()),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
#[path = "jump_tests.rs"]
mod tests;
