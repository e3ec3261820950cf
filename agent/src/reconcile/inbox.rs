//! What others ask of the task that owns the kernel.
//!
//! Not a queue but one place for each kind, so that it cannot grow: a newer offer replaces
//! an older one, and any number of kernel events is one reason to look.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use voipfleet_common::session::Held;

use crate::kernel::{Author, KernelEvent};

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

/// The addresses that the agent is about to dial.
#[derive(Debug)]
pub struct Controllers {
    /// All of them.
    pub addresses: Vec<SocketAddr>,
    /// Told when the failsafe chain keeps them open, or it was tried.
    pub done: oneshot::Sender<()>,
}

/// A reason to look at the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who made the last change, where the kernel says so.
    pub author: Option<Author>,
    /// When the first change since the last look was noticed.
    pub noticed: Instant,
}

/// Everything that was asked since the last time.
#[derive(Debug, Default)]
pub struct Wake {
    /// End, and leave the rules in place.
    pub stop: bool,
    /// The newest offer.
    pub offer: Option<Offered>,
    /// The newest addresses.
    pub controllers: Option<Controllers>,
    /// Kernel events.
    pub change: Option<Change>,
}

impl Wake {
    fn is_empty(&self) -> bool {
        !self.stop && self.offer.is_none() && self.controllers.is_none() && self.change.is_none()
    }
}

/// Where requests wait.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Wake>,
    filled: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Wake> {
        // Every change under the lock is a single assignment: never half-made.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over an offer; an older one that waits is forgotten.
    pub fn offer(&self, offered: Offered) {
        self.lock().offer = Some(offered);
        self.filled.notify_one();
    }

    /// Names the addresses that are dialled from now on.
    pub fn controllers(&self, addresses: Vec<SocketAddr>) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.lock().controllers = Some(Controllers { addresses, done });
        self.filled.notify_one();
        wait
    }

    /// Tells of a kernel event.
    pub fn changed(&self, event: KernelEvent, noticed: Instant) {
        let author = match event {
            KernelEvent::Changed(author) => author,
            KernelEvent::Lost => None,
        };
        let mut waiting = self.lock();
        let noticed = waiting
            .change
            .as_ref()
            .map_or(noticed, |change| change.noticed);
        waiting.change = Some(Change { author, noticed });
        self.filled.notify_one();
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
    use voipfleet_common::ruleset::Digest;

    use super::*;

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
            let author = Author {
                pid: u32::try_from(generation).unwrap(),
                comm: "iptables".to_owned(),
            };
            inbox.changed(KernelEvent::Changed(Some(author)), Instant::now());
        }
        let wake = inbox.wait(start + Duration::from_mins(10));
        assert_eq!(wake.offer.unwrap().nonce, 3);
        let change = wake.change.unwrap();
        assert_eq!(change.author.unwrap().pid, 3);
        assert!(inbox.wait(start).is_empty());
    }
}
