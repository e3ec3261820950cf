//! Requests to the task that owns the kernel.
//!
//! Not a queue but one place for each kind, so that it cannot grow: a newer offer replaces an older
//! one, and any number of kernel events is one reason for an inspection.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::warn;
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::session::{Attempt, Held};

use super::Change;
use crate::host::clock::FleetClock;
use crate::kernel::{AddressEvents, KernelEvent, Watch};
use crate::ledger::SiteSets;
use crate::probe::Failed;

/// How long after a change of an address others that belong to it may come.
const SETTLING: Duration = Duration::from_millis(20);

/// The content of an offer.
#[derive(Debug)]
pub enum Content {
    /// The encoded ruleset.
    Bytes(Vec<u8>),
    /// It was not fetched: the node holds it already, or refuses the offer.
    NotNeeded,
    /// It did not arrive, and why.
    Missing(String),
}

/// A ruleset that the node should run.
#[derive(Debug)]
pub struct Offered {
    /// The delivery, echoed in the answer.
    pub nonce: u64,
    /// Its number and digest.
    pub held: Held,
    /// The encoded ruleset.
    pub content: Content,
    /// How long a trial may take.
    pub confirm_within: Duration,
    /// When the offer arrived.
    pub received: Instant,
}

/// Dynamic sets that arrived.
#[derive(Debug, Clone)]
pub struct ReceivedSets {
    pub sets: Arc<SiteSets>,
    /// When the announcement arrived.
    pub received: Instant,
}

/// The addresses that the agent is about to dial.
#[derive(Debug)]
pub struct Controllers {
    /// All of them.
    pub addresses: Vec<SocketAddr>,
    /// Notified when the failsafe chain keeps them open, or could not.
    pub done: oneshot::Sender<()>,
}

/// The controller confirmed a trial over a connection that came through the new rules.
#[derive(Debug, Clone, Copy)]
pub struct Confirmation {
    pub attempt: Attempt,
    /// When it arrived.
    pub received: Instant,
}

/// How the probes of a trial ended.
#[derive(Debug)]
pub struct ProbeResults {
    /// The trial.
    pub attempt: Attempt,
    /// Those that failed, in the order of the document.
    pub failed: Vec<Failed>,
    /// When the last one ended.
    pub ended: Instant,
}

/// The result of dialling during a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialResult {
    /// There is none, and why.
    Failed(String),
    /// The controller answered on it.
    Welcomed,
}

/// Everything that was requested since the last time.
#[derive(Debug, Default)]
pub struct Requests {
    /// Stop, and leave the confirmed rules in place.
    pub stop: bool,
    /// The newest confirmation.
    pub confirmation: Option<Confirmation>,
    /// Probes that ended. Not the newest only: late ones of an earlier trial must not replace those
    /// that are awaited. Each ends within seconds of its start, so there are never many.
    pub probes: Vec<ProbeResults>,
    /// The newest dynamic sets; they come before the offer.
    pub dynamic_sets: Option<ReceivedSets>,
    /// Why newer ones did not arrive.
    pub dynamic_sets_failed: Option<String>,
    /// The newest offer.
    pub offer: Option<Offered>,
    /// The newest addresses.
    pub controllers: Option<Controllers>,
    /// Kernel events.
    pub change: Option<Change>,
    /// Interfaces or addresses of the machine may have changed.
    pub addresses_changed: bool,
}

impl Requests {
    fn is_empty(&self) -> bool {
        !self.stop
            && self.confirmation.is_none()
            && self.probes.is_empty()
            && self.dynamic_sets.is_none()
            && self.dynamic_sets_failed.is_none()
            && self.offer.is_none()
            && self.controllers.is_none()
            && self.change.is_none()
            && !self.addresses_changed
    }
}

/// Where requests wait.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Requests>,
    filled: Condvar,
    /// Of the trial with that nonce. It does not wake the task, which reads it when the trial ends.
    dialled: Mutex<Option<(u64, DialResult)>>,
    /// Why the kernel announces no changes.
    polling_only: Mutex<Option<String>>,
    clock: Arc<FleetClock>,
    /// The base of deltas.
    last_dynamic_sets: Mutex<Option<Arc<SiteSets>>>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        // Nothing under the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The controller's clock: the link hears it, and the kernel's set elements end by it.
    pub fn clock(&self) -> &Arc<FleetClock> {
        &self.clock
    }

    /// Hands over an offer; it replaces an older one that waits.
    pub fn offer(&self, offered: Offered) {
        self.lock().offer = Some(offered);
        self.filled.notify_one();
    }

    /// Hands over dynamic sets; they are complete, and replace older ones that wait.
    pub fn dynamic_sets(&self, received: ReceivedSets) {
        {
            let mut last = self
                .last_dynamic_sets
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Some(Arc::clone(&received.sets));
        }
        let mut waiting = self.lock();
        waiting.dynamic_sets = Some(received);
        waiting.dynamic_sets_failed = None;
        self.filled.notify_one();
    }

    /// Reports that dynamic sets which were announced did not arrive, and why.
    pub fn dynamic_sets_failed(&self, why: String) {
        self.lock().dynamic_sets_failed = Some(why);
        self.filled.notify_one();
    }

    /// The dynamic sets that were handed over last.
    pub(crate) fn last_dynamic_sets(&self) -> Option<Arc<SiteSets>> {
        let last = self
            .last_dynamic_sets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// Hands over a confirmation.
    pub fn confirm(&self, attempt: Attempt) {
        self.lock().confirmation = Some(Confirmation {
            attempt,
            received: Instant::now(),
        });
        self.filled.notify_one();
    }

    /// Reports how the probes of a trial ended.
    pub fn probed(&self, attempt: Attempt, failed: Vec<Failed>) {
        self.lock().probes.push(ProbeResults {
            attempt,
            failed,
            ended: Instant::now(),
        });
        self.filled.notify_one();
    }

    /// Reports what became of the new connection of the trial with `nonce`.
    pub fn dialled(&self, nonce: u64, dialled: DialResult) {
        let mut last = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((nonce, dialled));
    }

    /// The last report about that trial's connection.
    pub(crate) fn last_dialled(&self, nonce: u64) -> Option<DialResult> {
        let last = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(of, _)| *of == nonce)
            .map(|(_, dialled)| dialled.clone())
    }

    /// Names the addresses that are dialled from now on.
    pub fn controllers(&self, addresses: Vec<SocketAddr>) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.lock().controllers = Some(Controllers { addresses, done });
        self.filled.notify_one();
        wait
    }

    /// Reports a kernel event. One that reached neither filter table is ignored.
    pub fn changed(&self, event: &KernelEvent, noticed: Instant) {
        let Some(change) = Change::of_event(event, noticed) else {
            return;
        };
        let mut waiting = self.lock();
        match &mut waiting.change {
            Some(earlier) => earlier.merge(&change),
            None => waiting.change = Some(change),
        }
        self.filled.notify_one();
    }

    /// Takes the changes that `watch` announces, until it cannot announce any more.
    pub async fn follow(self: Arc<Self>, mut watch: Watch) {
        loop {
            match watch.next().await {
                Ok(event) => self.changed(&event, Instant::now()),
                Err(error) => return self.polling_only(&error),
            }
        }
    }

    /// Reports that interfaces or addresses of the machine may have changed.
    pub fn addresses_changed(&self) {
        self.lock().addresses_changed = true;
        self.filled.notify_one();
    }

    /// Reports what `events` announces, until it cannot announce any more: then addresses are
    /// read at each poll only. Several changes at once are reported together.
    pub async fn follow_addresses(self: Arc<Self>, mut events: AddressEvents) {
        loop {
            if let Err(error) = events.next().await {
                let reason = chain(&error);
                warn!(reason, "no events for changes of addresses; polling only");
                return;
            }
            let settled = tokio::time::Instant::now() + SETTLING;
            while let Ok(Ok(())) = tokio::time::timeout_at(settled, events.next()).await {}
            self.addresses_changed();
        }
    }

    /// The kernel does not announce changes, or not any more.
    pub fn polling_only(&self, why: &dyn std::error::Error) {
        let why = chain(why);
        warn!(reason = why, "no events for changes of rules; polling only");
        let mut polling_only = self
            .polling_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *polling_only = Some(why);
    }

    /// Why drift is found by polling only; none where it is announced.
    pub(crate) fn polling_reason(&self) -> Option<String> {
        let polling_only = self
            .polling_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        polling_only.clone()
    }

    /// Asks the task to stop.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.filled.notify_one();
    }

    /// Waits for a request, or until `deadline`, and takes everything.
    pub fn wait(&self, deadline: Instant) -> Requests {
        let mut waiting = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !waiting.is_empty() || left.is_zero() {
                return std::mem::take(&mut waiting);
            }
            waiting = self
                .filled
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::ruleset::{Digest, Family};

    use super::*;
    use crate::kernel::{Author, Reach, Transaction};

    #[test]
    fn newer_offer_replaces_older_and_events_merge() {
        let inbox = Inbox::default();
        let start = Instant::now();
        for generation in 1..=3 {
            inbox.offer(Offered {
                nonce: generation,
                held: Held {
                    generation,
                    digest: Digest::of(b"x"),
                },
                content: Content::NotNeeded,
                confirm_within: Duration::ZERO,
                received: start,
            });
            let pid = u32::try_from(generation).unwrap();
            inbox.changed(&change(pid, Reach::Ours, Reach::Nothing), Instant::now());
        }
        let wake = inbox.wait(start + Duration::from_mins(10));
        assert_eq!(wake.offer.unwrap().nonce, 3);
        let change = wake.change.unwrap();
        assert_eq!(change.author(Family::V4).unwrap().process.pid, 3);
        assert!(inbox.wait(start).is_empty());
    }

    fn change(pid: u32, v4: Reach, v6: Reach) -> KernelEvent {
        let author = Some(Box::new(Author::named(pid, "iptables".to_owned())));
        KernelEvent::Changed(Transaction { author, v4, v6 })
    }

    #[test]
    fn author_of_a_change_of_our_chains_is_preferred() {
        let inbox = Inbox::default();
        let start = Instant::now();
        for event in [
            change(1, Reach::Ours, Reach::Nothing),
            change(2, Reach::Others, Reach::Nothing),
            change(3, Reach::Nothing, Reach::Others),
            change(4, Reach::Nothing, Reach::Nothing),
        ] {
            inbox.changed(&event, start);
        }
        let seen = inbox.wait(start).change.unwrap();
        let by = |family| seen.author(family).map(|author| author.process.pid);
        assert_eq!((by(Family::V4), by(Family::V6)), (Some(1), Some(3)));

        inbox.changed(&change(4, Reach::Nothing, Reach::Nothing), start);
        assert!(inbox.wait(start).is_empty(), "it concerns us in nothing");
        inbox.changed(&change(5, Reach::Nothing, Reach::Others), start);
        let seen = inbox.wait(start).change.unwrap();
        assert!(seen.touches(Family::V6) && !seen.touches(Family::V4));
        inbox.changed(&KernelEvent::Lost, start);
        let seen = inbox.wait(start).change.unwrap();
        assert!(seen.touches(Family::V6) && seen.touches(Family::V4));
    }
}
