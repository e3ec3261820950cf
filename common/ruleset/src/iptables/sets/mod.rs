//! Address sets as input of `ipset restore`, and the output of `ipset save`.

mod elements;
mod plan;
mod saved_sets;
mod set_counts;
#[cfg(test)]
mod tests;
mod timer;

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::ruleset::{AddressSet, Expiring, Family, SetName};

pub(crate) use elements::{ElementChange, changes};
pub use plan::{SetPlan, SetRemoval, destroy, set_named, set_plan, set_renewal};
pub use saved_sets::{UnreadableSets, parse_ipset_save};
pub use set_counts::{SetCount, ShortSet, count_sets};
pub use timer::Slack;

/// The type of every set of ours.
const TYPE: &str = "hash:net";
/// Elements that a hash of the kernel's default size, 1024 buckets, takes without growing
/// often.
const DEFAULT_ROOM: usize = 4096;

/// A set of ours as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSet {
    /// Its name, with the family from the name.
    pub name: SetName,
    /// Its shape as `ipset save` prints it, without what the kernel picks by itself:
    /// `hash:net family inet maxelem 1024`.
    pub header: String,
    /// Its elements that stay, ascending; of a set of another type, those that are addresses
    /// or prefixes. Exceptions, which match nothing, are none.
    pub elements: Vec<IpNet>,
    /// Its elements that the kernel takes out by itself, ascending, with the seconds left.
    pub expiring: Vec<(IpNet, u32)>,
}

impl KernelSet {
    /// What the kernel holds of `set` once it is written at `now`, Unix time in seconds.
    pub fn written(set: &AddressSet, now: u64) -> Self {
        let timer = |one: &Expiring| Some((one.net, timer::seconds(one.until, now)?));
        let content = set.at(now);
        Self {
            name: set.name.clone(),
            header: header(set),
            elements: content.elements.clone(),
            expiring: content.expiring.iter().filter_map(timer).collect(),
        }
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.elements.len() + self.expiring.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The shape that the kernel should report for `set`, in the form of [`KernelSet::header`].
pub(crate) fn header(set: &AddressSet) -> String {
    format!(
        "{TYPE} family {} maxelem {}{}",
        family_word(set.name.family),
        set.max_elements,
        timers(set)
    )
}

/// With a default of 0, an element without a time of its own stays.
fn timers(set: &AddressSet) -> &'static str {
    if set.has_timers() { " timeout 0" } else { "" }
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

/// Input of `ipset restore` that makes `sets`, without elements, on a kernel without them.
pub fn set_shapes_input<'a>(sets: impl IntoIterator<Item = &'a AddressSet>) -> String {
    let mut lines = String::new();
    for set in sets {
        create(&mut lines, &set.name, set);
    }
    lines
}

/// Input of `ipset restore` that makes `sets` with their elements on a kernel without them.
/// `now`, Unix time in seconds, is when the kernel is given it: what is over is left out.
pub fn set_create_input<'a>(sets: impl IntoIterator<Item = &'a AddressSet>, now: u64) -> String {
    let mut lines = String::new();
    for set in sets {
        create_filled(&mut lines, &set.name, set, now);
    }
    lines
}

/// Makes `set` under `name`, and fills it.
fn create_filled(lines: &mut String, name: &SetName, set: &AddressSet, now: u64) {
    create(lines, name, set);
    let set = set.at(now);
    for element in &set.elements {
        let _ = writeln!(lines, "add {name} {element} -exist");
    }
    for one in &set.expiring {
        if let Some(seconds) = timer::seconds(one.until, now) {
            let _ = writeln!(lines, "add {name} {} timeout {seconds} -exist", one.net);
        }
    }
}

fn create(lines: &mut String, name: &SetName, set: &AddressSet) {
    let _ = write!(
        lines,
        "create {name} {TYPE} family {}",
        family_word(set.name.family)
    );
    if set.len() > DEFAULT_ROOM {
        // Room from the start: growing step by step costs more than the elements themselves.
        let _ = write!(lines, " hashsize {}", set.len().next_power_of_two() / 4);
    }
    let _ = writeln!(lines, " maxelem {}{} -exist", set.max_elements, timers(set));
}
