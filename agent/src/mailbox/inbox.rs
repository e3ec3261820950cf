//! What others ask of the task that owns the kernel.
//!
//! Not a queue but one place for each kind, so that it cannot grow: a newer offer replaces
//! an older one, and any number of kernel events is one reason to look.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::warn;
use voipfleet_protocol::session::{Attempt, Held};
use voipfleet_ruleset::ruleset::Family;

use crate::host::errors::chain;
use crate::kernel::{Author, KernelEvent, Reach, Watch};
use crate::ledger::Live;
use crate::probe::Failed;

/// What came of fetching an offer's content.
#[derive(Debug)]
pub enum Content {
    /// The encoded ruleset.
    Bytes(Vec<u8>),
    /// The node holds that content already, or refuses it.
    NotNeeded,
    /// It did not come, and why.
    Missing(String),
}

/// Content that the node should run.
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

/// What the controller noticed of live sets.
#[derive(Debug, Clone)]
pub struct Noticed {
    /// What they hold.
    pub live: Arc<Live>,
    /// When the notice arrived.
    pub received: Instant,
}

/// The addresses that the agent is about to dial.
#[derive(Debug)]
pub struct Controllers {
    /// All of them.
    pub addresses: Vec<SocketAddr>,
    /// Told when the failsafe chain keeps them open, or it was tried.
    pub done: oneshot::Sender<()>,
}

/// The controller's word, over a connection that came through the new rules.
#[derive(Debug, Clone, Copy)]
pub struct Confirmation {
    /// What it confirms.
    pub attempt: Attempt,
    /// When it arrived.
    pub received: Instant,
}

/// How the probes of a trial ended.
#[derive(Debug)]
pub struct Probed {
    /// The trial.
    pub attempt: Attempt,
    /// Those that failed, in the order of the document.
    pub failed: Vec<Failed>,
    /// When the last one ended.
    pub ended: Instant,
}

/// How far the new connection of a trial got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialled {
    /// It did not come about, and why.
    Not(String),
    /// The controller answered on it.
    Welcomed,
}

/// A reason to look at the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    v4: Touch,
    v6: Touch,
    /// When the first change since the last look was noticed.
    pub noticed: Instant,
}

/// What changes did to the filter table of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Touch {
    reach: Reach,
    author: Option<Box<Author>>,
}

impl Change {
    fn of(&self, family: Family) -> &Touch {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether the filter table of `family` may be another.
    pub fn touches(&self, family: Family) -> bool {
        self.of(family).reach > Reach::Nothing
    }

    /// Whether what is ours in the filter table of `family` may be another.
    pub fn reaches_ours(&self, family: Family) -> bool {
        self.of(family).reach == Reach::Ours
    }

    /// Who made the last change of `family`, where the kernel says so. Whoever changed what is
    /// ours goes before others who were busy beside it.
    pub fn author(&self, family: Family) -> Option<&Author> {
        self.of(family).author.as_deref()
    }
}

impl Change {
    /// Takes a later one up.
    pub(crate) fn merge(&mut self, later: &Change) {
        for family in Family::BOTH {
            let touch = later.of(family);
            let into = match family {
                Family::V4 => &mut self.v4,
                Family::V6 => &mut self.v6,
            };
            into.add(touch.reach, touch.author.as_deref());
        }
    }
}

impl Touch {
    fn add(&mut self, reach: Reach, author: Option<&Author>) {
        if reach > Reach::Nothing && reach >= self.reach {
            self.reach = reach;
            self.author = author.cloned().map(Box::new);
        }
    }
}

/// Everything that was asked since the last time.
#[derive(Debug, Default)]
pub struct Wake {
    /// End, and leave the confirmed rules in place.
    pub stop: bool,
    /// The newest confirmation.
    pub confirmation: Option<Confirmation>,
    /// Probes that ended. Not the newest only: those of an earlier trial, which end late, must
    /// not take the place of those that are awaited. Each ends within seconds of its start, so
    /// there are never many.
    pub probed: Vec<Probed>,
    /// The newest live sets; they come before the offer.
    pub live: Option<Noticed>,
    /// Why newer ones did not come.
    pub no_live: Option<String>,
    /// The newest offer.
    pub offer: Option<Offered>,
    /// The newest addresses.
    pub controllers: Option<Controllers>,
    /// Kernel events.
    pub change: Option<Change>,
}

impl Wake {
    fn is_empty(&self) -> bool {
        !self.stop
            && self.confirmation.is_none()
            && self.probed.is_empty()
            && self.live.is_none()
            && self.no_live.is_none()
            && self.offer.is_none()
            && self.controllers.is_none()
            && self.change.is_none()
    }
}

/// Where requests wait.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Wake>,
    filled: Condvar,
    /// Of the trial with that nonce. It wakes nobody: it is read when the trial is over.
    dialled: Mutex<Option<(u64, Dialled)>>,
    /// Why nothing announces changes of the kernel.
    deaf: Mutex<Option<String>>,
    /// What deltas may stand on.
    last_live: Mutex<Option<Arc<Live>>>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Wake> {
        // Nothing under the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over an offer; an older one that waits is forgotten.
    pub fn offer(&self, offered: Offered) {
        self.lock().offer = Some(offered);
        self.filled.notify_one();
    }

    /// Hands over live sets; older ones that wait are forgotten, for these are whole.
    pub fn live(&self, noticed: Noticed) {
        {
            let mut last = self
                .last_live
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Some(Arc::clone(&noticed.live));
        }
        let mut waiting = self.lock();
        waiting.live = Some(noticed);
        waiting.no_live = None;
        self.filled.notify_one();
    }

    /// Tells that live sets which were noticed did not come, and why.
    pub fn no_live(&self, why: String) {
        self.lock().no_live = Some(why);
        self.filled.notify_one();
    }

    /// The live sets that were handed over last.
    pub(crate) fn last_live(&self) -> Option<Arc<Live>> {
        let last = self
            .last_live
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

    /// Tells how the probes of a trial ended.
    pub fn probed(&self, attempt: Attempt, failed: Vec<Failed>) {
        self.lock().probed.push(Probed {
            attempt,
            failed,
            ended: Instant::now(),
        });
        self.filled.notify_one();
    }

    /// How far the link got with the new connection of the trial with `nonce`.
    pub fn dialled(&self, nonce: u64, dialled: Dialled) {
        let mut last = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((nonce, dialled));
    }

    /// What was last said of that trial's connection.
    pub(crate) fn last_dialled(&self, nonce: u64) -> Option<Dialled> {
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

    /// Tells of a kernel event. One that reached neither family's filter table is no reason
    /// to look.
    pub fn changed(&self, event: &KernelEvent, noticed: Instant) {
        let (author, v4, v6) = match event {
            KernelEvent::Changed(by) => (by.author.as_deref(), by.v4, by.v6),
            KernelEvent::Lost => (None, Reach::Ours, Reach::Ours),
        };
        if v4.max(v6) == Reach::Nothing {
            return;
        }
        let mut waiting = self.lock();
        let change = waiting.change.get_or_insert_with(|| Change {
            v4: Touch::default(),
            v6: Touch::default(),
            noticed,
        });
        change.v4.add(v4, author);
        change.v6.add(v6, author);
        self.filled.notify_one();
    }

    /// Takes the changes that `watch` announces, until it cannot announce any more.
    pub async fn follow(self: Arc<Self>, mut watch: Watch) {
        loop {
            match watch.next().await {
                Ok(event) => self.changed(&event, Instant::now()),
                Err(error) => return self.deaf(&error),
            }
        }
    }

    /// Nothing announces changes, or nothing does any more.
    pub fn deaf(&self, why: &dyn std::error::Error) {
        let why = chain(why);
        warn!(reason = why, "drift is found by polling only");
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        *deaf = Some(why);
    }

    /// Why drift is found by polling only; none where it is announced.
    pub(crate) fn why_deaf(&self) -> Option<String> {
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        deaf.clone()
    }

    /// Asks for the end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.filled.notify_one();
    }

    /// Whether the end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.lock().stop
    }

    /// Waits until something is asked, or until `deadline`, and takes everything.
    pub fn wait(&self, deadline: Instant) -> Wake {
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
    use voipfleet_ruleset::ruleset::Digest;

    use super::*;
    use crate::kernel::Transaction;

    #[test]
    fn newer_replaces_older_and_events_are_one() {
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
    fn who_was_busy_beside_a_change_of_ours_is_not_its_author() {
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
