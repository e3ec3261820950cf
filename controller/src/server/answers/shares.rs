//! What the callers may have of the controller at once: heavy calls, and bytes of answers that
//! they have not read yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::Identity;

use super::calls::MAKING;

/// Heavy calls of one caller whose answers are made or unread.
const CALLS: usize = 4;
/// Heavy calls of all callers.
const ALL_CALLS: usize = 16;
/// How long a call waits for its turn.
pub(super) const TURN: Duration = Duration::from_secs(25);
/// Unread bytes of one caller.
pub(super) const CALLER_BYTES: usize = 32 * 1024 * 1024;
/// The longest answer: with its frame it is within what a caller may leave unread.
pub const MAX_ANSWER_BYTES: usize = CALLER_BYTES - UNIT;
/// Unread bytes of all callers.
const ALL_BYTES: usize = 256 * 1024 * 1024;
/// Bytes are counted in units of so many.
const UNIT: usize = 1024;

/// The shares. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    callers: Mutex<HashMap<Identity, Weak<Share>>>,
}

/// One caller's share.
#[derive(Debug)]
struct Share {
    calls: Arc<Semaphore>,
    making: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// What a call holds until its answer was read.
#[derive(Debug)]
pub(super) struct Turn {
    shares: Shares,
    share: Arc<Share>,
    held: Vec<OwnedSemaphorePermit>,
    making: Option<OwnedSemaphorePermit>,
}

impl Shares {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            calls: Arc::new(Semaphore::new(ALL_CALLS)),
            bytes: Arc::new(Semaphore::new(ALL_BYTES / UNIT)),
            callers: Mutex::default(),
        }))
    }

    /// A turn for a heavy call, which waits for those before it.
    pub(super) async fn turn(&self, caller: &Identity, weight: u32) -> Result<Turn, Refusal> {
        let share = self.share(caller);
        let turn = async {
            // The caller's own first: one that waits for itself keeps up no other.
            let own = Arc::clone(&share.calls).acquire_owned().await.ok()?;
            let making = Arc::clone(&share.making);
            let making = making.acquire_many_owned(weight).await.ok()?;
            let all = Arc::clone(&self.0.calls).acquire_owned().await.ok()?;
            Some((vec![own, all], making))
        };
        let turn = tokio::time::timeout(TURN, turn).await.ok().flatten();
        let (held, making) = turn.ok_or_else(|| {
            let message = format!(
                "{caller} has {CALLS} calls under way whose answers are not read yet, or all \
                 callers together have {ALL_CALLS}"
            );
            Refusal::new(Reason::Busy, message)
                .hint("try again when they have ended")
                .retry_after(TURN)
        })?;
        Ok(Turn {
            shares: self.clone(),
            share,
            held,
            making: Some(making),
        })
    }

    fn share(&self, caller: &Identity) -> Arc<Share> {
        let callers = self.0.callers.lock();
        let mut callers = callers.unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = callers.get(caller).and_then(Weak::upgrade) {
            return share;
        }
        callers.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share {
            calls: Arc::new(Semaphore::new(CALLS)),
            making: Arc::new(Semaphore::new(MAKING as usize)),
            bytes: Arc::new(Semaphore::new(CALLER_BYTES / UNIT)),
        });
        callers.insert(caller.clone(), Arc::downgrade(&share));
        share
    }
}

impl Turn {
    /// The answer is made, and so long. From here on it only has to be read.
    // A refusal is made once in a while, and sent at once.
    #[allow(clippy::result_large_err)]
    pub(super) fn made(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.making = None;
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let budgets = [&self.share.bytes, &self.shares.0.bytes];
        for budget in budgets {
            let taken = Arc::clone(budget).try_acquire_many_owned(units);
            let taken = taken.map_err(|_| {
                let message = "too many long answers are not read yet";
                Refusal::new(Reason::Busy, message)
                    .hint("try again when they have been read")
                    .retry_after(TURN)
            })?;
            self.held.push(taken);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str) -> Identity {
        Identity::Operator(name.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_a_caller_and_of_all_are_bounded() {
        let shares = Shares::new();
        let ada = operator("ada");
        let mut held = Vec::new();
        for _ in 0..CALLS {
            let mut turn = shares.turn(&ada, 1).await.unwrap();
            turn.made(100).unwrap();
            held.push(turn);
        }
        let busy = shares.turn(&ada, 1).await.unwrap_err();
        assert_eq!(busy.reason, Some(Reason::Busy));
        for name in ["ben", "cid", "dan"] {
            for _ in 0..CALLS {
                let mut turn = shares.turn(&operator(name), 1).await.unwrap();
                turn.made(100).unwrap();
                held.push(turn);
            }
        }
        assert_eq!(held.len(), ALL_CALLS);
        shares.turn(&operator("eve"), 2).await.unwrap_err();
        held.clear();
        shares.turn(&operator("eve"), 2).await.unwrap();
        shares.turn(&ada, 1).await.unwrap();
        assert_eq!(
            shares.0.callers.lock().unwrap().len(),
            1,
            "no trace is kept of who has gone"
        );
    }

    #[tokio::test]
    async fn unread_bytes_of_a_caller_are_bounded() {
        let shares = Shares::new();
        let ada = operator("ada");
        let mut first = shares.turn(&ada, 1).await.unwrap();
        first.made(CALLER_BYTES - 1000).unwrap();
        let mut second = shares.turn(&ada, 1).await.unwrap();
        let busy = second.made(2000).unwrap_err();
        assert_eq!(busy.reason, Some(Reason::Busy));
        let mut other = shares.turn(&operator("ben"), 2).await.unwrap();
        other.made(CALLER_BYTES).unwrap();
        drop((first, second));
        let mut third = shares.turn(&ada, 1).await.unwrap();
        third.made(CALLER_BYTES).unwrap();
    }
}
