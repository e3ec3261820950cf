//! What the plan that an operator confirmed was made of, and whether that is still so: the
//! If-Match of a push.

use std::collections::BTreeMap;

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

impl Precondition {
    /// What no longer holds, in words; empty: it holds.
    pub fn violations(&self, now: &Self, last: &LastChanges) -> Vec<String> {
        let pushed_by = operator(last.pushed_by.as_deref());
        let documents_by = operator(last.documents_by.as_deref());
        let mut violations = Vec::new();
        let states = self.state.as_ref().zip(now.state.as_ref());
        if let Some((then, now)) = states
            && now.generation != then.generation
        {
            violations.push(match now.generation {
                Some(number) => format!("{pushed_by} pushed generation {number}"),
                None => "the site's generations are gone".to_owned(),
            });
        }
        let (then, now) = (&self.content, &now.content);
        violations.extend(then.staging.violations(&now.staging, documents_by));
        let mut changed = Vec::new();
        for (name, wanted) in &then.nodes {
            let Some(wanted_now) = now.nodes.get(name) else {
                violations.push(format!("node {name} was deleted"));
                continue;
            };
            if wanted_now != wanted {
                changed.push(name);
            }
            if let Some((then, now)) = states {
                violations.extend(now.confirmed_otherwise(then, name));
            }
        }
        let enrolled = now.nodes.keys();
        let enrolled = enrolled.filter(|name| !then.nodes.contains_key(*name));
        violations.extend(enrolled.map(|name| format!("node {name} enrolled")));
        if !changed.is_empty() {
            let names = names(&changed);
            violations.push(if now.documents == then.documents {
                // Rules depend on roles and addresses of nodes too.
                format!("the rules for {names} are different: the site's nodes changed")
            } else {
                format!(
                    "{documents_by} changed the documents, and the rules for {names} are different"
                )
            });
        }
        violations
    }
}

impl SiteState {
    /// How what `name` has confirmed differs from an earlier state, in words; none: not at all.
    fn confirmed_otherwise(&self, then: &Self, name: &NodeName) -> Option<String> {
        let held = |state: &Self| state.confirmed.get(name).copied();
        let digest = |held: Option<Held>| held.map(|held| held.digest);
        let (then, now) = (held(then), held(self));
        if digest(then) == digest(now) {
            return None;
        }
        Some(match now {
            Some(held) => format!("node {name} now runs generation {}", held.generation),
            None => format!("node {name} no longer runs anything"),
        })
    }
}

impl Staging {
    fn violations(&self, now: &Self, by: &str) -> Vec<String> {
        let mut violations = Vec::new();
        if now.rollout != self.rollout {
            let (then, now) = (in_words(&self.rollout), in_words(&now.rollout));
            violations.push(format!(
                "{by} changed the site's rollout from {then} to {now}"
            ));
        }
        if now.observe != self.observe {
            let mode = if now.observe { "observe" } else { "enforce" };
            violations.push(format!("{by} changed the site's mode to {mode}"));
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

fn names(nodes: &[&NodeName]) -> String {
    let shown = nodes.iter().take(SHOWN).map(|name| name.as_str());
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
        then.violations(now, &last)
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
                "ada pushed generation 7",
                "node a now runs generation 7",
                "node d was deleted",
                "node c enrolled",
                "ben changed the documents, and the rules for b are different",
            ]
        );
        now = then.clone();
        set_wanted(&mut now, "b", "other");
        assert_eq!(
            violations(&then, &now),
            ["the rules for b are different: the site's nodes changed"]
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
            ["ben changed the documents, and the rules for a are different"]
        );
    }

    #[test]
    fn a_changed_rollout_policy_is_a_violation() {
        let then = precondition(&[("a", "x", Some(6))]);
        let mut now = then.clone();
        now.content.staging.rollout.canary = 2;
        now.content.staging.observe = true;
        let found = violations(&then, &now);
        let start = "ben changed the site's rollout from {canary: 0,";
        assert!(found[0].starts_with(start), "{found:?}");
        assert!(found[0].contains("to {canary: 2,"), "{found:?}");
        assert_eq!(found[1], "ben changed the site's mode to observe");
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
