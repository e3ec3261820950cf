//! The canary: until one of its nodes has taken the generation, nobody else is given it.

use std::collections::BTreeMap;

use voipfleet_ruleset::identifiers::NodeName;

use super::record::{NodeStep, Place, RolloutRecord, RolloutState};
use super::state_machine::{Presence, Sight};

/// Names in one sentence.
const SHOWN: usize = 5;

impl RolloutRecord {
    /// Whether a canary has shown that the generation can be run, or none is asked for. A node
    /// that failed or is offline shows nothing; one that runs it of an earlier try does.
    pub fn is_proven(&self) -> bool {
        let mut changing = self.nodes.values().filter(|step| !step.had);
        self.stages.canary == 0
            || changing.next().is_none()
            || self.nodes.values().any(|step| {
                let ran = !step.had || step.before == self.generation;
                ran && step.place == Place::Applied
            })
    }

    /// Connected nodes of later batches become the canary where none of its nodes can be: an
    /// offline one changes places with them, and one that failed stays where it is.
    pub(super) fn stand_in(&mut self, sights: &BTreeMap<NodeName, Sight>, now_ms: u64) {
        let here = |name: &NodeName| {
            let sight = sights.get(name);
            sight.is_some_and(|sight| sight.presence == Presence::Here)
        };
        let fit = |nodes: &BTreeMap<NodeName, NodeStep>, name: &NodeName| {
            let step = nodes.get(name);
            step.is_some_and(|step| !step.had && step.place == Place::Waiting) && here(name)
        };
        for _ in 0..self.stages.canary {
            let found = self
                .order
                .iter()
                .enumerate()
                .skip(1)
                .find_map(|(at, batch)| {
                    let place = batch.iter().position(|name| fit(&self.nodes, name))?;
                    Some((at, place))
                });
            let Some((at, place)) = found else {
                break;
            };
            let away = |name: &&NodeName| {
                let step = self.nodes.get(*name);
                step.is_some_and(|step| matches!(step.place, Place::Away { .. }))
            };
            let away = self
                .order
                .first()
                .and_then(|canary| canary.iter().find(away).cloned());
            let Some(batch) = self.order.get_mut(at) else {
                break;
            };
            let name = match (&away, batch.get_mut(place)) {
                (Some(away), Some(slot)) => std::mem::replace(slot, away.clone()),
                _ => batch.remove(place),
            };
            if let Some(canary) = self.order.first_mut() {
                canary.retain(|name| Some(name) != away.as_ref());
                canary.push(name.clone());
            }
            if let Some(step) = away.and_then(|away| self.nodes.get_mut(&away)) {
                step.turn(Place::Waiting, now_ms, String::new());
            }
            if let Some(step) = self.nodes.get_mut(&name) {
                step.turn(Place::Away { until_ms: 0 }, now_ms, String::new());
            }
            self.give_turn(&name, sights, now_ms);
        }
        self.order.retain(|batch| !batch.is_empty());
    }

    /// What a running rollout cannot do without; empty: nothing.
    pub(super) fn awaited(&self) -> String {
        let stands = self.state == RolloutState::Running && self.released > 0;
        if !stands || self.is_proven() || self.working() > 0 || !self.has_open() {
            return String::new();
        }
        let canary = self.order.first().into_iter().flatten();
        let away: Vec<&str> = canary
            .filter(|name| {
                let step = self.nodes.get(*name);
                step.is_some_and(|step| matches!(step.place, Place::Away { .. }))
            })
            .take(SHOWN)
            .map(NodeName::as_str)
            .collect();
        let who = if away.is_empty() {
            "no node that it changes is connected".to_owned()
        } else {
            let names = away.join(", ");
            format!("{names} is offline, and no other node that it changes is connected")
        };
        format!(
            "waits for a canary: {who}; it goes on by itself when one is, or end it: \
             voipctl rollout abort"
        )
    }

    /// Whether a node that it changes may still take it.
    pub(super) fn has_open(&self) -> bool {
        let open = |place| {
            matches!(
                place,
                Place::Waiting | Place::Away { .. } | Place::Working { .. }
            )
        };
        let mut steps = self.nodes.values();
        steps.any(|step| !step.had && open(step.place))
    }
}
