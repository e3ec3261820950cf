//! Address sets as input of `ipset restore`, and the output of `ipset save`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;

use super::words::shorten;
use crate::ruleset::{AddressSet, Digest, Family, Ruleset, SetName};

/// The type of every set of ours.
const TYPE: &str = "hash:net";
/// Options of a set that the kernel or the tool picks by itself.
const PICKED: [&str; 3] = ["hashsize", "bucketsize", "initval"];
/// Elements that a hash of the kernel's default size, 1024 buckets, takes without growing
/// often.
const DEFAULT_ROOM: usize = 4096;

/// A set of ours as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSet {
    /// Its name, with the family that the name says.
    pub name: SetName,
    /// Its shape as `ipset save` prints it, without what the kernel picks by itself:
    /// `hash:net family inet maxelem 1024`.
    pub header: String,
    /// Its elements; of a set of another type, those that are addresses or prefixes.
    pub elements: BTreeSet<IpNet>,
}

/// Output of `ipset save` that says nothing certain about the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the output of ipset save makes no sense: {text:?}")]
pub struct UnreadableSets {
    /// The line's number, from 1.
    pub line: usize,
    /// The line, cut to what is worth showing.
    pub text: String,
}

/// What to give `ipset restore` before and after the rules change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPlan {
    /// Before the rules: what they will name is made and filled. Empty: nothing to do.
    pub before: String,
    /// After the rules: elements and sets that nobody wants go. Empty: nothing to do.
    pub after: String,
}

/// The shape that the kernel should report for `set`, in the form of [`KernelSet::header`].
pub(crate) fn header(set: &AddressSet) -> String {
    format!(
        "{TYPE} family {} maxelem {}",
        family_word(set.name.family),
        set.max_elements
    )
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

/// Reads our sets in the output of `ipset save`, in the order of the output.
///
/// A set with extensions, or with an element marked `nomatch`, has a header that says so,
/// and so another shape than any that we make.
pub fn parse_ipset_save(text: &str) -> Result<Vec<KernelSet>, UnreadableSets> {
    let mut sets: Vec<KernelSet> = Vec::new();
    let mut places: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let nonsense = || UnreadableSets {
            line: index + 1,
            text: shorten(line),
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("create"), Some(name), Some(kind)) => {
                let place = SetName::from_kernel_name(name).map(|name| {
                    sets.push(KernelSet {
                        name,
                        header: read_header(kind, words),
                        elements: BTreeSet::new(),
                    });
                    sets.len() - 1
                });
                if places.insert(name, place).is_some() {
                    return Err(nonsense());
                }
            }
            (Some("add"), Some(name), Some(element)) => {
                let Some(place) = places.get(name).ok_or_else(nonsense)? else {
                    continue;
                };
                let set = sets.get_mut(*place).ok_or_else(nonsense)?;
                match read_element(element) {
                    Some(net) => {
                        set.elements.insert(net);
                    }
                    None if set.header.starts_with("hash:net ") => return Err(nonsense()),
                    None => {}
                }
                if words.any(|word| word == "nomatch") && !set.header.ends_with(" nomatch") {
                    set.header.push_str(" nomatch");
                }
            }
            _ => return Err(nonsense()),
        }
    }
    Ok(sets)
}

fn read_header<'a>(kind: &str, mut words: impl Iterator<Item = &'a str>) -> String {
    let mut header = kind.to_owned();
    while let Some(word) = words.next() {
        if PICKED.contains(&word) {
            words.next();
        } else {
            header.push(' ');
            header.push_str(word);
        }
    }
    header
}

/// An address or prefix; ipset prints no length for a single address.
fn read_element(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<std::net::IpAddr>().ok()?),
    };
    Some(net.trunc())
}

/// Input of `ipset restore` that makes `sets` on a kernel without them.
pub fn set_create_input<'a>(
    sets: impl IntoIterator<Item = &'a AddressSet>,
    with_elements: bool,
) -> String {
    let mut lines = String::new();
    for set in sets {
        create(&mut lines, &set.name.kernel_name(), set);
        if with_elements {
            for element in &set.elements {
                let _ = writeln!(lines, "add {} {element} -exist", set.name);
            }
        }
    }
    lines
}

fn create(lines: &mut String, name: &str, set: &AddressSet) {
    let _ = write!(
        lines,
        "create {name} {TYPE} family {}",
        family_word(set.name.family)
    );
    if set.elements.len() > DEFAULT_ROOM {
        // Room from the start: growing step by step costs more than the elements themselves.
        let _ = write!(
            lines,
            " hashsize {}",
            set.elements.len().next_power_of_two() / 4
        );
    }
    let _ = writeln!(lines, " maxelem {} -exist", set.max_elements);
}

/// What turns the sets `observed` into those of `wanted`: only what differs.
///
/// A set of the same shape gets its new elements before the rules and loses the others
/// after. Another shape is built under a temporary name and swapped in. What is ours by
/// name and not wanted, so also what a crash left behind, is destroyed after the rules.
/// Either part can be given again after it failed half-way, against a fresh `observed`.
pub fn set_plan(wanted: &Ruleset, observed: &[KernelSet]) -> SetPlan {
    let mut held: BTreeMap<&SetName, &KernelSet> =
        observed.iter().map(|set| (&set.name, set)).collect();
    let mut plan = SetPlan::default();
    let mut destroyed = String::new();
    for set in &wanted.sets {
        let Some(old) = held.remove(&set.name) else {
            plan.before.push_str(&set_create_input([set], true));
            continue;
        };
        let elements: BTreeSet<IpNet> = set.elements.iter().copied().collect();
        let added: Vec<&IpNet> = elements.difference(&old.elements).collect();
        // Old and new elements stand together for a while, and must fit.
        let fits = old.elements.len() + added.len() <= set.max_elements as usize;
        if old.header == header(set) && fits {
            for element in added {
                let _ = writeln!(plan.before, "add {} {element} -exist", set.name);
            }
            for element in old.elements.difference(&elements) {
                let _ = writeln!(plan.after, "del {} {element} -exist", set.name);
            }
        } else if same_kind(&old.header, set.name.family) {
            let temporary = temporary_name(&set.name);
            let kernel_name = temporary.kernel_name();
            if held.remove(&temporary).is_some() {
                let _ = writeln!(plan.before, "destroy {temporary}");
            }
            create(&mut plan.before, &kernel_name, set);
            for element in &set.elements {
                let _ = writeln!(plan.before, "add {temporary} {element} -exist");
            }
            let _ = writeln!(plan.before, "swap {temporary} {}", set.name);
            // The old shape has the temporary name now; rules follow the content.
            let _ = writeln!(plan.before, "destroy {temporary}");
        } else {
            // The kernel swaps only sets of one type and family. No rule of ours can name
            // a set of another, so that it can go at once.
            let _ = writeln!(plan.before, "destroy {}", set.name);
            plan.before.push_str(&set_create_input([set], true));
        }
    }
    for name in held.keys() {
        let _ = writeln!(destroyed, "destroy {name}");
    }
    plan.after.push_str(&destroyed);
    plan
}

/// Whether the kernel swaps a set of this header with one of ours of `family`.
fn same_kind(header: &str, family: Family) -> bool {
    let mut words = header.split(' ');
    (words.next(), words.next(), words.next())
        == (Some(TYPE), Some("family"), Some(family_word(family)))
}

/// The name under which a set of another shape is built: `vf-new-<8 hex digits>-<family>`.
/// The same set gets the same name again, so that what a crash left is found and replaced.
fn temporary_name(name: &SetName) -> SetName {
    let digest = Digest::of(name.kernel_name().as_bytes()).to_string();
    let stem = format!("new-{}", digest.get(..8).unwrap_or_default());
    SetName {
        // Always a stem: 12 of its alphabet.
        stem: stem.parse().unwrap_or_else(|_| name.stem.clone()),
        family: name.family,
    }
}

#[cfg(test)]
#[path = "sets_tests.rs"]
mod tests;
