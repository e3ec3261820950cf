//! Plans, for operators: bounded, with a count of what is left out.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::Status;
use voipfleet_compiler::plan::{Changes, Member};
use voipfleet_compiler::{Dropped, PendingAddress};
use voipfleet_controller_core::proposal::ProposedNode;
use voipfleet_policy::{Difference, FieldChange, Source};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{ListName, NodeName};
use voipfleet_ruleset::ruleset::{DynamicSetName, Until};

use super::fields::{invalid, parse, sources};
use super::plan_basis;
use super::plan_sight::PlanSight;
use super::push_request::earlier;
use super::refusals::refused;
use crate::clock::Clock;
use crate::push::plan::{Compared, DocumentDifference, Plan};
use crate::push::planned_sources::PlannedSource;
use crate::push::{PushRequest, Pushes, RequestedContent};

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
        by: &str,
        request: v1::PlanRequest,
        operator: Option<IpAddr>,
        sight: &PlanSight,
    ) -> Result<v1::PlanResponse, Status> {
        let sources: Vec<Source> = sources(request.sources)?;
        let content = match request.to {
            0 if !request.back => RequestedContent::Documents,
            to => earlier(to),
        };
        if content != RequestedContent::Documents && !sources.is_empty() {
            return Err(invalid("an earlier generation has documents of its own"));
        }
        let request = PushRequest {
            sources,
            content,
            ..PushRequest::new(parse(&request.site)?, by)
        };
        let plan = self.pushes.planner.plan(&request, operator).await;
        let mut plan = plan.map_err(refused)?;
        let exemptions = exemptions(&plan, sight);
        plan.warnings.extend(exemptions);
        Ok(sight.redact(answer(plan)))
    }
}

fn answer(plan: Plan) -> v1::PlanResponse {
    let mut room = Room::default();
    let held = plan
        .proposed
        .blocked()
        .map(|why| Refusal::of(&refused(why)));
    let held = held.unwrap_or_default();
    let proposal = &plan.proposed.proposal;
    let site = proposal.site.to_string();
    let current = proposal.current.as_ref();
    let documents = plan.documents.into_iter();
    let documents = documents.map(|one| document(one, &mut room)).collect();
    let nodes = proposal.nodes.iter();
    v1::PlanResponse {
        generation: proposal.generation.number,
        current: current.map_or(0, |current| current.generation.number),
        changed: proposal.changed,
        documents,
        changes: Some(changes(plan.changes, &mut room)),
        nodes: nodes
            .map(|(name, node)| planned_node(name, node, plan.compared.get(name).copied()))
            .collect(),
        warnings: plan.warnings,
        basis: Some(plan_basis::of_proposal(proposal)),
        documents_at: plan.documents_at.unwrap_or_default(),
        steps: proposal
            .batches
            .batches
            .iter()
            .map(|nodes| step(nodes))
            .collect(),
        to: proposal.rollback_to.unwrap_or_default(),
        dynamic: plan.sources.into_iter().map(source).collect(),
        site,
        held: held.message,
        held_hints: held.hints,
        observe: proposal.generation.observe,
        expiries: Vec::new(),
        pending: plan.pending.into_iter().map(pending).collect(),
    }
}

fn pending(one: PendingAddress) -> v1::PendingAddress {
    v1::PendingAddress {
        node: one.node.to_string(),
        interface: one.interface,
        address: one.address.to_string(),
        reason: one.reason.to_string(),
    }
}

/// What fetched lists would lose, a line for each list.
fn exemptions(plan: &Plan, sight: &PlanSight) -> Vec<String> {
    let line = |(list, dropped): (&ListName, &Vec<Dropped>)| {
        let shown = dropped.iter().map(|dropped| {
            if sight.shows_list(list.as_str()) {
                dropped.to_string()
            } else {
                format!("{} {}", dropped.class, dropped.entries)
            }
        });
        let shown: Vec<String> = shown.collect();
        format!(
            "deny: list:{list}: not denied, since the site serves them: {}",
            shown.join("; ")
        )
    };
    plan.exemptions.iter().map(line).collect()
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
        at_ms: source.at_ms.unwrap_or_default(),
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
        let dynamic = |names: &[DynamicSetName]| -> Vec<String> {
            names.iter().map(ToString::to_string).collect()
        };
        sets.push(v1::SetDifference {
            set: set.set,
            used_by: set.used_by,
            added: added.iter().map(member).collect(),
            removed: removed.iter().map(member).collect(),
            before: set.before as u64,
            after: set.after as u64,
            nodes: names(&set.nodes),
            more: more_added + more_removed,
            dynamic_added: dynamic(&set.dynamic_added),
            dynamic_removed: dynamic(&set.dynamic_removed),
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
                    what: reach.what.into_iter().map(|what| what.text).collect(),
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
        from: member.from.map_or(0, Until::unix),
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

fn planned_node(
    name: &NodeName,
    node: &ProposedNode,
    compared: Option<Compared>,
) -> v1::PlannedNode {
    let state = match compared {
        Some(Compared::Unchanged) => v1::PlannedState::Unchanged,
        Some(Compared::Changed) => v1::PlannedState::Changed,
        Some(Compared::First) => v1::PlannedState::First,
        Some(Compared::Unknown) | None => v1::PlannedState::Unknown,
    };
    let confirmed = node.state.confirmed;
    v1::PlannedNode {
        node: name.to_string(),
        roles: node.state.roles.iter().map(ToString::to_string).collect(),
        state: state.into(),
        connected: node.state.is_connected(),
        generation: confirmed.map_or(0, |held| held.generation),
        digest: plan_basis::digest(confirmed),
        wanted: node.content.digest.as_bytes().to_vec(),
        error: node.state.error.clone(),
    }
}
