//! Bounds on an encoded ruleset before it is decoded: an empty message is two bytes of input and
//! fifty of memory.

use crate::protobuf::next_field;

/// The most of everything that a ruleset may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) admins: usize,
    /// Bytes of the list.
    pub(super) ssh_ports: usize,
    pub(super) sets: usize,
    /// Of all sets.
    pub(super) elements: usize,
    /// Of all sets.
    pub(super) dynamic_names: usize,
    pub(super) chains: usize,
    /// Of all chains.
    pub(super) rules: usize,
    /// Bytes of a rule.
    pub(super) rule: usize,
    pub(super) probes: usize,
    /// Bytes of a probe.
    pub(super) probe: usize,
}

/// Field numbers of `ruleset.proto`.
const ADMINS: u32 = 4;
const SSH_PORTS: u32 = 5;
const SETS: u32 = 6;
const CHAINS: u32 = 7;
const PROBES: u32 = 8;
const ELEMENTS_OF_SET: u32 = 4;
const EXPIRING_OF_SET: u32 = 5;
const DYNAMIC_SETS_OF_SET: u32 = 6;
const SCHEDULED_OF_SET: u32 = 8;
const WITHIN_OF_SET: u32 = 9;
/// Of encoded dynamic sets and of each.
const SOURCES: u32 = 2;
const ELEMENTS_OF_SOURCE: u32 = 2;
const EXPIRING_OF_SOURCE: u32 = 3;
const RULES_OF_CHAIN: u32 = 2;

/// Counts what is there, without reading it. Bytes that are no protobuf are left to the decoder.
pub(super) fn check(bytes: &[u8], bounds: Bounds) -> Result<(), String> {
    let (mut admins, mut sets, mut elements, mut chains, mut rules) = (0, 0, 0, 0, 0);
    let (mut probes, mut dynamic_names) = (0, 0);
    fields(bytes, |tag, content| match tag {
        ADMINS => most(&mut admins, bounds.admins, "admins"),
        SSH_PORTS if content.len() > bounds.ssh_ports => Err("too many SSH ports".to_owned()),
        SETS => {
            most(&mut sets, bounds.sets, "sets")?;
            fields(content, |tag, _| match tag {
                ELEMENTS_OF_SET | EXPIRING_OF_SET | SCHEDULED_OF_SET | WITHIN_OF_SET => {
                    most(&mut elements, bounds.elements, "elements of sets")
                }
                DYNAMIC_SETS_OF_SET => most(
                    &mut dynamic_names,
                    bounds.dynamic_names,
                    "names of dynamic sets",
                ),
                _ => Ok(()),
            })
        }
        CHAINS => {
            most(&mut chains, bounds.chains, "chains")?;
            fields(content, |tag, rule| match tag {
                RULES_OF_CHAIN if rule.len() > bounds.rule => {
                    Err(format!("a rule of more than {} bytes", bounds.rule))
                }
                RULES_OF_CHAIN => most(&mut rules, bounds.rules, "rules"),
                _ => Ok(()),
            })
        }
        PROBES if content.len() > bounds.probe => {
            Err(format!("a probe of more than {} bytes", bounds.probe))
        }
        PROBES => most(&mut probes, bounds.probes, "probes"),
        _ => Ok(()),
    })
}

/// The same for encoded dynamic sets: their number, and the elements of all of these.
pub(super) fn check_dynamic(bytes: &[u8], sources: usize, elements: usize) -> Result<(), String> {
    let (mut found, mut all) = (0, 0);
    fields(bytes, |tag, content| match tag {
        SOURCES => {
            most(&mut found, sources, "sources")?;
            fields(content, |tag, _| match tag {
                ELEMENTS_OF_SOURCE | EXPIRING_OF_SOURCE => most(&mut all, elements, "addresses"),
                _ => Ok(()),
            })
        }
        _ => Ok(()),
    })
}

fn most(count: &mut usize, most: usize, what: &str) -> Result<(), String> {
    *count += 1;
    if *count > most {
        return Err(format!("more than {most} {what}"));
    }
    Ok(())
}

/// Visits the fields that have content; ends at the first that cannot be read.
fn fields(
    mut bytes: &[u8],
    mut visit: impl FnMut(u32, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    while let Some(field) = next_field(&mut bytes) {
        if let Some(content) = field.content {
            visit(field.tag, content)?;
        }
    }
    Ok(())
}
