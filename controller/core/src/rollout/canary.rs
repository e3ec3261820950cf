//! The canary: until one of its nodes has applied the generation, no other node is given it.

use std::collections::BTreeMap;

use voipfleet_ruleset::identifiers::NodeName;

use super::record::{NodeProgress, Phase, RolloutRecord, RolloutState};
use super::state_machine::{Observation, Presence};

/// Names in one sentence.
const SHOWN: usize = 5;

impl RolloutRecord {
    /// Whether a canary has shown that the generation can be run, or none is asked for. A node
    /// that failed or is offline proves nothing; one that runs it since an earlier try does.
    pub fn is_proven(&self) -> bool {
        let mut changing = self.nodes.values().filter(|step| !step.unchanged);
        self.stages.canary == 0
            || changing.next().is_none()
            || self.nodes.values().any(|step| {
                let ran = !step.unchanged || step.before == Some(self.generation);
                ran && step.phase == Phase::Applied
            })
    }

    /// Replaces a canary none of whose nodes is available by connected nodes of later batches: an
    /// offline node changes places with them, and one that failed stays where it is.
    pub(super) fn replace_canary(
        &mut self,
        observed: &BTreeMap<NodeName, Observation>,
        at_ms: u64,
    ) {
        let here = |name: &NodeName| {
            let seen = observed.get(name);
            seen.is_some_and(|seen| seen.presence == Presence::Connected)
        };
        let fit = |nodes: &BTreeMap<NodeName, NodeProgress>, name: &NodeName| {
            let step = nodes.get(name);
            step.is_some_and(|step| !step.unchanged && step.phase == Phase::Waiting) && here(name)
        };
        for _ in 0..self.stages.canary {
            let found = self
                .order
                .iter()
                .enumerate()
                .skip(1)
                .find_map(|(at, batch)| {
                    let slot = batch.iter().position(|name| fit(&self.nodes, name))?;
                    Some((at, slot))
                });
            let Some((at, slot)) = found else {
                break;
            };
            let away = |name: &&NodeName| {
                let step = self.nodes.get(*name);
                step.is_some_and(|step| step.phase.is_offline())
            };
            let away = self
                .order
                .first()
                .and_then(|canary| canary.iter().find(away).cloned());
            let Some(batch) = self.order.get_mut(at) else {
                break;
            };
            let name = match (&away, batch.get_mut(slot)) {
                (Some(away), Some(slot)) => std::mem::replace(slot, away.clone()),
                _ => batch.remove(slot),
            };
            if let Some(canary) = self.order.first_mut() {
                canary.retain(|name| Some(name) != away.as_ref());
                canary.push(name.clone());
            }
            if let Some(step) = away.and_then(|away| self.nodes.get_mut(&away)) {
                step.enter(Phase::Waiting, at_ms, String::new());
            }
            if let Some(step) = self.nodes.get_mut(&name) {
                step.enter(Phase::Offline { grace_ms: 0 }, at_ms, String::new());
            }
            self.give_turn(&name, observed, at_ms);
        }
        self.order.retain(|batch| !batch.is_empty());
    }

    /// What a running rollout waits for, in words; empty: nothing.
    pub(super) fn awaited(&self) -> String {
        let running = self.state == RolloutState::Running && self.released > 0;
        if !running || self.is_proven() || self.working() > 0 || !self.has_open() {
            return String::new();
        }
        let canary = self.order.first().into_iter().flatten();
        let away: Vec<&str> = canary
            .filter(|name| {
                let step = self.nodes.get(*name);
                step.is_some_and(|step| step.phase.is_offline())
            })
            .take(SHOWN)
            .map(NodeName::as_str)
            .collect();
        let missing = if away.is_empty() {
            "no node that it changes is connected".to_owned()
        } else {
            let names = away.join(", ");
            format!("{names} is offline, and no other node that it changes is connected")
        };
        format!(
            "waits for a canary: {missing}; it continues when one connects, or end it: \
             voipctl rollout abort"
        )
    }

    /// Whether a node that it changes may still take it.
    pub(super) fn has_open(&self) -> bool {
        let open = |phase| {
            matches!(
                phase,
                Phase::Waiting | Phase::Offline { .. } | Phase::Working { .. }
            )
        };
        let mut steps = self.nodes.values();
        steps.any(|step| !step.unchanged && open(step.phase))
    }
}
