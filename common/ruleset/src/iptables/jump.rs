//! The rules of ours in a chain that is not ours: the jump from `INPUT`, and its guards.

use std::fmt::Write as _;

use super::foreign_targets::BeforeUs;
use super::jump_order::{Entry, JUMP, JumpOrder, Overruled};
use super::words::{is_ours, jumps_to};
use super::{HiddenCause, SavedChain, Table, filter_section};

/// How `INPUT` jumps to our chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JumpState {
    /// Once, without conditions; our chain judges whatever a rule above can accept, and nothing else
    /// that a rule above can drop.
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
    /// Every packet comes to us, but our chain judges some before a foreign rule that drops them.
    Displaced {
        /// The jump that should not be where it is, as iptables-save prints it.
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
    /// A rule can accept if its target is `ACCEPT`, or one that takes packets (a queue to a program,
    /// a media proxy, any target that is not known to leave them), or a chain of others
    /// from which one of these can be reached, be it through a chain of ours that is not meant
    /// to be entered there; and, where the policy is not DROP, if it leaves
    /// `INPUT` for good (`-j RETURN`, or `-g` to a chain that comes to its end). Rules that drop
    /// some packets, as fail2ban's, may be above us; one that drops all may not.
    ///
    /// The jump is just above the first rule that can accept. Where rules that only drop are between
    /// the two, it stays below those, and a guard just above the accepting rule sends what that rule
    /// would accept to our chain.
    pub fn jump(&self) -> JumpState {
        let Some(order) = JumpOrder::of(self) else {
            return JumpState::Missing;
        };
        let jumps = order.count(&Entry::Jump);
        if jumps == 0 {
            return JumpState::Missing;
        }
        if jumps > 1 || order.count(&Entry::Other) > 0 {
            return JumpState::Repeated;
        }
        if let Some(rule) = order.unguarded() {
            return JumpState::Below {
                rule: rule.to_owned(),
            };
        }
        match order.displaced() {
            Some(rule) => JumpState::Displaced { rule },
            None => JumpState::Right,
        }
    }

    /// Whether a guard sends every packet to our chain before a foreign rule can accept it, so that the
    /// node is closed even without the jump.
    pub fn is_guarded(&self) -> bool {
        JumpOrder::of(self).is_some_and(|order| order.is_guarded())
    }

    /// The rules of `INPUT` that jump to a chain of ours and are neither the jump nor a guard of it.
    pub fn altered_jumps(&self) -> Vec<&str> {
        JumpOrder::of(self)
            .map(|order| order.others())
            .unwrap_or_default()
    }

    /// The rules of `INPUT` that jump to a chain of ours and should not be there.
    pub fn needless_jumps(&self) -> Vec<&str> {
        JumpOrder::of(self)
            .map(|order| order.needless())
            .unwrap_or_default()
    }

    /// The rules of `INPUT` above our jump that only drop some packets. None without a jump.
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
            .filter(|rule| before_us.only_drops(rule) && !jumps_to(rule, is_ours))
            .collect()
    }

    /// Foreign rules that only drop, and that our chain overrules: what the policy opens does not
    /// come to them. The foreign rules say so themselves, with a rule above that can accept.
    pub fn overruled(&self) -> Vec<Overruled<'_>> {
        JumpOrder::of(self)
            .map(|order| order.overruled())
            .unwrap_or_default()
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
/// jump without conditions, and guards where [`Table::jump`] wants them; none when all is right
/// already. The chain `VF-INPUT` must exist by then.
///
/// Rules are deleted by their text and not by number, wherever that can be written: if another
/// program edits `INPUT` in the meantime, the restore fails and is tried again, and no
/// foreign rule is lost.
pub fn jump_edit(table: &Table) -> Option<String> {
    if table.jump() == JumpState::Right {
        return None;
    }
    let mut lines = String::new();
    let Some((input, order)) = table.chain("INPUT").zip(JumpOrder::of(table)) else {
        let _ = writeln!(lines, "{JUMP}");
        return Some(lines);
    };
    delete(&mut lines, table, input, is_ours);
    let wanted = order.wanted();
    let mut present = wanted.iter().filter(|entry| entry.is_foreign()).count();
    for (place, entry) in wanted.iter().enumerate() {
        let Some(rule) = entry.rule() else {
            continue;
        };
        if place == present {
            let _ = writeln!(lines, "-A INPUT {rule}");
        } else {
            let _ = writeln!(lines, "-I INPUT {} {rule}", place + 1);
        }
        present += 1;
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

#[cfg(test)]
#[path = "jump_tests.rs"]
mod tests;
