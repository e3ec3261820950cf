//! Connections by proven identity: one that was stolen must not take the places of all others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::Identity;

/// Connections of a node: its session, a trial, fetches.
const OF_A_NODE: usize = 8;
/// Connections of an operator: each `voipctl` has one.
const OF_AN_OPERATOR: usize = 32;

/// Requests that are open on a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<AtomicUsize>);

impl Activity {
    pub(super) fn set_open(&self, requests: usize) {
        self.0.store(requests, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The seats. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Identities(Arc<Mutex<Seats>>);

#[derive(Debug, Default)]
struct Seats {
    last: u64,
    /// The oldest first.
    taken: HashMap<Identity, Vec<Taken>>,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    activity: Activity,
    cut: CancellationToken,
}

/// A connection's seat; free when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Identities,
    identity: Identity,
    number: u64,
    cut: CancellationToken,
}

/// Every connection of the identity is at work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{identity} has {most} connections open already, and each has a call under way")]
pub struct Excess {
    identity: Identity,
    most: usize,
}

/// How many connections an identity may have.
fn most(identity: &Identity) -> usize {
    match identity {
        Identity::Operator(_) => OF_AN_OPERATOR,
        _ => OF_A_NODE,
    }
}

impl Identities {
    /// A seat for one more connection: where all are taken, the oldest without an open request
    /// is cut.
    pub(super) fn enter(&self, identity: &Identity, activity: &Activity) -> Result<Seat, Excess> {
        let most = most(identity);
        let mut seats = self.lock();
        seats.last += 1;
        let number = seats.last;
        let taken = seats.taken.entry(identity.clone()).or_default();
        if taken.len() >= most {
            let idle = taken.iter().position(|one| one.activity.is_idle());
            let idle = idle.ok_or_else(|| Excess {
                identity: identity.clone(),
                most,
            })?;
            taken.remove(idle).cut.cancel();
        }
        let cut = CancellationToken::new();
        taken.push(Taken {
            number,
            activity: activity.clone(),
            cut: cut.clone(),
        });
        Ok(Seat {
            seats: self.clone(),
            identity: identity.clone(),
            number,
            cut,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        // Every change leaves lists that are whole: a panic breaks none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Cancelled when the seat is given to a newer connection.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        if let Some(taken) = seats.taken.get_mut(&self.identity) {
            taken.retain(|one| one.number != self.number);
            if taken.is_empty() {
                seats.taken.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Identity {
        Identity::Node {
            site: "site-a".parse().unwrap(),
            node: name.parse().unwrap(),
        }
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let identities = Identities::default();
        let busy = Activity::default();
        busy.set_open(1);
        let session = identities.enter(&node("a"), &busy).unwrap();
        let idle = Activity::default();
        let mut seats: Vec<Seat> = (1..OF_A_NODE)
            .map(|_| identities.enter(&node("a"), &idle).unwrap())
            .collect();
        // Another identity has seats of its own.
        let _other = identities.enter(&node("b"), &idle).unwrap();
        seats.push(identities.enter(&node("a"), &idle).unwrap());
        let cut = |seat: &Seat| seat.cut.is_cancelled();
        assert!(!cut(&session));
        assert!(cut(&seats[0]));
        assert!(!seats[1..].iter().any(cut));
        idle.set_open(1);
        let excess = identities.enter(&node("a"), &idle).unwrap_err();
        assert!(excess.to_string().contains("8 connections"), "{excess}");
        seats.pop();
        identities.enter(&node("a"), &idle).unwrap();
        drop((session, seats));
        assert!(!identities.lock().taken.contains_key(&node("a")));
    }
}
