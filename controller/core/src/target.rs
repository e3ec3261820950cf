//! Which generation each node of a site should run now.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

/// A site's newest generation, and the nodes that should run another one: a rollout has not
/// come to them yet, or was halted before it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct TargetRecord {
    /// The site's newest generation.
    pub generation: Generation,
    /// What those nodes should run; 0: they were never given anything. Every other node should
    /// run `generation`.
    pub nodes: BTreeMap<NodeName, Generation>,
}

/// As it is stored: a store from before staged rollouts holds the bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bare(Generation),
    Record {
        generation: Generation,
        #[serde(default)]
        nodes: BTreeMap<NodeName, Generation>,
    },
}

impl From<Written> for TargetRecord {
    fn from(written: Written) -> Self {
        match written {
            Written::Bare(generation) => Self::everywhere(generation),
            Written::Record { generation, nodes } => Self { generation, nodes },
        }
    }
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
        let number = self.nodes.get(node).copied().unwrap_or(self.generation);
        (number != 0).then_some(number)
    }

    /// Every generation that some node should run: these must be kept.
    pub fn wanted(&self) -> BTreeSet<Generation> {
        self.nodes
            .values()
            .copied()
            .filter(|number| *number != 0)
            .chain([self.generation])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_of_an_older_store_is_read() {
        let read: TargetRecord = serde_json::from_str("7").unwrap();
        assert_eq!(read, TargetRecord::everywhere(7));
        assert_eq!(read.of(&"a".parse().unwrap()), Some(7));
    }

    #[test]
    fn what_is_written_is_read() {
        let nodes = [("a", 6), ("b", 0)].map(|(name, number)| (name.parse().unwrap(), number));
        let record = TargetRecord {
            generation: 7,
            nodes: nodes.into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"generation":7,"nodes":{"a":6,"b":0}}"#);
        let read: TargetRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, record);
        let of = |name: &str| read.of(&name.parse().unwrap());
        assert_eq!((of("a"), of("b"), of("c")), (Some(6), None, Some(7)));
        assert_eq!(read.wanted(), BTreeSet::from([6, 7]));
    }
}
