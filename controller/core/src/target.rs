//! Which generation each node of a site should run now.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

/// A site's newest generation, and the nodes that should run another one: a rollout has not
/// come to them yet, or was halted before it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRecord {
    /// The site's newest generation.
    pub generation: Generation,
    /// What those nodes should run; none: they were never given anything. Every other node should
    /// run `generation`.
    pub nodes: BTreeMap<NodeName, Option<Generation>>,
}

impl TargetRecord {
    /// Every node should run it.
    pub fn everywhere(generation: Generation) -> Self {
        Self {
            generation,
            nodes: BTreeMap::new(),
        }
    }

    /// What a node should run; none: it was never given anything.
    pub fn of(&self, node: &NodeName) -> Option<Generation> {
        let newest = Some(self.generation);
        self.nodes.get(node).copied().unwrap_or(newest)
    }

    /// Every generation that some node should run: these must be kept.
    pub fn wanted(&self) -> BTreeSet<Generation> {
        let others = self.nodes.values().copied().flatten();
        others.chain([self.generation]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_json() {
        let nodes = [("a", Some(6)), ("b", None)];
        let nodes = nodes.map(|(name, number)| (name.parse().unwrap(), number));
        let record = TargetRecord {
            generation: 7,
            nodes: nodes.into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"generation":7,"nodes":{"a":6,"b":null}}"#);
        let read: TargetRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, record);
        let of = |name: &str| read.of(&name.parse().unwrap());
        assert_eq!((of("a"), of("b"), of("c")), (Some(6), None, Some(7)));
        assert_eq!(read.wanted(), BTreeSet::from([6, 7]));
    }
}
