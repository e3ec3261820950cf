//! A plan as JSON. The names are a contract.

use serde::Serialize;
use voipfleet_policy::Diagnostic;
use voipfleet_proto::v1;

use crate::commands::cluster::PendingEntry;
use crate::commands::expiries::{self, Expiry};
use crate::format::{Moment, or_null};

/// A plan.
#[derive(Serialize)]
pub(super) struct Plan<'p> {
    site: &'p str,
    generation: u64,
    current: u64,
    /// The generation to roll back to.
    to: Option<u64>,
    changed: bool,
    documents: Documents<'p>,
    #[serde(flatten)]
    rulesets: Rulesets<'p>,
    nodes: Vec<Foreseen<'p>>,
    /// The batches, the canary first.
    batches: Vec<&'p [String]>,
    #[serde(rename = "live")]
    dynamic: Vec<DynamicSet<'p>>,
    warnings: &'p [String],
    /// Certificates that end within 60 days.
    expiries: Vec<Expiry<'p>>,
    /// Addresses that would be no members of the cluster.
    pending: Vec<PendingEntry>,
    /// Why a push would have to wait, or be refused.
    held: Option<String>,
    observe: bool,
    /// Warnings about the documents of `-f`.
    diagnostics: &'p [Diagnostic],
}

#[derive(Serialize)]
struct DynamicSet<'p> {
    source: &'p str,
    addresses: &'p [String],
    entries: u64,
    at: Moment,
    error: Option<String>,
    added: bool,
}

/// Documents by field.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Documents<'p>(Vec<Document<'p>>);

#[derive(Serialize)]
struct Document<'p> {
    kind: &'p str,
    name: &'p str,
    change: &'p str,
    fields: Vec<Changed<'p>>,
}

#[derive(Serialize)]
struct Changed<'p> {
    field: &'p str,
    before: Option<&'p str>,
    after: Option<&'p str>,
    removed: &'p [String],
    added: &'p [String],
    order: bool,
    more: u64,
}

/// What changes on the nodes.
#[derive(Serialize, Default)]
pub struct Rulesets<'p> {
    rules: Vec<Rule<'p>>,
    sets: Vec<Members<'p>>,
    access: Vec<Access<'p>>,
    cut: bool,
}

#[derive(Serialize)]
struct Rule<'p> {
    subject: &'p str,
    removed: &'p [String],
    added: &'p [String],
    nodes: &'p [String],
}

#[derive(Serialize)]
struct Members<'p> {
    set: &'p str,
    used_by: &'p [String],
    added: Vec<Member<'p>>,
    removed: Vec<Member<'p>>,
    #[serde(rename = "live_added")]
    dynamic_added: &'p [String],
    #[serde(rename = "live_removed")]
    dynamic_removed: &'p [String],
    before: u64,
    after: u64,
    nodes: &'p [String],
    more: u64,
}

#[derive(Serialize)]
struct Member<'p> {
    network: &'p str,
    owners: &'p [String],
    until: Moment,
    from: Moment,
}

#[derive(Serialize)]
struct Access<'p> {
    owner: &'p str,
    gains: bool,
    networks: &'p [String],
    reach: Vec<Reach<'p>>,
    more: u64,
}

#[derive(Serialize)]
struct Reach<'p> {
    what: &'p [String],
    nodes: &'p [String],
}

#[derive(Serialize)]
struct Foreseen<'p> {
    node: &'p str,
    roles: &'p [String],
    state: &'static str,
    connected: bool,
    generation: u64,
    digest: Option<String>,
    wanted: String,
    error: Option<String>,
}

impl<'p> Plan<'p> {
    pub(super) fn of(plan: &'p v1::PlanResponse, diagnostics: &'p [Diagnostic]) -> Self {
        Self {
            diagnostics,
            observe: plan.observe,
            site: &plan.site,
            generation: plan.generation,
            current: plan.current,
            to: (plan.to != 0).then_some(plan.to),
            changed: plan.changed,
            documents: Documents::of(&plan.documents),
            rulesets: plan.changes.as_ref().map(Rulesets::of).unwrap_or_default(),
            nodes: plan.nodes.iter().map(node).collect(),
            batches: plan.steps.iter().map(|step| &*step.nodes).collect(),
            dynamic: plan.dynamic.iter().map(source).collect(),
            warnings: &plan.warnings,
            expiries: expiries::as_json(&plan.expiries),
            pending: plan.pending.iter().map(PendingEntry::of).collect(),
            held: or_null(plan.held.clone()),
        }
    }
}

impl<'p> Documents<'p> {
    /// As the wire has them.
    pub fn of(documents: &'p [v1::DocumentDifference]) -> Self {
        let one = |document: &'p v1::DocumentDifference| Document {
            kind: &document.kind,
            name: &document.name,
            change: &document.change,
            fields: document.fields.iter().map(field).collect(),
        };
        Self(documents.iter().map(one).collect())
    }
}

fn field(field: &v1::FieldDifference) -> Changed<'_> {
    Changed {
        field: &field.field,
        before: field.before.as_deref(),
        after: field.after.as_deref(),
        removed: &field.removed,
        added: &field.added,
        order: field.order,
        more: field.more,
    }
}

impl<'p> Rulesets<'p> {
    /// As the wire has them.
    pub fn of(changes: &'p v1::RulesetDifferences) -> Self {
        let rule = |rule: &'p v1::RuleDifference| Rule {
            subject: &rule.subject,
            removed: &rule.removed,
            added: &rule.added,
            nodes: &rule.nodes,
        };
        let set = |set: &'p v1::SetDifference| Members {
            set: &set.set,
            used_by: &set.used_by,
            added: set.added.iter().map(member).collect(),
            removed: set.removed.iter().map(member).collect(),
            dynamic_added: &set.dynamic_added,
            dynamic_removed: &set.dynamic_removed,
            before: set.before,
            after: set.after,
            nodes: &set.nodes,
            more: set.more,
        };
        let reach = |reach: &'p v1::AccessReach| Reach {
            what: &reach.what,
            nodes: &reach.nodes,
        };
        let access = |access: &'p v1::AccessDifference| Access {
            owner: &access.owner,
            gains: access.gains,
            networks: &access.networks,
            reach: access.reach.iter().map(reach).collect(),
            more: access.more,
        };
        Self {
            rules: changes.rules.iter().map(rule).collect(),
            sets: changes.sets.iter().map(set).collect(),
            access: changes.access.iter().map(access).collect(),
            cut: changes.cut,
        }
    }
}

fn source(source: &v1::PlannedSource) -> DynamicSet<'_> {
    DynamicSet {
        source: &source.source,
        addresses: &source.addresses,
        entries: source.entries,
        at: Moment::of(source.at_ms),
        error: or_null(source.error.clone()),
        added: source.added,
    }
}

fn member(member: &v1::SetMember) -> Member<'_> {
    Member {
        network: &member.network,
        owners: &member.owners,
        until: Moment::of(member.until.saturating_mul(1000)),
        from: Moment::of(member.from.saturating_mul(1000)),
    }
}

fn node(node: &v1::PlannedNode) -> Foreseen<'_> {
    Foreseen {
        node: &node.node,
        roles: &node.roles,
        state: match node.state() {
            v1::PlannedState::Unchanged => "unchanged",
            v1::PlannedState::Changed => "changed",
            v1::PlannedState::First => "first",
            v1::PlannedState::Unknown | v1::PlannedState::Unspecified => "unknown",
        },
        connected: node.connected,
        generation: node.generation,
        digest: or_null(hex::encode(&node.digest)),
        wanted: hex::encode(&node.wanted),
        error: or_null(node.error.clone()),
    }
}
