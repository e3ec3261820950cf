//! Looks after one site's rollouts: sees, decides, stores, and only then acts.

use std::time::Duration;

use tokio::sync::broadcast;
use tokio_stream::StreamExt as _;
use voipfleet_controller_core::rollout::released;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use super::{RETURN, Rollouts, observation, persist};
use crate::audit::Event;
use crate::clock;
use crate::errors::chain;
use crate::failpoint;
use crate::fleet;
use crate::records::{self, GenerationRecord, NodeId, Place, Read, RolloutRecord, RolloutState};
use crate::store::{StoreError, keys};

/// After an error of the store.
const RETRY: Duration = Duration::from_secs(1);
/// The wall clock may be set: nobody sleeps longer on its word.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Runs until the fleet stops.
pub(super) async fn run(rollouts: Rollouts, site: SiteName) {
    let own = &rollouts.inner.fleet;
    let stop = own.stop_token();
    let mut changes = rollouts
        .inner
        .store
        .watch_from_now(&keys::rollout(&site))
        .await;
    let mut events = own.events();
    // A release of an earlier run may not have been acted on.
    let mut fresh = true;
    loop {
        let sleep = match turn(&rollouts, &site, fresh).await {
            Ok(Some(sleep)) => sleep,
            Ok(None) => {
                fresh = false;
                continue;
            }
            Err(error) => {
                tracing::error!(%site, error = %chain(&error), "a rollout does not go on");
                Some(RETRY)
            }
        };
        fresh = false;
        tokio::select! {
            () = clock::sleep(sleep) => {}
            change = changes.next() => if change.is_none() { return },
            () = of_site(&mut events, &site) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Returns when something has happened to a node of the site, or events were missed.
async fn of_site(events: &mut broadcast::Receiver<NodeId>, site: &SiteName) {
    fleet::of_site(events, site).await;
    // What came with it is seen in the same look.
    while let Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) = events.try_recv() {}
}

/// One look; none: something was decided, and there may be more to decide. Else how long to
/// sleep when nothing happens; none of that: for ever.
// The two nones differ: the outer one means at once.
#[allow(clippy::option_option)]
async fn turn(
    rollouts: &Rollouts,
    site: &SiteName,
    fresh: bool,
) -> Result<Option<Option<Duration>>, StoreError> {
    let inner = &rollouts.inner;
    let store = inner.store.as_ref();
    let Some(read) = rollouts.read(site).await? else {
        return Ok(Some(None));
    };
    let away = read
        .record
        .count(|place| matches!(place, Place::Away { .. }));
    match read.record.state {
        // It comes from a backup: an operator looks first.
        _ if read.record.held.is_some() => return Ok(Some(None)),
        RolloutState::RolledBack => return Ok(Some(None)),
        RolloutState::Done if away == 0 => return Ok(Some(None)),
        _ => {}
    }
    let Some(goal) = generation(rollouts, site, read.record.goal()).await? else {
        tracing::error!(%site, generation = read.record.goal(), "the generation is missing");
        return Ok(Some(None));
    };
    let now_ms = inner.clock.now_ms();
    let taken_over = read.record.started_ms < inner.started_ms;
    let back_until = taken_over.then_some(inner.started + RETURN);
    let sights =
        observation::observe(&inner.fleet, site, &read.record, &goal, now_ms, back_until).await;
    let mut next = read.record.clone();
    if taken_over {
        let return_ms = u64::try_from(RETURN.as_millis()).unwrap_or(u64::MAX);
        next.take_over(inner.started_ms, return_ms);
    }
    let newest = read.record.goal().max(read.record.generation);
    let moved = next.advance(&sights, now_ms, newest.saturating_add(1));
    if !moved && next == read.record {
        if fresh || retries(rollouts, site, &read.record) {
            act(rollouts, site, &read.record, None).await;
        }
        let sleep = next.wakes_ms(now_ms).map(|at| {
            let left = Duration::from_millis(at.saturating_sub(now_ms).max(1));
            left.min(LONGEST_SLEEP)
        });
        return Ok(Some(sleep));
    }
    if persist(store, site, &read, &next, now_ms).await? {
        told(rollouts, site, &read, &next).await;
        act(rollouts, site, &next, Some(&read.record)).await;
    }
    Ok(None)
}

async fn generation(
    rollouts: &Rollouts,
    site: &SiteName,
    number: Generation,
) -> Result<Option<GenerationRecord>, StoreError> {
    let key = keys::generation(site, number);
    let read = records::read(rollouts.inner.store.as_ref(), &key).await?;
    Ok(read.map(|read| read.record))
}

/// Whether a node at work still stands where it had refused before: it needs another push.
fn retries(rollouts: &Rollouts, site: &SiteName, record: &RolloutRecord) -> bool {
    record.nodes.iter().any(|(name, step)| {
        let id = NodeId {
            site: site.clone(),
            node: name.clone(),
        };
        step.place.is_working()
            && step.refused_before.is_some()
            && rollouts.inner.fleet.view(&id).is_some_and(|view| {
                let offered = view.offered.as_ref().map(|offered| offered.nonce);
                offered == step.refused_before
            })
    })
}

/// Brings what was decided to the sessions. Sessions read what their node should run by
/// themselves; only another try must be asked for.
async fn act(
    rollouts: &Rollouts,
    site: &SiteName,
    record: &RolloutRecord,
    before: Option<&RolloutRecord>,
) {
    let nodes = match before {
        Some(before) => released(before, record),
        None => record
            .nodes
            .iter()
            .filter(|(_, step)| step.place.is_working())
            .map(|(name, _)| name.clone())
            .collect(),
    };
    if !nodes.is_empty() {
        rollouts
            .inner
            .fleet
            .again_for(site, &nodes, record.goal(), record.stages.confirm_within_ms)
            .await;
        failpoint::reach("release", failpoint::At::Announced);
    }
}

/// Says how it stands where that is new: in the log, and in the audit log.
async fn told(
    rollouts: &Rollouts,
    site: &SiteName,
    before: &Read<RolloutRecord>,
    after: &RolloutRecord,
) {
    if before.record.state == after.state {
        return;
    }
    let state = after.state.as_str();
    let generation = after.generation;
    let outcome = after.outcome(after.started_ms);
    let (applied, failed, untouched) = (outcome.applied, outcome.failed, outcome.untouched);
    let why = &after.why;
    tracing::info!(%site, generation, state, applied, failed, untouched, why, "rollout");
    let event = match after.state {
        RolloutState::Halted | RolloutState::RollingBack => {
            Event::new("RolloutHalted").failed(why.as_str())
        }
        RolloutState::RolledBack if !after.not_back().is_empty() => {
            Event::new("RolloutTakenBack").failed(why.as_str())
        }
        RolloutState::RolledBack => Event::new("RolloutTakenBack"),
        RolloutState::Done => Event::new("RolloutEnded"),
        RolloutState::Running | RolloutState::Paused | RolloutState::Aborted => return,
    };
    let event = event
        .site(site)
        .generations(after.before(), Some(after.goal()))
        .detail(format!(
            "{state}: {applied} applied, {failed} failed, {untouched} untouched; started by {}",
            after.by
        ));
    if let Some(audit) = rollouts.inner.audit.get() {
        audit.note(event).await;
    }
}
