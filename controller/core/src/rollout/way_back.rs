//! The generation that a rollout goes back to: it holds what every node ran before.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

use super::record::{NodeProgress, Phase, RolloutRecord};
use crate::generation::{Cause, GenerationChanges, GenerationRecord};

/// The generation to go back to, and nodes whose former content is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    pub generation: GenerationRecord,
    pub missing: BTreeSet<NodeName>,
}

/// The generation that holds what a node of `rollout` ran before it. A node that ran nothing
/// keeps what it has applied; none: it has nothing.
pub fn content_source(rollout: &RolloutRecord, step: &NodeProgress) -> Option<Generation> {
    let applied = step.phase == Phase::Applied;
    step.before.or(applied.then_some(rollout.generation))
}

impl RolloutRecord {
    /// The generation `number`, to which `after` goes back from this state of the rollout.
    /// `earlier` has the generations that [`content_source`] names, and that of the rollout.
    pub fn way_back(
        &self,
        after: &RolloutRecord,
        number: Generation,
        at_ms: u64,
        earlier: &BTreeMap<Generation, GenerationRecord>,
    ) -> WayBack {
        let mut nodes = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for (name, step) in &self.nodes {
            let Some(source) = content_source(self, step) else {
                continue;
            };
            let Some(record) = earlier.get(&source) else {
                missing.insert(name.clone());
                continue;
            };
            if let Some(content) = record.nodes.get(name) {
                nodes.insert(name.clone(), *content);
            }
        }
        // A rollout goes back only if some node ran something before.
        let to = self.before().unwrap_or(self.generation);
        let model = earlier.get(&to);
        let sources: BTreeSet<Generation> = self
            .nodes
            .values()
            .filter_map(|step| content_source(self, step))
            .collect();
        let dynamic = earlier
            .iter()
            .filter(|(number, _)| sources.contains(number))
            .flat_map(|(_, record)| record.dynamic.iter());
        WayBack {
            generation: GenerationRecord {
                number,
                at_ms,
                by: after.by.clone(),
                confirm_within_ms: after.stages.confirm_within_ms,
                observe: model.is_some_and(|model| model.observe),
                documents: model.and_then(|model| model.documents),
                cause: Cause::Rollback { to },
                dynamic: dynamic.cloned().collect(),
                changes: GenerationChanges::between(earlier.get(&self.generation), &nodes),
                nodes,
                joined: BTreeMap::new(),
            },
            missing,
        }
    }
}
