//! The drift table: what others do to a node's rules and sets, what is told of it, and what the
//! kernel holds after it. On the real kernel, each line in both families and on both backends.

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
/// family, `{4}` the number of the family, `{inet}` ipset's word for it, `{src}` a stranger, `{one}`
/// the same as the tools print it, and `{member}` what the list of denied sources has.
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

/// What is told of an edit: class, chain, and the rule's label.
pub(crate) type Told = (DriftClass, &'static str, &'static str);

/// All that is told of an edit.
#[derive(Clone, Copy)]
pub(crate) enum Records {
    /// Exactly these.
    These(&'static [Told]),
    /// Every rule of ours and the jump are missing.
    Flushed,
    /// Every chain of ours and the jump are missing, and what else is told.
    Gone(&'static [Told]),
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
    /// Done before, and nobody's concern.
    pub(crate) before: &'static [Step],
    pub(crate) steps: &'static [Step],
    pub(crate) told: Records,
    pub(crate) others: Others,
    /// Takes away what the edit left.
    pub(crate) after: &'static [Step],
}

pub(crate) const fn edit(
    what: &'static str,
    steps: &'static [Step],
    told: &'static [Told],
) -> Edit {
    Edit {
        what,
        before: &[],
        steps,
        told: Records::These(told),
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

#[test]
fn the_table_is_as_long_as_it_should_be() {
    let edits: Vec<&str> = [
        rules::EDITS,
        jump::EDITS,
        tables::EDITS,
        nft::EDITS,
        sets::EDITS,
    ]
    .into_iter()
    .flatten()
    .map(|edit| edit.what)
    .collect();
    let distinct: std::collections::BTreeSet<&str> = edits.iter().copied().collect();
    assert_eq!(distinct.len(), edits.len());
    assert!(edits.len() >= 80, "{}", edits.len());
    assert!(harmless::number() >= 50, "{}", harmless::number());
}
