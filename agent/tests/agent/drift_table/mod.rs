//! The drift table: edits of a node's rules and sets, the records that they leave, and what the
//! kernel holds after them. On the real kernel, each in both families and on both backends.

mod harmless;
mod jump;
mod nft;
mod node;
mod rules;
mod sets;
mod tables;

use std::time::Duration;

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass;
use voipfleet_ruleset::ruleset::Family;

use crate::support::in_namespace;
use node::{Node, brief};

/// One way to change something. In every text, `{ipt}` is iptables or ip6tables, `{nft}` nft's
/// family, `{4}` the number of the family, `{inet}` ipset's word for it, `{src}` a stranger,
/// `{one}` the same as the tools print it, and `{member}` what the list of denied sources has.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// A command.
    Run(&'static str),
    /// A command and its input.
    Feed(&'static str, &'static str),
    /// Lines for the filter table, in one `iptables-restore --noflush`.
    Lines(&'static str),
    /// The whole filter table as it was, changed, and restored without `--noflush`.
    Whole(fn(&str) -> String),
    /// `nft -f -` with `{handle}` of a rule of that chain: the nth, or the one with a text.
    Handle(&'static str, &'static str, &'static str),
    /// A packet to ourselves.
    Packet,
}

/// A record: class, chain, and the rule's label.
pub(crate) type Record = (DriftClass, &'static str, &'static str);

/// The records of an edit.
#[derive(Clone, Copy)]
pub(crate) enum Records {
    /// Exactly these.
    These(&'static [Record]),
    /// Every rule of ours and the jump are missing.
    Flushed,
    /// Every chain of ours and the jump are missing, and these.
    Gone(&'static [Record]),
}

/// What became of the rules and sets of others.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Others {
    /// They are as before.
    Same,
    /// There are more of them, which start so.
    More(&'static [&'static str]),
    /// The edit took them away, in its family.
    Wiped,
    /// The edit took them away, in both families.
    BothWiped,
}

/// One line of the table.
pub(crate) struct Edit {
    pub(crate) what: &'static str,
    /// Done before, without a record.
    pub(crate) before: &'static [Step],
    pub(crate) steps: &'static [Step],
    pub(crate) records: Records,
    pub(crate) others: Others,
    /// Takes away what the edit left.
    pub(crate) after: &'static [Step],
}

pub(crate) const fn edit(
    what: &'static str,
    steps: &'static [Step],
    records: &'static [Record],
) -> Edit {
    Edit {
        what,
        before: &[],
        steps,
        records: Records::These(records),
        others: Others::Same,
        after: &[],
    }
}

pub(crate) fn fill(text: &str, family: Family) -> String {
    let words: [(&str, &str); 8] = match family {
        Family::V4 => [
            ("{ipt}", "iptables"),
            ("{nft}", "ip"),
            ("{4}", "4"),
            ("{inet}", "inet"),
            ("{src}", "192.0.2.1"),
            ("{one}", "192.0.2.1/32"),
            ("{member}", "192.0.2.0/28"),
            ("{here}", "127.0.0.1:0"),
        ],
        Family::V6 => [
            ("{ipt}", "ip6tables"),
            ("{nft}", "ip6"),
            ("{4}", "6"),
            ("{inet}", "inet6"),
            ("{src}", "2001:db8:bad::1"),
            ("{one}", "2001:db8:bad::1/128"),
            ("{member}", "2001:db8:66::/64"),
            ("{here}", "[::1]:0"),
        ],
    };
    words
        .into_iter()
        .fold(text.to_owned(), |text, (word, value)| {
            text.replace(word, value)
        })
}

/// Proves all these edits, in both families.
pub(crate) fn table(backend: Backend, poll: Duration, edits: &'static [Edit]) {
    in_namespace(backend, move |place| {
        let node = Node::new(place);
        let agent = node.agent(poll);
        for edit in edits {
            for family in Family::BOTH {
                node.prove(&agent, edit, family);
            }
        }
    });
}

const TABLES: [&[Edit]; 5] = [
    rules::EDITS,
    jump::EDITS,
    tables::EDITS,
    nft::EDITS,
    sets::EDITS,
];

/// Every edit whose drift is repaired and recorded.
fn recorded_edits() -> impl Iterator<Item = &'static Edit> {
    TABLES.into_iter().flatten()
}

#[test]
fn no_table_of_edits_is_empty() {
    for (number, edits) in TABLES.iter().enumerate() {
        assert!(!edits.is_empty(), "table {number}");
    }
}

#[test]
fn edits_have_distinct_names() {
    let mut names = std::collections::BTreeSet::new();
    for edit in recorded_edits() {
        assert!(names.insert(edit.what), "{}", edit.what);
    }
}

#[test]
fn edits_cover_every_class_of_drift() {
    let classes: Vec<DriftClass> = recorded_edits()
        .flat_map(|edit| match edit.records {
            Records::These(records) | Records::Gone(records) => records,
            Records::Flushed => &[],
        })
        .map(|(class, ..)| *class)
        .collect();
    // 0 is unspecified.
    for class in (1..).map_while(|number| DriftClass::try_from(number).ok()) {
        // What cannot be read is not repaired: see unreadable.rs.
        let expected = class != DriftClass::Unreadable;
        assert_eq!(classes.contains(&class), expected, "{class:?}");
    }
}
