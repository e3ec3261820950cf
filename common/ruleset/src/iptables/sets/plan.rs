//! What turns the kernel's sets into those of a ruleset.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use ipnet::IpNet;

use super::timer::seconds;
use super::{
    ElementChange, KernelSet, Slack, TYPE, changes, create_filled, family_word, header,
    set_create_input,
};
use crate::ruleset::{AddressSet, Digest, Family, Ruleset, SetName, Until};

/// How many seconds after its time an element is added as a matter of course. Later than that, its
/// absence is somebody's doing.
const BEGINNING: u64 = 120;

/// What to give `ipset restore` before and after the rules change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPlan {
    /// Lines that make and fill what the rules will name.
    pub before: String,
    /// What goes when no rule names it any more.
    pub after: SetRemoval,
}

/// Elements and sets that go. As text, it is input of `ipset restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetRemoval {
    /// Lines that delete elements of sets that stay.
    pub elements: String,
    /// Sets to destroy. The kernel keeps those that a rule still names.
    pub sets: Vec<SetName>,
}

impl SetRemoval {
    /// Whether nothing goes.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.sets.is_empty()
    }
}

impl fmt::Display for SetRemoval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.elements)?;
        self.sets
            .iter()
            .try_for_each(|name| f.write_str(&destroy(name)))
    }
}

/// The line that destroys a set.
pub fn destroy(name: &SetName) -> String {
    format!("destroy {name}\n")
}

/// What turns the sets `observed` into those of `wanted` at `now`, Unix time in seconds: only
/// what differs.
///
/// A set of the same shape gets its new elements before the rules and loses the others
/// after. Another shape is built under a temporary name and swapped in. What is ours by
/// name and not wanted, so also what a crash left behind, is destroyed after the rules.
/// Either part can be given again after it failed half-way, against a fresh `observed`.
pub fn set_plan(wanted: &Ruleset, observed: &[KernelSet], now: u64) -> SetPlan {
    let mut held: BTreeMap<&SetName, &KernelSet> =
        observed.iter().map(|set| (&set.name, set)).collect();
    let mut plan = SetPlan::default();
    for set in &wanted.sets {
        let Some(old) = held.remove(&set.name) else {
            plan.before.push_str(&set_create_input([set], now));
            continue;
        };
        let same_shape = old.header == header(set);
        if same_shape && let Some(delta) = delta(set, old, now) {
            plan.before.push_str(&delta.before);
            plan.after.elements.push_str(&delta.after);
        } else if same_kind(&old.header, set.name.family) {
            let temporary = temporary_name(&set.name);
            if held.remove(&temporary).is_some() {
                plan.before.push_str(&destroy(&temporary));
            }
            create_filled(&mut plan.before, &temporary, set, now);
            let _ = writeln!(plan.before, "swap {temporary} {}", set.name);
            // The old shape has the temporary name now; rules follow the content.
            plan.before.push_str(&destroy(&temporary));
        } else {
            // The kernel swaps only sets of one type and family. No rule of ours can name
            // a set of another, so that it can go at once.
            plan.before.push_str(&destroy(&set.name));
            plan.before.push_str(&set_create_input([set], now));
        }
    }
    plan.after.sets = held.into_keys().cloned().collect();
    plan
}

/// The lines for one set, before and after the rules.
#[derive(Default)]
struct Delta {
    before: String,
    after: String,
}

/// The elements that differ, one by one. `None`: the set does not hold old and new ones together.
fn delta(set: &AddressSet, old: &KernelSet, now: u64) -> Option<Delta> {
    let mut plan = Delta::default();
    let mut added = 0;
    for change in changes(set, old, now, Slack::EXACT) {
        match change {
            ElementChange::Missing(net, end) => {
                added += 1;
                add(&mut plan.before, set, net, end, now);
            }
            ElementChange::Retimed { net, wanted, .. } => {
                add(&mut plan.before, set, net, wanted, now);
            }
            ElementChange::Extra(net, _) => {
                let _ = writeln!(plan.after, "del {} {net} -exist", set.name);
            }
        }
    }
    (old.len() + added <= set.max_elements as usize).then_some(plan)
}

/// Adds an element, or sets its timer anew.
fn add(lines: &mut String, set: &AddressSet, net: IpNet, end: Option<Until>, now: u64) {
    let _ = write!(lines, "add {} {net}", set.name);
    match end {
        Some(until) => {
            let _ = write!(lines, " timeout {}", seconds(until, now).unwrap_or(1));
        }
        None if set.has_timers() => lines.push_str(" timeout 0"),
        None => {}
    }
    lines.push_str(" -exist\n");
}

/// Input of `ipset restore` that sets timers right which only the course of time has put
/// wrong: kernel and clock drift apart, and the longest timer is shorter than some elements
/// live. Where the clock was `stepped` since they were set, all of them; elements with an end
/// that it brought back or made pass, too. And elements whose time has come. `None` where all is
/// right.
pub fn set_renewal(
    wanted: &Ruleset,
    observed: &[KernelSet],
    now: u64,
    stepped: bool,
) -> Option<String> {
    let mut lines = String::new();
    let changes_by_itself = |set: &&AddressSet| set.has_timers() || !set.scheduled.is_empty();
    for set in wanted.sets.iter().filter(changes_by_itself) {
        let shape = header(set);
        let held = observed.iter().find(|held| held.name == set.name);
        let Some(held) = held.filter(|held| held.header == shape) else {
            continue;
        };
        let begins = |net: &IpNet| stepped || set.begins_about(net, now, BEGINNING);
        for change in changes(set, held, now, Slack::EXACT) {
            match change {
                ElementChange::Missing(net, end)
                    if set.scheduled_now(&net, now) && begins(&net) =>
                {
                    add(&mut lines, set, net, end, now);
                }
                ElementChange::Retimed { net, wanted, .. }
                    if set.scheduled_now(&net, now) && begins(&net) =>
                {
                    add(&mut lines, set, net, wanted, now);
                }
                ElementChange::Retimed {
                    net,
                    wanted: Some(until),
                    found: Some(found),
                } if stepped || Slack::DRIFT.fits(until.left(now), found) => {
                    add(&mut lines, set, net, Some(until), now);
                }
                ElementChange::Missing(net, Some(until)) if stepped => {
                    add(&mut lines, set, net, Some(until), now);
                }
                ElementChange::Extra(net, Some(_)) if stepped && set.holds(&net) => {
                    let _ = writeln!(lines, "del {} {net} -exist", set.name);
                }
                _ => {}
            }
        }
    }
    (!lines.is_empty()).then_some(lines)
}

/// The set of `wanted` that has this kernel name, or is built under it.
pub fn set_named<'a>(wanted: &'a Ruleset, kernel_name: &str) -> Option<&'a AddressSet> {
    let name = SetName::from_kernel_name(kernel_name)?;
    wanted
        .sets
        .iter()
        .find(|set| set.name == name || temporary_name(&set.name) == name)
}

/// Whether the kernel swaps a set of this header with one of ours of `family`.
fn same_kind(header: &str, family: Family) -> bool {
    let mut words = header.split(' ');
    (words.next(), words.next(), words.next())
        == (Some(TYPE), Some("family"), Some(family_word(family)))
}

/// The name under which a set of another shape is built: `vf-new-<8 hex digits>-<family>`.
/// The same set gets the same name again, so that what a crash left is found and replaced.
pub(super) fn temporary_name(name: &SetName) -> SetName {
    let digest = Digest::of(name.kernel_name().as_bytes()).to_string();
    let stem = format!("new-{}", digest.get(..8).unwrap_or_default());
    SetName {
        // Always a stem: 12 of its alphabet.
        stem: stem.parse().unwrap_or_else(|_| name.stem.clone()),
        family: name.family,
    }
}
