//! A site's numbered push.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;
use voipfleet_ruleset::ruleset::dynamic_sets::DynamicSetName;

use crate::DocumentsVersion;

/// What every node of the site should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    pub number: Generation,
    /// When it was pushed, Unix time.
    pub at_ms: u64,
    /// The operator who pushed it.
    pub by: String,
    /// How long a node has to prove that it is still reachable, milliseconds.
    pub confirm_within_ms: u64,
    /// Its rules only count and log. The document may say otherwise by now.
    pub observe: bool,
    /// The state of the documents that it was compiled from; none: unknown, since the generation
    /// that it rolls back to is missing.
    pub documents: Option<DocumentsVersion>,
    pub cause: Cause,
    /// Dynamic sets that its rulesets name.
    pub dynamic: BTreeSet<DynamicSetName>,
    pub changes: GenerationChanges,
    pub nodes: BTreeMap<NodeName, Content>,
    /// Nodes that were added since, each with the time at which it enrolled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub joined: BTreeMap<NodeName, u64>,
}

/// How a generation differs from the one before it, which is pruned first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationChanges {
    /// Nodes whose content differs.
    pub changed: BTreeSet<NodeName>,
    pub added: BTreeSet<NodeName>,
    pub removed: BTreeSet<NodeName>,
    /// Documents of the site that were changed before the push, the first of them: `Tenant/acme`.
    pub documents: Vec<String>,
    /// How many there were; none: not known.
    pub document_count: Option<u64>,
}

impl GenerationChanges {
    /// Documents that are kept by name.
    const NAMED: usize = 50;

    /// The difference between a generation and the nodes of the next one.
    pub fn between(before: Option<&GenerationRecord>, after: &BTreeMap<NodeName, Content>) -> Self {
        let old = |name: &NodeName| before.and_then(|before| before.nodes.get(name));
        let mut changes = Self::default();
        for (name, content) in after {
            match old(name) {
                None => changes.added.insert(name.clone()),
                Some(old) if old.digest != content.digest => changes.changed.insert(name.clone()),
                Some(_) => continue,
            };
        }
        let gone = before.into_iter().flat_map(|before| before.nodes.keys());
        let gone = gone.filter(|name| !after.contains_key(*name));
        changes.removed.extend(gone.cloned());
        changes
    }

    /// With the documents that were changed; none: not known.
    #[must_use]
    pub fn with_documents(mut self, documents: Option<Vec<String>>) -> Self {
        self.document_count = documents.as_ref().map(|names| names.len() as u64);
        self.documents = documents.unwrap_or_default();
        self.documents.truncate(Self::NAMED);
        self
    }
}

/// Why a generation was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The documents were pushed.
    #[default]
    Push,
    /// The content of an earlier generation is wanted back, by an operator or by a rollout that
    /// failed.
    Rollback { to: Generation },
}

/// One node's ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub digest: Digest,
    /// On the wire, bytes.
    pub size: u64,
}

impl GenerationRecord {
    /// Whether it was made, or completed, after a node enrolled at that time.
    pub fn knows(&self, node: &NodeName, enrolled_ms: u64) -> bool {
        self.at_ms >= enrolled_ms || self.joined.get(node) == Some(&enrolled_ms)
    }

    /// Whether it holds a ruleset for the machine that enrolled as this node at that time, and
    /// not for an earlier one of its name.
    pub fn is_for(&self, node: &NodeName, enrolled_ms: u64) -> bool {
        self.nodes.contains_key(node) && self.knows(node, enrolled_ms)
    }

    /// What a node should hold; none: the node is not part of it.
    pub fn held(&self, node: &NodeName) -> Option<Held> {
        self.nodes.get(node).map(|content| Held {
            generation: self.number,
            digest: content.digest,
        })
    }
}

// Serde's attribute asks for a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn write_digest<S: Serializer>(
    digest: &Digest,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

pub(crate) fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
