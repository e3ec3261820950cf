//! What other rulesets would change on the nodes of a site, in words.
//!
//! Rules are compared by meaning, sets by their members, and access by address and port:
//! an address that moves from one set to another, or into a wider prefix, loses nothing. Sets
//! that several nodes share are compared once.

mod access;
mod kernel_features;
mod lines;
mod listeners;
mod owners;
mod sets;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{DynamicSetName, Ruleset, Until};

pub use access::{Access, NetworkOwner, Reach, Reachable};
pub use kernel_features::{Missing, missing_features};
pub use listeners::{ClosedListeners, Listener, ListeningNode};
pub use owners::Owners;

use access::Accesses;
use lines::{Lines, Subject};
use sets::Pool;

/// A node with what it runs and what it would run.
#[derive(Debug, Clone, Copy)]
pub struct NodeChange<'r> {
    /// Its name.
    pub node: &'r NodeName,
    /// What it has confirmed; `None`: nothing yet, everything is open there.
    pub before: Option<&'r Ruleset>,
    /// What it would run.
    pub after: &'r Ruleset,
}

/// Everything that changes; equal changes of several nodes are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings and rules: mode, admins, probes, openings, limits.
    pub rules: Vec<RuleChange>,
    /// Members of sets.
    pub sets: Vec<SetChange>,
    /// Access that is gained or lost. Left out for nodes that ran nothing: there, everything was
    /// open.
    pub access: Vec<Access>,
}

/// Changes of the rules of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChange {
    /// `sip`, `rule monitoring`, `limit sip`, `mode`, `admins`.
    pub subject: String,
    /// What no longer holds: `5060/udp,tcp from clients`.
    pub removed: Vec<String>,
    /// What holds now.
    pub added: Vec<String>,
    /// On which nodes, ascending.
    pub nodes: Vec<NodeName>,
}

/// Members of a set, both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// The set as documents write it: `clients`, `tenant:acme`, `list:voipbl`.
    pub set: String,
    /// What names it: `sip 5060/udp,tcp`, `deny`.
    pub used_by: Vec<String>,
    /// Ascending.
    pub added: Vec<Member>,
    /// Ascending.
    pub removed: Vec<Member>,
    /// Dynamic sets whose addresses it holds now besides.
    pub dynamic_added: Vec<DynamicSetName>,
    /// Dynamic sets whose addresses it no longer holds.
    pub dynamic_removed: Vec<DynamicSetName>,
    /// Members of its own before.
    pub before: usize,
    /// Members of its own after.
    pub after: usize,
    /// On which nodes, ascending.
    pub nodes: Vec<NodeName>,
}

/// A member of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The prefix.
    pub net: IpNet,
    /// When it comes by itself; `None`: at once.
    pub from: Option<Until>,
    /// When it leaves by itself; `None` if it stays.
    pub until: Option<Until>,
    /// Who asked for it: `tenant acme: offices`; empty: not known.
    pub owners: Vec<Arc<str>>,
}

impl Changes {
    /// Compares the rulesets of nodes. `before` and `after` know whose the networks are, by the
    /// documents of either.
    pub fn of(nodes: &[NodeChange<'_>], before: &Owners, after: &Owners) -> Self {
        let mut pool = Pool::default();
        let mut accesses = Accesses::default();
        let mut rules: BTreeMap<(Subject, Vec<String>, Vec<String>), Vec<NodeName>> =
            BTreeMap::new();
        let mut sets = sets::Changed::default();
        for change in nodes {
            let node = change.node;
            if change.before.is_some_and(|before| before == change.after) {
                continue;
            }
            let now = Lines::of(change.after);
            let was = change.before.map(Lines::of).unwrap_or_default();
            let differs = now.differences(&was);
            let sets_differ = sets.compare(change, &was, &now, &mut pool);
            if differs.is_empty() && !sets_differ {
                let form = vec!["other order or form, the same meaning".to_owned()];
                let key = (Subject::form(), Vec::new(), form);
                rules.entry(key).or_default().push(node.clone());
            }
            for (subject, removed, added) in differs {
                let nodes = rules.entry((subject, removed, added)).or_default();
                nodes.push(node.clone());
            }
            if let Some(before) = change.before {
                accesses.compare(node, before, change.after, &mut pool);
            }
        }
        Self {
            rules: rules
                .into_iter()
                .map(|((subject, removed, added), nodes)| RuleChange {
                    subject: subject.text,
                    removed,
                    added,
                    nodes,
                })
                .collect(),
            sets: sets.changes(&pool, before, after),
            access: accesses.changes(before, after),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.sets.is_empty() && self.access.is_empty()
    }

    /// The nodes on which anything changes.
    pub fn nodes(&self) -> BTreeSet<&NodeName> {
        let rules = self.rules.iter().flat_map(|change| &change.nodes);
        rules
            .chain(self.sets.iter().flat_map(|change| &change.nodes))
            .collect()
    }
}
