//! Reports to the controller: the node's status, and facts about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;

use super::drift_check::Drift;
use super::dynamic_sets::HeldSets;
use super::flows::Flows;
use super::interfaces::{Interfaces, Of};
use super::node::Node;
use super::outcome::Outcome;
use super::warnings::Warning;
use crate::enforcement::management_rules::Fallback;
use crate::mailbox::Outbox;

/// Reports, and what they repeat.
pub(super) struct Report {
    pub(super) outbox: Arc<Outbox>,
    /// The fate of the last offer.
    pub(super) outcome: Outcome,
    /// Of the start, until a push is confirmed; then of that push.
    pub(super) warnings: Vec<Warning>,
}

/// The parts of the task that a status is made of.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) node: &'a Node,
    pub(super) drift: &'a Drift,
    pub(super) flows: &'a Flows,
    pub(super) dynamic_sets: &'a HeldSets,
    pub(super) interfaces: &'a Interfaces,
}

impl Report {
    /// Reports the node's status. `nonce` is that of the offer that it answers, and `since` when
    /// that came.
    pub(super) fn send(&self, view: View<'_>, nonce: Option<u64>, since: Option<Instant>) {
        // Hello announces a trial by its nonce, whatever was reported last.
        let on_trial = view
            .node
            .trial_state
            .on_trial()
            .map(|attempt| attempt.nonce);
        let status = status(view, on_trial.or(nonce), &self.outcome, since);
        self.outbox.status(status);
    }

    /// Answers an offer that does not change what the node reports about itself.
    pub(super) fn answer(&self, view: View<'_>, nonce: u64, outcome: &Outcome, since: Instant) {
        let status = status(view, Some(nonce), outcome, Some(since));
        self.outbox.answer(status);
    }

    /// Reports the node's status where its drift is not what was reported last.
    pub(super) fn send_drift(&self, view: View<'_>) {
        let last = self.outbox.last_status();
        let detail = view.drift.detail();
        if last.drift == i32::from(view.drift.state())
            && last.drift_detail == detail.as_deref().unwrap_or_default()
            && last.sets == counted_sets(view)
            && last.open == open(view)
        {
            return;
        }
        if let Some(detail) = detail.filter(|detail| last.drift_detail != *detail) {
            warn!(reason = detail.replace('\n', " "), "drift remains");
        }
        self.send(view, None, None);
    }

    /// Reports `facts` about the machine, with the warnings of the agent.
    pub(super) fn send_facts(&self, view: View<'_>, mut facts: pb::NodeFacts, more: Vec<Warning>) {
        let node = view.node;
        let mut warnings = self.warnings.clone();
        match &node.fallback {
            Some(fallback) => warnings.push(Warning::Fallback {
                description: fallback.describe(),
            }),
            None => warnings.extend(view.drift.not_in_force().map(|reason| Warning::NotInForce {
                reason: reason.to_owned(),
            })),
        }
        let of_machine = std::mem::take(&mut facts.warnings);
        facts.warnings = warnings.iter().map(ToString::to_string).collect();
        facts.warnings.extend(of_machine);
        let mut warnings: Vec<Warning> = view
            .flows
            .warning()
            .map(|description| Warning::Flows { description })
            .into_iter()
            .collect();
        if node
            .running()
            .is_some_and(|running| running.canonical.read_back)
        {
            warnings.push(Warning::NoScratchNamespace);
        }
        warnings.extend(view.dynamic_sets.unkept().map(|why| Warning::Unkept {
            description: why.to_owned(),
        }));
        let obstacles = view.drift.obstacles().into_iter();
        warnings.extend(obstacles.map(|description| Warning::Obstacle { description }));
        warnings.extend(more);
        let count = self.outbox.dropped();
        if count > 0 {
            warnings.push(Warning::RecordsDropped { count });
        }
        facts
            .warnings
            .extend(warnings.iter().map(ToString::to_string));
        self.outbox.facts(facts);
    }
}

fn status(
    view: View<'_>,
    nonce: Option<u64>,
    outcome: &Outcome,
    since: Option<Instant>,
) -> pb::NodeStatus {
    let (node, drift) = (view.node, view.drift);
    let confirmed = node.confirmed_in_force();
    let digest = |held: Option<Held>| {
        held.map(|held| held.digest.as_bytes().to_vec())
            .unwrap_or_default()
    };
    let generation = |held: Option<Held>| held.map_or(0, |held| held.generation);
    let elapsed = since.map_or(Duration::ZERO, |since| since.elapsed());
    let sets_digest = view.dynamic_sets.digest_in_force(node);
    pb::NodeStatus {
        nonce: nonce.unwrap_or_default(),
        generation: generation(outcome.held()),
        digest: digest(outcome.held()),
        state: outcome.state().into(),
        error: error(node, outcome),
        drift: drift.state().into(),
        sets: counted_sets(view),
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        confirmed_generation: generation(confirmed),
        confirmed_digest: digest(confirmed),
        drift_detail: drift.detail().unwrap_or_default(),
        flows_cut: view.flows.cut(),
        // The link says when it is sent.
        clock_ms: 0,
        fleet_time_s: node.kernel.now(),
        dynamic_digest: sets_digest
            .map(|digest| digest.as_bytes().to_vec())
            .unwrap_or_default(),
        dynamic_error: view.dynamic_sets.error().unwrap_or_default(),
        open: open(view),
        undo_due: node.trial_state.undo_is_due(),
        missing_interfaces: view.interfaces.missing(node, Of::Members),
    }
}

/// Why packets come in past our rules; empty: they do not.
fn open(view: View<'_>) -> String {
    let fallback = view
        .node
        .fallback
        .as_ref()
        .filter(|_| view.node.is_in_fallback());
    let refused = fallback
        .filter(|fallback| fallback.is_open())
        .map(Fallback::describe);
    refused.or_else(|| view.drift.open()).unwrap_or_default()
}

/// Problems of an offer, and of the node; empty: none.
fn error(node: &Node, outcome: &Outcome) -> String {
    let error = outcome.error().unwrap_or_default();
    match (&node.fallback, outcome) {
        (Some(fallback), Outcome::Rejected(..) | Outcome::RolledBack(..) | Outcome::Failed(..)) => {
            format!("{error}; {}", fallback.describe())
        }
        _ => error,
    }
}

/// The elements of what runs, as they were last counted. Management rules have no sets.
fn counted_sets(view: View<'_>) -> Option<pb::SetCount> {
    let runs = !view.node.is_in_fallback();
    view.drift.counted().filter(|_| runs).map(Into::into)
}
