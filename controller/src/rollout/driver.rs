//! Drives one site's rollouts: observes, decides, stores, and only then acts.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio_stream::StreamExt as _;
use voipfleet_controller_core::rollout::released;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use super::observation::observe;
use super::persist::persist;
use super::timers::millis;
use super::{RETURN, Rollouts};
use crate::audit::Event;
use crate::errors::chain;
use crate::failpoint;
use crate::fleet;
use crate::records::{self, GenerationRecord, NodeId, Phase, Read, RolloutRecord, RolloutState};
use crate::site_tasks::{Next, SiteTask};
use crate::store::{Changes, StoreError, keys};

/// After an error of the store.
const RETRY: Duration = Duration::from_secs(1);

/// The rollouts of one site, one after the other.
pub(super) struct SiteRollouts {
    driver: Driver,
    changes: Changes,
    events: broadcast::Receiver<NodeId>,
    /// A release of an earlier run may not have been acted on.
    fresh: bool,
}

/// Takes a site's rollout one step further.
struct Driver {
    rollouts: Rollouts,
    site: SiteName,
}

impl SiteRollouts {
    pub(super) async fn new(rollouts: Rollouts, site: SiteName) -> Self {
        let store = &rollouts.inner.store;
        Self {
            changes: store.watch_from_now(&keys::rollout(&site)).await,
            events: rollouts.inner.fleet.events(),
            driver: Driver { rollouts, site },
            fresh: true,
        }
    }
}

impl Driver {
    async fn step(&self, fresh: bool) -> Result<Next, StoreError> {
        let inner = &self.rollouts.inner;
        let (store, site) = (inner.store.as_ref(), &self.site);
        let Some(read) = self.rollouts.read(site).await? else {
            return Ok(Next::OnChange);
        };
        let now = inner.clock.monotonic();
        let elapsed = inner.timers.elapsed(site, &read, now);
        if is_at_rest(&read.record) {
            return Ok(Next::OnChange);
        }
        let Some(goal) = self.generation(read.record.goal()).await? else {
            tracing::error!(%site, generation = read.record.goal(), "generation is missing");
            return Ok(Next::OnChange);
        };
        let back_until = elapsed.taken_over.then_some(inner.started + RETURN);
        let observed = observe(&inner.fleet, site, &read.record, &goal, back_until).await;
        let mut next = read.record.clone();
        next.tick(elapsed.ms);
        let rearmed = elapsed.first && next.rearm(millis(RETURN));
        let at_ms = inner.clock.now_ms();
        let number = next.newest().saturating_add(1);
        if !next.advance(&observed, at_ms, number) && !rearmed {
            if fresh || self.has_old_refusals(&read.record) {
                self.act(&read.record, None).await;
            }
            let left = next.wakes_after_ms().map(Duration::from_millis);
            return Ok(left.map_or(Next::OnChange, |left| Next::At(now.saturating_add(left))));
        }
        if let Some(revision) = persist(store, site, &read, &next, at_ms).await? {
            inner.timers.wrote(site, &next, revision, now);
            self.report(&read, &next).await;
            self.act(&next, Some(&read.record)).await;
        } else if elapsed.first {
            inner.timers.forget(site);
        }
        Ok(Next::Now)
    }

    async fn generation(&self, number: Generation) -> Result<Option<GenerationRecord>, StoreError> {
        let key = keys::generation(&self.site, number);
        let read = records::read(self.rollouts.inner.store.as_ref(), &key).await?;
        Ok(read.map(|read| read.record))
    }

    fn id(&self, node: &NodeName) -> NodeId {
        NodeId {
            site: self.site.clone(),
            node: node.clone(),
        }
    }

    /// Whether the last offer to a node at work is still the one that it had refused before: it
    /// must be offered again.
    fn has_old_refusals(&self, record: &RolloutRecord) -> bool {
        record.nodes.iter().any(|(name, step)| {
            let view = self.rollouts.inner.fleet.view(&self.id(name));
            step.phase.is_working()
                && step.refused_before.is_some()
                && view.is_some_and(|view| {
                    let offered = view.offered.as_ref().map(|offered| offered.nonce);
                    offered == step.refused_before
                })
        })
    }

    /// Brings what was decided to the sessions. Sessions read what their node should run by
    /// themselves; only another try must be asked for.
    async fn act(&self, record: &RolloutRecord, before: Option<&RolloutRecord>) {
        let nodes: Vec<NodeName> = match before {
            Some(before) => released(before, record),
            None => record
                .nodes
                .iter()
                .filter(|(_, step)| step.phase.is_working())
                .map(|(name, _)| name.clone())
                .collect(),
        };
        if nodes.is_empty() {
            return;
        }
        let (goal, within_ms) = (record.goal(), record.stages.confirm_within_ms);
        let fleet = &self.rollouts.inner.fleet;
        fleet.again_for(&self.site, &nodes, goal, within_ms).await;
        failpoint::reach("release", failpoint::At::Announced);
    }

    /// Reports a new state in the log and in the audit log.
    async fn report(&self, before: &Read<RolloutRecord>, after: &RolloutRecord) {
        if before.record.state == after.state {
            return;
        }
        let site = &self.site;
        let state = after.state.as_str();
        let generation = after.generation;
        let outcome = after.outcome(after.started_ms);
        let (applied, failed, untouched) = (outcome.applied, outcome.failed, outcome.untouched);
        let reason = &after.reason;
        tracing::info!(%site, generation, state, applied, failed, untouched, reason, "rollout");
        let event = match after.state {
            RolloutState::Halted | RolloutState::RollingBack => {
                Event::new("RolloutHalted").failed(reason.as_str())
            }
            RolloutState::RolledBack if !after.not_back().is_empty() => {
                Event::new("RolloutTakenBack").failed(reason.as_str())
            }
            RolloutState::RolledBack => Event::new("RolloutTakenBack"),
            RolloutState::Done => Event::new("RolloutEnded"),
            RolloutState::Running | RolloutState::Paused | RolloutState::Aborted => return,
        };
        let event = event
            .site(site)
            .generations(after.before(), Some(after.goal()))
            .detail(format!(
                "{applied} applied, {failed} failed, {untouched} untouched; started by {}",
                after.by
            ));
        if let Some(audit) = self.rollouts.inner.audit.get() {
            audit.note(event).await;
        }
    }
}

#[async_trait]
impl SiteTask for SiteRollouts {
    async fn turn(&mut self) -> Next {
        let fresh = std::mem::take(&mut self.fresh);
        match self.driver.step(fresh).await {
            Ok(next) => next,
            Err(error) => {
                let site = &self.driver.site;
                tracing::error!(%site, error = %chain(&error), "rollout delayed");
                Next::After(RETRY)
            }
        }
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            change = self.changes.next() => change.is_some(),
            () = fleet::of_site(&mut self.events, &self.driver.site) => {
                // What came with it is observed in the same step.
                while let Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) =
                    self.events.try_recv()
                {}
                true
            }
        }
    }
}

/// Nothing of it is under way, or an operator must decide first.
fn is_at_rest(record: &RolloutRecord) -> bool {
    match record.state {
        _ if record.held.is_some() => true,
        RolloutState::RolledBack => true,
        // Nodes that were offline get it when they reconnect.
        RolloutState::Done => record.count(Phase::is_offline) == 0,
        _ => false,
    }
}
