//! What turns the kernel's sets into those of a ruleset.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::timer::seconds;
use super::{
    ElementChange, KernelSet, Slack, TYPE, changes, create_filled, family_word, header,
    set_create_input,
};
use crate::ruleset::{AddressSet, Digest, Family, Ruleset, SetName, Until};

/// What to give `ipset restore` before and after the rules change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPlan {
    /// Before the rules: what they will name is made and filled. Empty: nothing to do.
    pub before: String,
    /// After the rules: removal of unwanted elements and sets. Empty if there is nothing to do.
    pub after: String,
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
            plan.after.push_str(&delta.after);
        } else if same_kind(&old.header, set.name.family) {
            let temporary = temporary_name(&set.name);
            if held.remove(&temporary).is_some() {
                let _ = writeln!(plan.before, "destroy {temporary}");
            }
            create_filled(&mut plan.before, &temporary, set, now);
            let _ = writeln!(plan.before, "swap {temporary} {}", set.name);
            // The old shape has the temporary name now; rules follow the content.
            let _ = writeln!(plan.before, "destroy {temporary}");
        } else {
            // The kernel swaps only sets of one type and family. No rule of ours can name
            // a set of another, so that it can go at once.
            let _ = writeln!(plan.before, "destroy {}", set.name);
            plan.before.push_str(&set_create_input([set], now));
        }
    }
    for name in held.keys() {
        let _ = writeln!(plan.after, "destroy {name}");
    }
    plan
}

/// The elements that differ, one by one. None: old and new ones stand together for a while,
/// and do not fit.
fn delta(set: &AddressSet, old: &KernelSet, now: u64) -> Option<SetPlan> {
    let mut plan = SetPlan::default();
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
        None if !set.expiring.is_empty() => lines.push_str(" timeout 0"),
        None => {}
    }
    lines.push_str(" -exist\n");
}

/// Input of `ipset restore` that sets timers right which only the course of time has put
/// wrong: kernel and clock drift apart, and the longest timer is shorter than some elements
/// live. Where the clock was `stepped` since they were set, all of them; elements with an end
/// that it brought back or made pass, too. Empty: nothing to do.
pub fn set_renewal(wanted: &Ruleset, observed: &[KernelSet], now: u64, stepped: bool) -> String {
    let mut lines = String::new();
    for set in wanted.sets.iter().filter(|set| !set.expiring.is_empty()) {
        let shape = header(set);
        let held = observed.iter().find(|held| held.name == set.name);
        let Some(held) = held.filter(|held| held.header == shape) else {
            continue;
        };
        for change in changes(set, held, now, Slack::EXACT) {
            match change {
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
    lines
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
