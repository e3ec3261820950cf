//! What a plan stands on, and whether it still does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use voipfleet_policy::{Batch, OnFailure, Rollout as Staging};
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;

use crate::DocumentsVersion;
use crate::generation::{Content, GenerationRecord};
use crate::queue::{PlannedContent, PlannedDigest};

/// Names in one sentence.
const SHOWN: usize = 5;

/// What a plan was made of. What is pushed is that, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanBasis {
    /// The version of the documents. By itself it does not count: documents that others change
    /// may be of no concern to the site.
    pub documents: u64,
    /// The site's generation; 0: none yet.
    pub generation: Generation,
    /// Every node.
    pub nodes: BTreeMap<NodeName, BasisNode>,
    /// How it would go through the nodes; none: not known, and not compared.
    pub staging: Option<BasisStaging>,
}

/// How a push would go through the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasisStaging {
    /// The site's rollout in words.
    pub rollout: String,
    /// Whether it would count only.
    pub observe: bool,
}

impl BasisStaging {
    pub fn of(staging: &Staging, observe: bool) -> Self {
        let batch = match staging.batch {
            Batch::Count(count) => count.to_string(),
            Batch::Percent(percent) => format!("{percent}%"),
        };
        let on_failure = match staging.on_failure {
            OnFailure::Halt => "halt",
            OnFailure::Rollback => "rollback",
        };
        let (canary, most) = (staging.canary, staging.max_failures);
        let (pause, within) = (staging.pause_ms, staging.confirm_within_ms);
        Self {
            rollout: format!(
                "{{canary: {canary}, batch: {batch}, max_failures: {most}, pause: {pause}ms, \
                 on_failure: {on_failure}, confirm_within: {within}ms}}"
            ),
            observe,
        }
    }
}

/// A node in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasisNode {
    /// What it would be given.
    pub wanted: Digest,
    /// What it has confirmed.
    pub confirmed: Option<Held>,
}

/// Who did what was done last.
#[derive(Debug, Clone, Default)]
pub struct LastChanges {
    /// Who changed documents; empty: not known.
    pub documents_by: String,
    /// Who pushed the site; empty: not known.
    pub pushed_by: String,
}

impl PlanBasis {
    /// As things are: the site's generation, and what its nodes would be given and run.
    pub fn of(
        generation: Option<&GenerationRecord>,
        documents: DocumentsVersion,
        contents: &BTreeMap<NodeName, Content>,
        confirmed: &BTreeMap<NodeName, Held>,
        staging: BasisStaging,
    ) -> Self {
        let node = |(name, content): (&NodeName, &Content)| {
            let node = BasisNode {
                wanted: content.digest,
                confirmed: confirmed.get(name).copied(),
            };
            (name.clone(), node)
        };
        Self {
            documents,
            generation: generation.map_or(0, |generation| generation.number),
            nodes: contents.iter().map(node).collect(),
            staging: Some(staging),
        }
    }

    /// As much of it as must still be so when a push that has waited gets its turn: nodes move on
    /// meanwhile.
    pub fn content(&self) -> PlannedContent {
        let wanted =
            |(name, node): (&NodeName, &BasisNode)| (name.clone(), PlannedDigest(node.wanted));
        PlannedContent {
            documents: self.documents,
            nodes: self.nodes.iter().map(wanted).collect(),
            staging: self.staging.clone(),
        }
    }

    /// What only says what nodes would be given.
    pub fn of_content(content: &PlannedContent) -> Self {
        let node = |(name, wanted): (&NodeName, &PlannedDigest)| {
            let node = BasisNode {
                wanted: wanted.0,
                confirmed: None,
            };
            (name.clone(), node)
        };
        Self {
            documents: content.documents,
            generation: 0,
            nodes: content.nodes.iter().map(node).collect(),
            staging: content.staging.clone(),
        }
    }

    /// What is no longer so, in words; empty: it stands.
    pub fn moved(&self, now: &Self, last: &LastChanges) -> Vec<String> {
        let mut moved = Vec::new();
        if now.generation != self.generation {
            let by = or_somebody(&last.pushed_by);
            moved.push(format!("{by} pushed generation {}", now.generation));
        }
        if let (Some(then), Some(now)) = (&self.staging, &now.staging) {
            let by = or_somebody(&last.documents_by);
            if now.rollout != then.rollout {
                let (then, now) = (&then.rollout, &now.rollout);
                moved.push(format!(
                    "{by} changed the site's rollout from {then} to {now}"
                ));
            }
            if now.observe != then.observe {
                let mode = if now.observe { "observe" } else { "enforce" };
                moved.push(format!("{by} changed the site's mode to {mode}"));
            }
        }
        let mut others = Vec::new();
        for (name, then) in &self.nodes {
            let Some(node) = now.nodes.get(name) else {
                moved.push(format!("node {name} was deleted"));
                continue;
            };
            if node.wanted != then.wanted {
                others.push(name.to_string());
            }
            let digest = |held: Option<Held>| held.map(|held| held.digest);
            if digest(node.confirmed) != digest(then.confirmed) {
                moved.push(match node.confirmed {
                    Some(held) => format!("node {name} now runs generation {}", held.generation),
                    None => format!("node {name} runs nothing any more"),
                });
            }
        }
        let enrolled = now
            .nodes
            .keys()
            .filter(|name| !self.nodes.contains_key(*name));
        moved.extend(enrolled.map(|name| format!("node {name} enrolled")));
        if !others.is_empty() {
            let more = others.len().saturating_sub(SHOWN);
            others.truncate(SHOWN);
            let mut names = others.join(", ");
            if more > 0 {
                names = format!("{names} and {more} more");
            }
            moved.push(if now.documents == self.documents {
                // Roles or addresses of nodes, by which rules are made.
                format!("the rules for {names} are others, since the site's nodes changed")
            } else {
                let by = or_somebody(&last.documents_by);
                format!("{by} changed the documents, and the rules for {names} are others")
            });
        }
        moved
    }
}

fn or_somebody(name: &str) -> &str {
    if name.is_empty() { "somebody" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn basis(nodes: &[(&str, &str, u64)]) -> PlanBasis {
        let node = |(name, wanted, generation): &(&str, &str, u64)| {
            let confirmed = (*generation > 0).then(|| Held {
                generation: *generation,
                digest: digest(&generation.to_string()),
            });
            let wanted = digest(wanted);
            (name.parse().unwrap(), BasisNode { wanted, confirmed })
        };
        PlanBasis {
            documents: 4,
            generation: 6,
            nodes: nodes.iter().map(node).collect(),
            staging: Some(BasisStaging::of(&Staging::at_once(), false)),
        }
    }

    fn moved(then: &PlanBasis, now: &PlanBasis) -> Vec<String> {
        let last = LastChanges {
            documents_by: "ben".to_owned(),
            pushed_by: "ada".to_owned(),
        };
        then.moved(now, &last)
    }

    #[test]
    fn what_moved_is_named() {
        let then = basis(&[("a", "x", 6), ("b", "y", 6), ("d", "z", 6)]);
        let mut now = basis(&[("a", "x", 7), ("b", "other", 6), ("c", "w", 0)]);
        now.generation = 7;
        now.documents = 5;
        assert_eq!(
            moved(&then, &now),
            [
                "ada pushed generation 7",
                "node a now runs generation 7",
                "node d was deleted",
                "node c enrolled",
                "ben changed the documents, and the rules for b are others",
            ]
        );
        now = then.clone();
        now.nodes.get_mut(&"b".parse().unwrap()).unwrap().wanted = digest("other");
        assert!(moved(&then, &now)[0].contains("since the site's nodes changed"));
    }

    /// While a push waits nodes take what was pushed before it; what it brings is still the same.
    #[test]
    fn of_what_waits_only_the_content_counts() {
        let queued = PlanBasis::of_content(&basis(&[("a", "x", 6)]).content());
        let mut now = basis(&[("a", "x", 9)]);
        now.generation = 9;
        assert!(moved(&queued, &PlanBasis::of_content(&now.content())).is_empty());
        now.documents = 5;
        now.nodes.get_mut(&"a".parse().unwrap()).unwrap().wanted = digest("other");
        assert_eq!(
            moved(&queued, &PlanBasis::of_content(&now.content())),
            ["ben changed the documents, and the rules for a are others"]
        );
    }

    /// Batches that were shown are the batches that are pushed.
    #[test]
    fn how_it_goes_through_the_nodes_counts() {
        let then = basis(&[("a", "x", 6)]);
        let mut now = then.clone();
        let staging = Staging {
            canary: 2,
            ..Staging::at_once()
        };
        now.staging = Some(BasisStaging::of(&staging, true));
        let told = moved(&then, &now);
        assert!(
            told[0].starts_with("ben changed the site's rollout from {canary: 0,"),
            "{told:?}"
        );
        assert!(told[0].contains("to {canary: 2,"), "{told:?}");
        assert_eq!(told[1], "ben changed the site's mode to observe");
        // Of a voipctl that does not know it.
        now.staging = None;
        assert!(moved(&now, &then).is_empty());
    }

    /// Another site's tenant was changed: nothing that this plan says is wrong.
    #[test]
    fn documents_of_others_do_not_count() {
        let then = basis(&[("a", "x", 6)]);
        let mut now = then.clone();
        now.documents = 9;
        assert!(moved(&then, &now).is_empty());
    }
}
