//! The output of `ipset save`.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::words::shorten;
use super::KernelSet;
use crate::ruleset::SetName;

/// Options of a set that the kernel or the tool picks by itself.
const PICKED: [&str; 3] = ["hashsize", "bucketsize", "initval"];

/// Output of `ipset save` that cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the output of ipset save makes no sense: {text:?}")]
pub struct UnreadableSets {
    /// The line's number, from 1.
    pub line: usize,
    /// The line, cut to what is worth showing.
    pub text: String,
}

/// Reads our sets in the output of `ipset save`, in the order of the output.
///
/// A set with extensions, or with an element marked `nomatch`, has a header that says so,
/// and so another shape than any that we make.
pub fn parse_ipset_save(text: &str) -> Result<Vec<KernelSet>, UnreadableSets> {
    let mut sets: Vec<KernelSet> = Vec::new();
    // Where the set of a name is; none: it is not ours.
    let mut places: HashMap<&str, Option<usize>> = HashMap::new();
    // The elements of a set come together: its name is looked up once for all of them.
    let mut last: Option<(&str, Option<usize>)> = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let nonsense = || UnreadableSets {
            line: index + 1,
            text: shorten(line),
        };
        if line.starts_with("add ") && parts_quotes(line) {
            // A line break in a comment is printed as it is; a quote is never in one.
            let end = lines.find(|(_, more)| parts_quotes(more));
            end.ok_or_else(nonsense)?;
        }
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("add"), Some(name), Some(element)) => {
                let place = match last {
                    Some((known, place)) if known == name => place,
                    _ => *places.get(name).ok_or_else(nonsense)?,
                };
                last = Some((name, place));
                let Some(place) = place else {
                    continue;
                };
                let set = sets.get_mut(place).ok_or_else(nonsense)?;
                add(set, element, words).ok_or_else(nonsense)?;
            }
            (Some("create"), Some(name), Some(kind)) => {
                let place = SetName::from_kernel_name(name).map(|name| {
                    sets.push(KernelSet {
                        name,
                        header: read_header(kind, words),
                        elements: Vec::new(),
                        expiring: Vec::new(),
                    });
                    sets.len() - 1
                });
                if places.insert(name, place).is_some() {
                    return Err(nonsense());
                }
            }
            (None, ..) => {}
            (Some(word), ..) if word.starts_with('#') => {}
            _ => return Err(nonsense()),
        }
    }
    for set in &mut sets {
        // The kernel keeps them by hash.
        set.elements.sort_unstable();
        set.elements.dedup();
        set.expiring.sort_unstable();
        set.expiring.dedup_by_key(|(net, _)| *net);
    }
    Ok(sets)
}

/// Whether a comment begins in `line` and does not end there, or the other way round.
fn parts_quotes(line: &str) -> bool {
    line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1
}

/// Takes one element with its options.
fn add<'a>(
    set: &mut KernelSet,
    element: &str,
    mut words: impl Iterator<Item = &'a str>,
) -> Option<()> {
    let net = match read_element(element) {
        Some(net) => net,
        None if set.header.starts_with("hash:net ") => return None,
        None => return Some(()),
    };
    let mut timer = 0;
    while let Some(word) = words.next() {
        match word {
            "timeout" => timer = words.next()?.parse().ok()?,
            "nomatch" => {
                if !set.header.ends_with(" nomatch") {
                    set.header.push_str(" nomatch");
                }
                return Some(());
            }
            _ => {}
        }
    }
    if timer == 0 {
        set.elements.push(net);
    } else {
        set.expiring.push((net, timer));
    }
    Some(())
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
    if text.contains('/') {
        return text.parse::<IpNet>().ok().map(|net| net.trunc());
    }
    text.parse::<IpAddr>().ok().map(IpNet::from)
}
