//! The push proposal: everything that a push of a site would store, decided once.
//!
//! A plan renders it, a dry run returns it, a push commits it and the queue keeps its
//! precondition. A rollback is a proposal of another content. Whatever it is made of is read
//! before and handed in as [`Inputs`], so that what was checked is what gets stored.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_policy::{Batch, OnFailure, Rollout};
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::Ruleset;

use crate::DocumentsVersion;
use crate::generation::{Cause, Content, GenerationChanges, GenerationRecord};
use crate::precondition::{PlannedContent, Precondition, SiteState, Staging};
use crate::rollout::batches::{BatchPlan, Candidate, plan_batches};
use crate::rollout::state_machine::{NodeReport, Observation, Presence};
use crate::rollout::{NodeProgress, Phase, RolloutRecord, RolloutState, Stages};
use crate::target::TargetRecord;

/// How far beyond the site's number a node's confirmed generation is believed: more pushes than a
/// store that was restored from a backup can have lost, and too few for a lying node to use up the
/// numbers.
pub const MAX_GENERATIONS_AHEAD: Generation = 1_000_000;

/// What the nodes of a site should get.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "made once for each push")]
pub enum Want {
    /// What the documents say.
    Documents,
    /// What an earlier generation held. Nodes that it does not know get what the documents say.
    Rollback(GenerationRecord),
}

impl Want {
    /// Whether a node's ruleset has to be compiled from the documents.
    pub fn needs_compile(&self, node: &NodeName) -> bool {
        match self {
            Want::Documents => true,
            Want::Rollback(earlier) => !earlier.nodes.contains_key(node),
        }
    }
}

/// What a proposal is made of: a site at one moment.
#[derive(Debug, Clone)]
pub struct Inputs {
    pub site: SiteName,
    /// Unix time.
    pub at_ms: u64,
    /// The operator who asks.
    pub by: String,
    /// How long nodes have to prove that they are still reachable; none: as the site's document
    /// says.
    pub confirm_within_ms: Option<u64>,
    /// The state of the documents.
    pub documents: DocumentsVersion,
    /// The site's documents that were changed since the current generation was made: `Tenant/acme`;
    /// none: not known.
    pub changed_documents: Option<Vec<String>>,
    /// How the site's document wants a push to go through the nodes.
    pub rollout: Rollout,
    /// The site's document wants rules that only count and log.
    pub observe: bool,
    /// None: the site was never pushed.
    pub current: Option<Current>,
    pub nodes: BTreeMap<NodeName, NodeState>,
    /// The rulesets of the nodes that [`Want::needs_compile`].
    pub compiled: BTreeMap<NodeName, (Ruleset, Content)>,
    /// The compiler's.
    pub warnings: Vec<String>,
}

/// What a site is at.
#[derive(Debug, Clone)]
pub struct Current {
    pub targets: TargetRecord,
    pub generation: GenerationRecord,
    /// Generations that nodes should run or have confirmed, as far as they are still stored.
    pub earlier: BTreeMap<Generation, GenerationRecord>,
}

/// A node at the moment of the proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    pub roles: BTreeSet<Role>,
    /// Unix time.
    pub enrolled_ms: u64,
    pub confirmed: Option<Held>,
    pub presence: Presence,
    /// The last offer that it refused, with its nonce.
    pub refused: Option<(Held, u64)>,
    /// About its last try; empty: none.
    pub error: String,
}

/// What a push would do.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub site: SiteName,
    /// The operator who asks for it.
    pub by: String,
    /// The generation whose content it brings back; none: it is made of the documents.
    pub rollback_to: Option<Generation>,
    /// The generation that the site would be at. If nothing changes it is the current one, made of
    /// the newest documents that give the same rules.
    pub generation: GenerationRecord,
    /// Whether the generation is new.
    pub changed: bool,
    /// How long a trial of this push may last, milliseconds.
    pub confirm_within_ms: u64,
    pub nodes: BTreeMap<NodeName, ProposedNode>,
    /// Rulesets that were compiled for it; the others are stored.
    pub compiled: BTreeMap<NodeName, Ruleset>,
    pub stages: Stages,
    pub batches: BatchPlan,
    pub warnings: Vec<String>,
    pub precondition: Precondition,
    pub current: Option<Current>,
}

/// A node with what it would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedNode {
    pub content: Content,
    pub state: NodeState,
}

impl ProposedNode {
    /// It has confirmed this very content already.
    pub fn is_unchanged(&self) -> bool {
        let confirmed = self.state.confirmed;
        confirmed.is_some_and(|held| held.digest == self.content.digest)
    }
}

impl NodeState {
    pub fn is_connected(&self) -> bool {
        self.presence == Presence::Connected
    }
}

/// What a rollout record needs besides its proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutStart {
    pub number: u64,
    /// The queue's ticket; none: the push did not wait.
    pub ticket: Option<u64>,
    /// Unix time.
    pub at_ms: u64,
}

/// Decides what a push of a site would store.
pub fn propose(inputs: Inputs, want: Want) -> Proposal {
    let mut warnings = inputs.warnings;
    let mut dynamic: BTreeSet<_> = inputs
        .compiled
        .values()
        .flat_map(|(ruleset, _)| ruleset.dynamic_names())
        .collect();
    let mut compiled = BTreeMap::new();
    let mut contents = BTreeMap::new();
    for (name, (ruleset, content)) in inputs.compiled {
        if inputs.nodes.contains_key(&name) && want.needs_compile(&name) {
            contents.insert(name.clone(), content);
            compiled.insert(name, ruleset);
        }
    }
    let mut changed_documents = inputs.changed_documents;
    let (observe, documents, cause) = match want {
        Want::Documents => (inputs.observe, Some(inputs.documents), Cause::Push),
        Want::Rollback(earlier) => {
            changed_documents = None;
            warnings.extend(late_nodes(&compiled, earlier.number));
            dynamic.extend(earlier.dynamic);
            let kept = earlier.nodes.into_iter();
            contents.extend(kept.filter(|(name, _)| inputs.nodes.contains_key(name)));
            let cause = Cause::Rollback { to: earlier.number };
            (earlier.observe, earlier.documents, cause)
        }
    };
    let confirm_within_ms = inputs
        .confirm_within_ms
        .unwrap_or(inputs.rollout.confirm_within_ms);
    let candidate = GenerationRecord {
        number: 0,
        at_ms: inputs.at_ms,
        by: inputs.by.clone(),
        confirm_within_ms,
        observe,
        documents,
        cause,
        dynamic,
        changes: GenerationChanges::between(
            inputs.current.as_ref().map(|current| &current.generation),
            &contents,
        )
        .with_documents(changed_documents),
        nodes: contents.clone(),
        joined: BTreeMap::new(),
    };
    let rollback_to = match cause {
        Cause::Push => None,
        Cause::Rollback { to } => Some(to),
    };
    let current = inputs.current.as_ref().map(|current| &current.generation);
    let (generation, changed) = number(current, candidate, &inputs.nodes);
    let nodes: BTreeMap<NodeName, ProposedNode> = inputs
        .nodes
        .into_iter()
        .filter_map(|(name, state)| {
            let content = *contents.get(&name)?;
            Some((name, ProposedNode { content, state }))
        })
        .collect();
    let stages = stages(&inputs.rollout, confirm_within_ms, &nodes);
    let batches = plan_batches(&candidates(&nodes), stages.canary, stages.batch);
    let precondition = Precondition {
        content: PlannedContent {
            documents: inputs.documents,
            nodes: nodes
                .iter()
                .map(|(name, node)| (name.clone(), node.content.digest))
                .collect(),
            staging: Staging {
                rollout: inputs.rollout,
                observe,
            },
        },
        state: Some(SiteState {
            generation: current.map(|current| current.number),
            confirmed: nodes
                .iter()
                .filter_map(|(name, node)| Some((name.clone(), node.state.confirmed?)))
                .collect(),
        }),
    };
    Proposal {
        site: inputs.site,
        by: inputs.by,
        rollback_to,
        generation,
        changed,
        confirm_within_ms,
        nodes,
        compiled,
        stages,
        batches,
        warnings,
        precondition,
        current: inputs.current,
    }
}

impl Proposal {
    /// Whether the generation differs from what is stored.
    pub fn stores_generation(&self) -> bool {
        let current = self.current.as_ref();
        current.is_none_or(|current| current.generation != self.generation)
    }

    /// Every node should run, and has confirmed, this very generation: there is nothing to roll
    /// out.
    pub fn is_settled(&self) -> bool {
        let current = self.current.as_ref();
        let everywhere = current.is_some_and(|current| current.targets.nodes.is_empty());
        !self.changed && everywhere && self.nodes.keys().all(|name| self.has(name))
    }

    /// The rollout that brings it to the nodes, with its first batch released.
    pub fn rollout(&self, start: &RolloutStart) -> RolloutRecord {
        let nodes = self.nodes.iter();
        let nodes =
            nodes.map(|(name, node)| (name.clone(), self.progress(name, node, start.at_ms)));
        let mut record = RolloutRecord {
            number: start.number,
            generation: self.generation.number,
            back: None,
            state: RolloutState::Running,
            reason: String::new(),
            by: self.by.clone(),
            started_ms: start.at_ms,
            ended_ms: None,
            ticket: start.ticket,
            stages: self.stages.clone(),
            order: self.batches.batches.clone(),
            released: 0,
            pause_left_ms: None,
            nodes: nodes.collect(),
            held: None,
            forward_tally: None,
        };
        let observed = self.observations();
        for _ in 0..=record.order.len() {
            let next = record.generation.saturating_add(1);
            if !record.advance(&observed, start.at_ms, next) {
                break;
            }
        }
        record
    }

    /// A node has confirmed this very generation.
    fn has(&self, name: &NodeName) -> bool {
        let node = self.nodes.get(name);
        let confirmed = node.and_then(|node| node.state.confirmed);
        confirmed.is_some() && confirmed == self.generation.held(name)
    }

    fn progress(&self, name: &NodeName, node: &ProposedNode, at_ms: u64) -> NodeProgress {
        let here = node.state.presence != Presence::Offline;
        let refused = node.state.refused;
        let refused = refused.filter(|(held, _)| Some(*held) == self.generation.held(name));
        NodeProgress {
            before: self.before(name, node),
            unchanged: node.is_unchanged(),
            phase: if self.has(name) && here {
                Phase::Applied
            } else {
                Phase::Waiting
            },
            at_ms,
            refused_before: refused.map(|(_, nonce)| nonce),
            error: String::new(),
            flows_cut: 0,
            began_ms: None,
            forward: None,
        }
    }

    /// The generation that a node goes back to if the rollout does.
    fn before(&self, name: &NodeName, node: &ProposedNode) -> Option<Generation> {
        let current = self.current.as_ref()?;
        let mut before = current.targets.of(name);
        if before == Some(self.generation.number) && !self.has(name) {
            // It was offered this generation, and has not applied it.
            before = node.state.confirmed.map(|held| held.generation);
        }
        before.filter(|number| {
            let record = current.earlier.get(number);
            record.is_some_and(|record| record.nodes.contains_key(name))
        })
    }

    /// Presence only: what nodes report is judged by the rollout's own steps.
    fn observations(&self) -> BTreeMap<NodeName, Observation> {
        let observation = |(name, node): (&NodeName, &ProposedNode)| {
            let observation = Observation {
                presence: node.state.presence,
                report: NodeReport::Silent,
            };
            (name.clone(), observation)
        };
        self.nodes.iter().map(observation).collect()
    }
}

fn late_nodes(compiled: &BTreeMap<NodeName, Ruleset>, earlier: Generation) -> Option<String> {
    let names: Vec<&str> = compiled.keys().map(NodeName::as_str).collect();
    (!names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("{names} enrolled after generation {earlier}: compiled from the current documents")
    })
}

/// Numbers a candidate, or returns the current generation if it would bring nothing new.
fn number(
    current: Option<&GenerationRecord>,
    candidate: GenerationRecord,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> (GenerationRecord, bool) {
    let last = current.map_or(0, |current| current.number);
    let ahead = ahead(current, last, nodes);
    let unchanged = |current: &&GenerationRecord| {
        let digests = |record: &GenerationRecord| -> Vec<_> {
            let nodes = record.nodes.iter();
            nodes
                .map(|(name, content)| (name.clone(), content.digest))
                .collect()
        };
        digests(current) == digests(&candidate)
            && current.observe == candidate.observe
            // A node that enrolled again under its old name needs the generation too.
            && nodes
                .iter()
                .all(|(name, node)| current.knows(name, node.enrolled_ms))
            && ahead.is_none()
    };
    if let Some(current) = current.filter(unchanged) {
        let mut current = current.clone();
        // Documents may change and give the same rules: it is as good as made of them, and no
        // later plan shows what differs.
        if candidate.cause == Cause::Push {
            current.documents = current.documents.max(candidate.documents);
        }
        return (current, false);
    }
    let number = last.max(ahead.unwrap_or_default()).saturating_add(1);
    (
        GenerationRecord {
            number,
            ..candidate
        },
        true,
    )
}

/// The highest generation that a node has confirmed and the store does not know, since it was
/// restored from a backup: the node refuses everything up to it.
fn ahead(
    current: Option<&GenerationRecord>,
    last: Generation,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> Option<Generation> {
    let was = |name: &NodeName| current.and_then(|current| current.nodes.get(name));
    nodes
        .iter()
        .filter_map(|(name, node)| Some((name, node.confirmed?)))
        .filter(|(name, held)| {
            let other = || was(name).is_some_and(|was| was.digest != held.digest);
            held.generation > last || (held.generation == last && other())
        })
        .map(|(_, held)| held.generation)
        .filter(|generation| *generation <= last.saturating_add(MAX_GENERATIONS_AHEAD))
        .max()
}

fn candidates(nodes: &BTreeMap<NodeName, ProposedNode>) -> BTreeMap<NodeName, Candidate> {
    let candidate = |(name, node): (&NodeName, &ProposedNode)| {
        let candidate = Candidate {
            roles: node.state.roles.clone(),
            connected: node.state.is_connected(),
            unchanged: node.is_unchanged(),
        };
        (name.clone(), candidate)
    };
    nodes.iter().map(candidate).collect()
}

/// A site's rollout policy in numbers of the nodes that change.
fn stages(
    rollout: &Rollout,
    confirm_within_ms: u64,
    nodes: &BTreeMap<NodeName, ProposedNode>,
) -> Stages {
    let changing = nodes.values().filter(|node| !node.is_unchanged()).count();
    let batch = match rollout.batch {
        Batch::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Batch::Percent(percent) => (changing * usize::from(percent)).div_ceil(100),
    };
    Stages {
        canary: usize::try_from(rollout.canary).unwrap_or(usize::MAX),
        batch: batch.max(1),
        max_failures: usize::try_from(rollout.max_failures).unwrap_or(usize::MAX),
        pause_ms: rollout.pause_ms,
        roll_back: rollout.on_failure == OnFailure::Rollback,
        confirm_within_ms,
    }
}

#[cfg(test)]
mod tests;
