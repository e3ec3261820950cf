//! What the plan that an operator confirmed was made of, and whether that is still so: the
//! If-Match of a push.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use voipfleet_policy::{Batch, OnFailure, Rollout};
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;

use crate::DocumentsVersion;

/// Names in one sentence.
const SHOWN: usize = 5;

/// A push that has one pushes exactly that, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    pub content: PlannedContent,
    /// The state of the site; none: it is not compared, since nodes move on while a push waits in
    /// the queue.
    pub state: Option<SiteState>,
}

/// What a plan would give the nodes of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedContent {
    /// The state of the documents. By itself it is not compared: a change of documents may not
    /// concern the site.
    pub documents: DocumentsVersion,
    /// The ruleset of each node.
    #[serde(serialize_with = "write_digests", deserialize_with = "read_digests")]
    pub nodes: BTreeMap<NodeName, Digest>,
    pub staging: Staging,
}

/// How a push would go through the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    pub rollout: Rollout,
    /// Whether the rules would only count and log.
    pub observe: bool,
}

/// The state of a site that a plan was compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteState {
    /// None: the site has no generation yet.
    pub generation: Option<Generation>,
    /// What nodes have confirmed.
    pub confirmed: BTreeMap<NodeName, Held>,
}

/// The operators behind the last changes, for messages.
#[derive(Debug, Clone, Default)]
pub struct LastChanges {
    /// None: unknown.
    pub documents_by: Option<String>,
    /// None: unknown.
    pub pushed_by: Option<String>,
}

/// One thing that is no longer as a plan assumed. An operator of `None` is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    Pushed {
        generation: Generation,
        by: Option<String>,
    },
    GenerationsGone,
    RolloutChanged {
        then: Rollout,
        now: Rollout,
        by: Option<String>,
    },
    ModeChanged {
        observe: bool,
        by: Option<String>,
    },
    NodeDeleted(NodeName),
    NodeEnrolled(NodeName),
    NodeRuns {
        node: NodeName,
        /// None: nothing any more.
        generation: Option<Generation>,
    },
    /// The documents changed, and these nodes get other rules.
    RulesByDocuments {
        nodes: Vec<NodeName>,
        by: Option<String>,
    },
    /// Rules depend on roles and addresses of the site's nodes too.
    RulesByNodes {
        nodes: Vec<NodeName>,
    },
}

impl Violation {
    /// What changed.
    pub fn subject(&self) -> String {
        match self {
            Self::Pushed { generation, .. } => format!("generation {generation}"),
            Self::GenerationsGone => "generations".to_owned(),
            Self::RolloutChanged { .. } => "rollout".to_owned(),
            Self::ModeChanged { .. } => "mode".to_owned(),
            Self::NodeDeleted(node) | Self::NodeEnrolled(node) | Self::NodeRuns { node, .. } => {
                format!("node {node}")
            }
            Self::RulesByDocuments { nodes, .. } | Self::RulesByNodes { nodes } => {
                format!("rules of {}", names(nodes))
            }
        }
    }

    /// How it changed.
    pub fn description(&self) -> String {
        match self {
            Self::Pushed { by, .. } => format!("pushed by {}", operator(by.as_deref())),
            Self::GenerationsGone => "gone".to_owned(),
            Self::RolloutChanged { then, now, by } => format!(
                "changed by {} from {} to {}",
                operator(by.as_deref()),
                in_words(then),
                in_words(now)
            ),
            Self::ModeChanged { observe, by } => {
                let mode = if *observe { "observe" } else { "enforce" };
                format!("changed by {} to {mode}", operator(by.as_deref()))
            }
            Self::NodeDeleted(_) => "deleted".to_owned(),
            Self::NodeEnrolled(_) => "enrolled".to_owned(),
            Self::NodeRuns { generation, .. } => match generation {
                Some(number) => format!("now runs generation {number}"),
                None => "no longer runs anything".to_owned(),
            },
            Self::RulesByDocuments { by, .. } => format!(
                "different since {} changed the documents",
                operator(by.as_deref())
            ),
            Self::RulesByNodes { .. } => "different since the site's nodes changed".to_owned(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject(), self.description())
    }
}

impl Precondition {
    /// What no longer holds; empty: it holds.
    pub fn violations(&self, now: &Self, last: &LastChanges) -> Vec<Violation> {
        let documents_by = last.documents_by.as_deref();
        let mut violations = Vec::new();
        let states = self.state.as_ref().zip(now.state.as_ref());
        if let Some((then, now)) = states
            && now.generation != then.generation
        {
            violations.push(match now.generation {
                Some(generation) => Violation::Pushed {
                    generation,
                    by: last.pushed_by.clone(),
                },
                None => Violation::GenerationsGone,
            });
        }
        let (then, now) = (&self.content, &now.content);
        violations.extend(then.staging.violations(&now.staging, documents_by));
        let mut changed = Vec::new();
        for (name, wanted) in &then.nodes {
            let Some(wanted_now) = now.nodes.get(name) else {
                violations.push(Violation::NodeDeleted(name.clone()));
                continue;
            };
            if wanted_now != wanted {
                changed.push(name.clone());
            }
            if let Some((then, now)) = states {
                violations.extend(now.confirmed_otherwise(then, name));
            }
        }
        let enrolled = now.nodes.keys();
        let enrolled = enrolled.filter(|name| !then.nodes.contains_key(*name));
        violations.extend(enrolled.cloned().map(Violation::NodeEnrolled));
        if !changed.is_empty() {
            violations.push(if now.documents == then.documents {
                Violation::RulesByNodes { nodes: changed }
            } else {
                Violation::RulesByDocuments {
                    nodes: changed,
                    by: documents_by.map(str::to_owned),
                }
            });
        }
        violations
    }
}

impl SiteState {
    /// How what `name` has confirmed differs from an earlier state; none: not at all.
    fn confirmed_otherwise(&self, then: &Self, name: &NodeName) -> Option<Violation> {
        let held = |state: &Self| state.confirmed.get(name).copied();
        let digest = |held: Option<Held>| held.map(|held| held.digest);
        let (then, now) = (held(then), held(self));
        (digest(then) != digest(now)).then(|| Violation::NodeRuns {
            node: name.clone(),
            generation: now.map(|held| held.generation),
        })
    }
}

impl Staging {
    fn violations(&self, now: &Self, by: Option<&str>) -> Vec<Violation> {
        let by = || by.map(str::to_owned);
        let mut violations = Vec::new();
        if now.rollout != self.rollout {
            violations.push(Violation::RolloutChanged {
                then: self.rollout.clone(),
                now: now.rollout.clone(),
                by: by(),
            });
        }
        if now.observe != self.observe {
            violations.push(Violation::ModeChanged {
                observe: now.observe,
                by: by(),
            });
        }
        violations
    }
}

/// A site's rollout as its document would write it in one line.
fn in_words(rollout: &Rollout) -> String {
    let batch = match rollout.batch {
        Batch::Count(count) => count.to_string(),
        Batch::Percent(percent) => format!("{percent}%"),
    };
    let on_failure = match rollout.on_failure {
        OnFailure::Halt => "halt",
        OnFailure::Rollback => "rollback",
    };
    let (canary, most) = (rollout.canary, rollout.max_failures);
    let (pause, within) = (rollout.pause_ms, rollout.confirm_within_ms);
    format!(
        "{{canary: {canary}, batch: {batch}, max_failures: {most}, pause: {pause}ms, on_failure: \
         {on_failure}, confirm_within: {within}ms}}"
    )
}

fn operator(name: Option<&str>) -> &str {
    name.unwrap_or("an unknown operator")
}

fn names(nodes: &[NodeName]) -> String {
    let shown = nodes.iter().take(SHOWN).map(NodeName::as_str);
    let shown: Vec<&str> = shown.collect();
    let shown = shown.join(", ");
    match nodes.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn write_digests<S: Serializer>(
    digests: &BTreeMap<NodeName, Digest>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        digests
            .iter()
            .map(|(name, digest)| (name, digest.to_string())),
    )
}

fn read_digests<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<NodeName, Digest>, D::Error> {
    let texts = BTreeMap::<NodeName, String>::deserialize(deserializer)?;
    let digest = |(name, text): (NodeName, String)| {
        let digest: Digest = text.parse().map_err(serde::de::Error::custom)?;
        Ok((name, digest))
    };
    texts.into_iter().map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    /// Nodes with the content that they would get and the generation that they confirmed.
    fn precondition(nodes: &[(&str, &str, Option<u64>)]) -> Precondition {
        let confirmed = nodes.iter().filter_map(|(name, _, generation)| {
            let generation = (*generation)?;
            let digest = digest(&generation.to_string());
            Some((name.parse().unwrap(), Held { generation, digest }))
        });
        Precondition {
            content: PlannedContent {
                documents: 4,
                nodes: nodes
                    .iter()
                    .map(|(name, wanted, _)| (name.parse().unwrap(), digest(wanted)))
                    .collect(),
                staging: Staging {
                    rollout: Rollout::at_once(),
                    observe: false,
                },
            },
            state: Some(SiteState {
                generation: Some(6),
                confirmed: confirmed.collect(),
            }),
        }
    }

    fn violations(then: &Precondition, now: &Precondition) -> Vec<String> {
        let last = LastChanges {
            documents_by: Some("ben".to_owned()),
            pushed_by: Some("ada".to_owned()),
        };
        let found = then.violations(now, &last);
        found.iter().map(ToString::to_string).collect()
    }

    fn set_wanted(precondition: &mut Precondition, node: &str, wanted: &str) {
        let nodes = &mut precondition.content.nodes;
        nodes.insert(node.parse().unwrap(), digest(wanted));
    }

    #[test]
    fn every_change_is_named() {
        let then = precondition(&[
            ("a", "x", Some(6)),
            ("b", "y", Some(6)),
            ("d", "z", Some(6)),
        ]);
        let mut now = precondition(&[
            ("a", "x", Some(7)),
            ("b", "other", Some(6)),
            ("c", "w", None),
        ]);
        now.state.as_mut().unwrap().generation = Some(7);
        now.content.documents = 5;
        assert_eq!(
            violations(&then, &now),
            [
                "generation 7: pushed by ada",
                "node a: now runs generation 7",
                "node d: deleted",
                "node c: enrolled",
                "rules of b: different since ben changed the documents",
            ]
        );
        now = then.clone();
        set_wanted(&mut now, "b", "other");
        assert_eq!(
            violations(&then, &now),
            ["rules of b: different since the site's nodes changed"]
        );
    }

    /// While a push waits, nodes apply what was pushed before it; its own content stays the same.
    #[test]
    fn a_queued_push_compares_only_its_content() {
        let queued = Precondition {
            state: None,
            ..precondition(&[("a", "x", Some(6))])
        };
        let mut now = precondition(&[("a", "x", Some(9))]);
        now.state.as_mut().unwrap().generation = Some(9);
        assert!(violations(&queued, &now).is_empty());
        now.content.documents = 5;
        set_wanted(&mut now, "a", "other");
        assert_eq!(
            violations(&queued, &now),
            ["rules of a: different since ben changed the documents"]
        );
    }

    #[test]
    fn a_changed_rollout_policy_is_a_violation() {
        let then = precondition(&[("a", "x", Some(6))]);
        let mut now = then.clone();
        now.content.staging.rollout.canary = 2;
        now.content.staging.observe = true;
        let found = violations(&then, &now);
        let start = "rollout: changed by ben from {canary: 0,";
        assert!(found[0].starts_with(start), "{found:?}");
        assert!(found[0].contains("to {canary: 2,"), "{found:?}");
        assert_eq!(found[1], "mode: changed by ben to observe");
    }

    /// Another site's tenant was changed: nothing that this plan says is wrong.
    #[test]
    fn documents_of_other_sites_do_not_count() {
        let then = precondition(&[("a", "x", Some(6))]);
        let mut now = then.clone();
        now.content.documents = 9;
        assert!(violations(&then, &now).is_empty());
    }
}
