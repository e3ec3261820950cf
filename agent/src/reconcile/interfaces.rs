//! Interfaces that the rules name and the machine does not have.

use std::collections::BTreeSet;

use voipfleet_ruleset::ruleset::{Interface, Rule, RuleSubject, SetOwner};

use super::node::Node;

/// Which rules are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Those that let members of the cluster in: without their interface the node is cut off.
    Members,
    /// The site's own, whose interfaces may come and go: tunnels.
    Others,
}

/// The machine's network interfaces.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// `None`: not known.
    there: Option<BTreeSet<String>>,
}

impl Interfaces {
    pub(super) fn set(&mut self, there: Option<BTreeSet<String>>) {
        self.there = there;
    }

    /// Those that rules in force name and that are not there, ascending.
    pub(super) fn missing(&self, node: &Node, of: Of) -> Vec<String> {
        let (Some(there), Some(running)) = (&self.there, node.running()) else {
            return Vec::new();
        };
        let ruleset = running.effective();
        let cluster = ruleset
            .sets
            .iter()
            .find(|set| set.owner == Some(SetOwner::Cluster))
            .map(|set| &set.name.stem);
        let wanted = |rule: &&Rule| {
            let own = matches!(rule.subject, Some(RuleSubject::Custom(_)));
            let members = rule.source_set.as_ref() == cluster && cluster.is_some() && !own;
            rule.in_interface.is_some()
                && match of {
                    Of::Members => members,
                    Of::Others => own,
                }
        };
        let chains = ruleset.chains.iter();
        let rules = chains.flat_map(|chain| &chain.rules).filter(wanted);
        let named: BTreeSet<&str> = rules
            .filter_map(|rule| rule.in_interface.as_ref().map(Interface::as_str))
            .collect();
        let gone = named.into_iter().filter(|name| !there.contains(*name));
        gone.map(str::to_owned).collect()
    }
}
