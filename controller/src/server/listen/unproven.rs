//! Connections whose peer has proved nothing yet: a bounded number, in which the oldest makes
//! room for the newest.
//!
//! Waiting for a turn would let strangers decide how long everybody waits. An honest peer proves
//! itself within milliseconds; so whoever has had a place for longest is given up first. Half of
//! the places are for peers that have not even sent a `ClientHello`, and half for those that have:
//! neither kind of stranger keeps up the other kind of peer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::networks::{self, Network};

/// The places. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct Unproven {
    table: Arc<Mutex<Table>>,
    most: usize,
    /// Whether a network has only its share of the places.
    shared: bool,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    /// By age, the oldest first.
    held: BTreeMap<u64, Held>,
    counts: HashMap<Network, usize>,
    given_up: u64,
}

#[derive(Debug)]
struct Held {
    networks: Vec<(Network, usize)>,
    /// A whole `ClientHello` has come.
    spoke: bool,
    cut: CancellationToken,
}

/// A place; free when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Mutex<Table>>,
    number: u64,
    cut: CancellationToken,
}

impl Unproven {
    /// So many places, of which each network has its share.
    pub(super) fn shared(most: usize) -> Self {
        Self {
            table: Arc::default(),
            most: most.max(1),
            shared: true,
        }
    }

    /// So many places, all of which one network may take: behind it may be a whole site, all of
    /// whose nodes come back at once.
    pub(super) fn unshared(most: usize) -> Self {
        Self {
            shared: false,
            ..Self::shared(most)
        }
    }

    /// A place for a connection from this address; where there is none, another connection is
    /// given up: one of the same network if that has its share.
    pub(super) fn enter(&self, address: IpAddr) -> Place {
        let networks = if self.shared {
            networks::of(address)
        } else {
            Vec::new()
        };
        let mut table = lock(&self.table);
        for (network, part) in &networks {
            let share = (self.most / part).max(1);
            if table
                .counts
                .get(network)
                .is_some_and(|count| *count >= share)
            {
                table.give_up(Some(network), share);
            }
        }
        if table.held.len() >= self.most {
            table.give_up(None, self.most);
        }
        table.last += 1;
        let number = table.last;
        for (network, _) in &networks {
            *table.counts.entry(*network).or_default() += 1;
        }
        let cut = CancellationToken::new();
        table.held.insert(
            number,
            Held {
                networks,
                spoke: false,
                cut: cut.clone(),
            },
        );
        Place {
            table: Arc::clone(&self.table),
            number,
            cut,
        }
    }

    /// How many were given up since the last call.
    pub(super) fn take_given_up(&self) -> u64 {
        std::mem::take(&mut lock(&self.table).given_up)
    }
}

impl Table {
    /// Cuts the oldest of those that have more than their half of `most` places, among those of
    /// a network.
    fn give_up(&mut self, network: Option<&Network>, most: usize) {
        let among = |held: &Held| {
            network.is_none_or(|network| held.networks.iter().any(|(one, _)| one == network))
        };
        let held = self.held.iter().filter(|(_, held)| among(held));
        let silent = held.clone().filter(|(_, held)| !held.spoke).count();
        let spoke = silent * 2 < most;
        let mut candidates = held.filter(|(_, held)| held.spoke == spoke);
        if let Some(number) = candidates.next().map(|(number, _)| *number)
            && let Some(held) = self.remove(number)
        {
            self.given_up += 1;
            held.cut.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        for (network, _) in &held.networks {
            if let Some(count) = self.counts.get_mut(network) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(network);
                }
            }
        }
        Some(held)
    }
}

impl Place {
    /// Cancelled when the place is given to another connection.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// A whole `ClientHello` has come.
    pub(super) fn spoke(&self) {
        if let Some(held) = lock(&self.table).held.get_mut(&self.number) {
            held.spoke = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is there of one that was given up.
        let _gone = lock(&self.table).remove(self.number);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every change under the lock leaves counts that are whole: a panic breaks none.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn cut(places: &[Place]) -> Vec<usize> {
        let cut = places.iter().enumerate();
        cut.filter(|(_, place)| place.cut.is_cancelled())
            .map(|(number, _)| number)
            .collect()
    }

    #[test]
    fn a_source_that_has_its_share_displaces_its_own() {
        let places = Unproven::shared(16);
        let enter = |address| places.enter(ip(address));
        let held = [
            enter("198.51.100.1"),
            enter("192.0.2.1"),
            enter("::ffff:192.0.2.1"),
            enter("192.0.2.1"),
        ];
        assert_eq!(cut(&held), [1]);
        drop(held);
        let held = [
            enter("2001:db8::1"),
            enter("2001:db8::2"),
            enter("2001:db8:0:1::1"),
            enter("2001:db8:0:2::1"),
            enter("2001:db8:0:3::1"),
            // The fifth of its /56, whose share is four.
            enter("2001:db8:0:4::1"),
        ];
        assert_eq!(cut(&held), [0, 1]);
        drop(held);
        assert_eq!(lock(&places.table).counts.len(), 0);
        assert_eq!(places.take_given_up(), 3);
        assert_eq!(places.take_given_up(), 0);
    }

    /// However many networks a stranger has: the newest connection always has a place.
    #[test]
    fn the_oldest_makes_room_in_its_half() {
        let places = Unproven::shared(4);
        let mut held: Vec<Place> = (1..=4)
            .map(|number| places.enter(ip(&format!("192.{number}.2.1"))))
            .collect();
        held[0].spoke();
        held[1].spoke();
        held.push(places.enter(ip("203.0.113.1")));
        assert_eq!(cut(&held), [2]);
        held.push(places.enter(ip("203.0.114.1")));
        held.push(places.enter(ip("203.0.115.1")));
        assert_eq!(cut(&held), [2, 3, 4]);
        held[5].spoke();
        held[6].spoke();
        // Those that speak and go no further have no more than their half.
        held.push(places.enter(ip("203.0.116.1")));
        held.push(places.enter(ip("203.0.117.1")));
        assert_eq!(cut(&held), [0, 1, 2, 3, 4]);
        held.push(places.enter(ip("203.0.118.1")));
        assert_eq!(cut(&held), [0, 1, 2, 3, 4, 7]);
    }

    #[test]
    fn one_network_may_take_all_places_that_are_not_shared() {
        let places = Unproven::unshared(4);
        let enter = || places.enter(ip("192.0.2.1"));
        let mut held: Vec<Place> = (0..4).map(|_| enter()).collect();
        assert_eq!(cut(&held).len(), 0);
        held.push(enter());
        assert_eq!(cut(&held), [0]);
    }
}
