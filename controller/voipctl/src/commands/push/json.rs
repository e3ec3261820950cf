//! The events of a push as JSON, one per line, the last one `done`. The names are a contract.

use serde::Serialize;
use voipfleet_policy::Diagnostic;
use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;

use crate::commands::apply::{Applied, Change};
use crate::commands::plan;
use crate::diagnostics::of_wire;
use crate::format::or_null;
use crate::labels;

/// The documents of `-f`, before the push itself.
#[derive(Serialize)]
pub(super) struct Documents<'a> {
    event: &'static str,
    changes: &'a [Change],
    diagnostics: &'a [Diagnostic],
}

impl<'a> Documents<'a> {
    pub(super) fn of(applied: &'a Applied) -> Self {
        Self {
            event: "documents",
            changes: &applied.changes,
            diagnostics: &applied.diagnostics,
        }
    }
}

/// What a push with `--yes` is about to change.
#[derive(Serialize)]
pub(in crate::commands) struct Planned<'a> {
    event: &'static str,
    site: &'a str,
    generation: u64,
    current: u64,
    to: Option<u64>,
    changed: bool,
    changed_nodes: Vec<&'a str>,
    warnings: &'a [String],
}

impl<'a> Planned<'a> {
    pub(in crate::commands) fn of(plan: &'a v1::PlanResponse) -> Self {
        let nodes = plan.nodes.iter();
        let changed = nodes.filter(|node| node.state() != v1::PlannedState::Unchanged);
        Self {
            event: "plan",
            site: &plan.site,
            generation: plan.generation,
            current: plan.current,
            to: (plan.to != 0).then_some(plan.to),
            changed: plan.changed,
            changed_nodes: changed.map(|node| node.node.as_str()).collect(),
            warnings: &plan.warnings,
        }
    }
}

/// What the documents of `-f` would change, by field, in a dry run.
#[derive(Serialize)]
pub(super) struct Fields<'a> {
    event: &'static str,
    site: &'a str,
    documents: plan::Documents<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(plan: &'a v1::PlanResponse) -> Self {
        Self {
            event: "fields",
            site: &plan.site,
            documents: plan::Documents::of(&plan.documents),
        }
    }
}

/// One event.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    Queued {
        site: String,
        ticket: u64,
        ahead: u32,
        generation: u64,
        by: String,
    },
    Started {
        site: String,
        generation: u64,
        changed: bool,
        nodes: Vec<NodeState>,
        dry_run: bool,
    },
    Node(NodeState),
    Diagnostic(Diagnostic),
    Done(Done),
    /// The push of the site failed, or its stream ended early.
    Failed {
        site: String,
        error: String,
    },
}

#[derive(Serialize)]
pub(super) struct NodeState {
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    node: String,
    roles: Vec<String>,
    state: &'static str,
    error: Option<String>,
    elapsed_ms: u64,
    flows_cut: u64,
    taken_back: bool,
    batch: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct Done {
    site: String,
    generation: u64,
    applied: u32,
    failed: u32,
    rolled_back: u32,
    elapsed_ms: u64,
    changed: bool,
    offline: u32,
    flows_cut: u64,
    waiting: u32,
    state: Option<String>,
    why: Option<String>,
    dry_run: bool,
}

impl Event {
    /// The same for one of several sites: a node's event then names its site.
    pub(super) fn of_site(kind: &Kind, site: &str) -> Self {
        match Self::of(kind) {
            Event::Node(node) => Event::Node(NodeState {
                site: Some(site.to_owned()),
                ..node
            }),
            other => other,
        }
    }

    pub(super) fn of(kind: &Kind) -> Self {
        match kind.clone() {
            Kind::Queued(queued) => Event::Queued {
                site: queued.site,
                ticket: queued.ticket,
                ahead: queued.ahead,
                generation: queued.generation,
                by: queued.by,
            },
            Kind::Started(started) => Event::Started {
                site: started.site,
                generation: started.generation,
                changed: started.changed,
                nodes: started.nodes.into_iter().map(node).collect(),
                dry_run: started.dry_run,
            },
            Kind::Node(state) => Event::Node(node(state)),
            Kind::Diagnostic(diagnostic) => Event::Diagnostic(of_wire(diagnostic)),
            Kind::Done(done) => Event::Done(Done {
                site: done.site,
                generation: done.generation,
                applied: done.applied,
                failed: done.failed,
                rolled_back: done.rolled_back,
                elapsed_ms: done.elapsed_ms,
                changed: done.changed,
                offline: done.offline,
                flows_cut: done.flows_cut,
                waiting: done.waiting,
                state: or_null(done.state),
                why: or_null(done.why),
                dry_run: done.dry_run,
            }),
        }
    }
}

fn node(node: v1::PushNode) -> NodeState {
    NodeState {
        site: None,
        state: labels::push(node.state()).0,
        node: node.node,
        roles: node.roles,
        error: or_null(node.error),
        elapsed_ms: node.elapsed_ms,
        flows_cut: node.flows_cut,
        taken_back: node.taken_back,
        batch: (node.batch > 0).then_some(node.batch),
    }
}
