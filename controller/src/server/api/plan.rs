//! Plans, for operators: bounded, and said so where something is left out.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::Status;
use voipfleet_compiler::plan::{Changes, Member};
use voipfleet_controller_core::precondition::{BasisNode, BasisStaging, PlanBasis};
use voipfleet_policy::{Difference, FieldChange, Source};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{Digest, LiveName, Until};

use super::convert::{invalid, parse, refused, sources};
use crate::clock::Clock;
use crate::limits::MAX_NODES_PER_SITE;
use crate::push::plan::{Compared, DocumentDifference, Planned, PlannedNode, Wish};
use crate::push::sources::PlannedSource;
use crate::push::{Pushes, Want};

/// The most networks and entries of lists in one answer: a block list that is new as a whole
/// comes with it.
const MAX_ENTRIES: usize = 200_000;

/// Plans, renderings and past generations.
#[derive(Debug, Clone)]
pub(super) struct PlanApi {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pushes: Pushes,
}

impl PlanApi {
    /// What a push would change.
    pub(super) async fn plan(
        &self,
        request: v1::PlanRequest,
        operator: Option<IpAddr>,
    ) -> Result<v1::PlanResponse, Status> {
        let sources: Vec<Source> = sources(request.sources)?;
        let to = (request.to != 0).then_some(request.to);
        let want = if request.back || to.is_some() {
            Want::Earlier(to)
        } else {
            Want::Documents
        };
        if want != Want::Documents && !sources.is_empty() {
            return Err(invalid("an earlier generation has documents of its own"));
        }
        let wish = Wish {
            site: parse(&request.site)?,
            sources,
            want,
            operator,
        };
        let site = wish.site.clone();
        let planned = self.pushes.plan(wish).await.map_err(refused)?;
        let held = self.pushes.held(&site).await.map_err(refused)?;
        let held = held.map(|why| Refusal::of(&refused(why)));
        let held = held.unwrap_or_default();
        Ok(v1::PlanResponse {
            held: held.message,
            held_hints: held.hints,
            ..answer(site.to_string(), planned)
        })
    }
}

fn answer(site: String, planned: Planned) -> v1::PlanResponse {
    let mut room = Room::default();
    let documents = planned.documents.into_iter();
    let documents = documents.map(|one| document(one, &mut room)).collect();
    v1::PlanResponse {
        generation: planned.generation,
        current: planned.current,
        changed: planned.changed,
        documents,
        changes: Some(changes(planned.changes, &mut room)),
        nodes: planned
            .nodes
            .into_iter()
            .map(|(name, node)| planned_node(&name, &node))
            .collect(),
        warnings: planned.warnings,
        basis: Some(basis_on_the_wire(&site, &planned.basis)),
        documents_at: planned.documents_at.unwrap_or_default(),
        steps: planned.steps.iter().map(|nodes| step(nodes)).collect(),
        to: planned.to.unwrap_or_default(),
        live: planned.live.into_iter().map(source).collect(),
        site,
        held: String::new(),
        held_hints: Vec::new(),
    }
}

fn step(nodes: &[NodeName]) -> v1::PlannedStep {
    v1::PlannedStep {
        nodes: names(nodes),
    }
}

fn source(source: PlannedSource) -> v1::PlannedSource {
    v1::PlannedSource {
        source: source.name.to_string(),
        addresses: source.first.iter().map(ToString::to_string).collect(),
        entries: source.entries as u64,
        at_ms: source.at_ms,
        error: source.error,
        added: source.added,
    }
}

/// What an answer can still hold.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    cut: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: MAX_ENTRIES,
            cut: false,
        }
    }
}

impl Room {
    /// As many of `entries` as fit, and how many do not.
    fn take<T>(&mut self, mut entries: Vec<T>) -> (Vec<T>, u64) {
        let more = entries.len().saturating_sub(self.left);
        entries.truncate(self.left);
        self.left -= entries.len();
        self.cut |= more > 0;
        (entries, more as u64)
    }
}

pub(super) fn names(nodes: &[NodeName]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

pub(super) fn changes(changes: Changes, room: &mut Room) -> v1::RulesetDifferences {
    let rules = changes.rules.into_iter().map(|rule| v1::RuleDifference {
        nodes: names(&rule.nodes),
        subject: rule.subject,
        removed: rule.removed,
        added: rule.added,
    });
    let rules = rules.collect();
    let mut sets = Vec::new();
    for set in changes.sets {
        let (added, more_added) = room.take(set.added);
        let (removed, more_removed) = room.take(set.removed);
        let live =
            |names: &[LiveName]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        sets.push(v1::SetDifference {
            set: set.set,
            used_by: set.used_by,
            added: added.iter().map(member).collect(),
            removed: removed.iter().map(member).collect(),
            before: set.before as u64,
            after: set.after as u64,
            nodes: names(&set.nodes),
            more: more_added + more_removed,
            live_added: live(&set.live_added),
            live_removed: live(&set.live_removed),
        });
    }
    let mut access = Vec::new();
    for one in changes.access {
        let (networks, more) = room.take(one.networks);
        access.push(v1::AccessDifference {
            owner: one.owner.to_string(),
            gains: one.gains,
            networks: networks.iter().map(ToString::to_string).collect(),
            reach: one
                .reach
                .into_iter()
                .map(|reach| v1::AccessReach {
                    what: reach.what,
                    nodes: names(&reach.nodes),
                })
                .collect(),
            more,
        });
    }
    v1::RulesetDifferences {
        rules,
        sets,
        access,
        cut: room.cut,
    }
}

fn member(member: &Member) -> v1::SetMember {
    v1::SetMember {
        network: member.net.to_string(),
        owners: member.owners.iter().map(ToString::to_string).collect(),
        until: member.until.map_or(0, Until::unix),
    }
}

pub(super) fn document(one: DocumentDifference, room: &mut Room) -> v1::DocumentDifference {
    let change = match (one.before, one.after) {
        (false, _) => "created",
        (true, false) => "deleted",
        (true, true) => "changed",
    };
    v1::DocumentDifference {
        kind: one.kind.to_string(),
        name: one.name,
        change: change.to_owned(),
        fields: one
            .fields
            .into_iter()
            .map(|change| field(change, room))
            .collect(),
    }
}

fn field(change: FieldChange, room: &mut Room) -> v1::FieldDifference {
    let mut field = v1::FieldDifference {
        field: change.field,
        ..v1::FieldDifference::default()
    };
    match change.change {
        Difference::Value { before, after } => {
            field.before = before;
            field.after = after;
        }
        Difference::Entries { removed, added } => {
            let (added, more_added) = room.take(added);
            let (removed, more_removed) = room.take(removed);
            field.added = added;
            field.removed = removed;
            field.more = more_added + more_removed;
        }
        Difference::Order => field.order = true,
    }
    field
}

fn planned_node(name: &NodeName, node: &PlannedNode) -> v1::PlannedNode {
    let state = match node.compared {
        Compared::Unchanged => v1::PlannedState::Unchanged,
        Compared::Changed => v1::PlannedState::Changed,
        Compared::First => v1::PlannedState::First,
        Compared::Unknown => v1::PlannedState::Unknown,
    };
    v1::PlannedNode {
        node: name.to_string(),
        roles: node.roles.iter().map(ToString::to_string).collect(),
        state: state.into(),
        connected: node.connected,
        generation: node.confirmed.map_or(0, |held| held.generation),
        digest: digest(node.confirmed),
        wanted: node.wanted.as_bytes().to_vec(),
        error: node.error.clone(),
    }
}

fn digest(held: Option<Held>) -> Vec<u8> {
    held.map(|held| held.digest.as_bytes().to_vec())
        .unwrap_or_default()
}

fn basis_on_the_wire(site: &str, basis: &PlanBasis) -> v1::PlanBasis {
    let node = |(name, node): (&NodeName, &BasisNode)| v1::BasisNode {
        node: name.to_string(),
        wanted: node.wanted.as_bytes().to_vec(),
        confirmed: digest(node.confirmed),
        generation: node.confirmed.map_or(0, |held| held.generation),
    };
    v1::PlanBasis {
        site: site.to_owned(),
        documents: basis.documents,
        generation: basis.generation,
        nodes: basis.nodes.iter().map(node).collect(),
        staging: basis.staging.as_ref().map(|staging| v1::BasisStaging {
            rollout: staging.rollout.clone(),
            observe: staging.observe,
        }),
    }
}

/// A plan's basis as voipctl sends it back.
pub(super) fn basis(basis: v1::PlanBasis) -> Result<PlanBasis, Status> {
    if basis.nodes.len() > MAX_NODES_PER_SITE {
        return Err(invalid(format!(
            "a plan of more than {MAX_NODES_PER_SITE} nodes"
        )));
    }
    let mut nodes = std::collections::BTreeMap::new();
    for node in basis.nodes {
        let confirmed = if node.confirmed.is_empty() {
            None
        } else {
            Some(Held {
                generation: node.generation,
                digest: Digest::try_from(node.confirmed.as_slice()).map_err(invalid)?,
            })
        };
        let wanted = Digest::try_from(node.wanted.as_slice()).map_err(invalid)?;
        let name: NodeName = parse(&node.node)?;
        nodes.insert(name, BasisNode { wanted, confirmed });
    }
    Ok(PlanBasis {
        documents: basis.documents,
        generation: basis.generation,
        nodes,
        staging: basis.staging.map(|staging| BasisStaging {
            rollout: staging.rollout,
            observe: staging.observe,
        }),
    })
}
