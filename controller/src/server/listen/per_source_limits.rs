//! Limits per source address: one source must not shut out the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one source may take of a listener's connections and of its handshakes: one in four.
const SHARE: usize = 4;

/// What a listener has to give.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    connections: Arc<Semaphore>,
    handshakes: usize,
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, Taken>>>,
}

/// What a source has.
#[derive(Debug)]
struct Taken {
    connections: usize,
    handshakes: Arc<Semaphore>,
}

/// Why a connection is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("too many connections")]
    All,
    #[error("too many unauthenticated connections from this address")]
    Source,
}

/// A connection's place; free when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _all: OwnedSemaphorePermit,
    own: Option<Own>,
    handshakes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Own {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    /// So many connections and handshakes at once, from all sources together.
    pub(super) fn new(connections: usize, handshakes: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: (handshakes / SHARE).max(1),
            most: (connections / SHARE).max(1),
            taken: Arc::default(),
        }
    }

    /// A place for a connection from this address.
    pub(super) fn take(&self, address: IpAddr) -> Result<Slot, Full> {
        let all = Arc::clone(&self.connections).try_acquire_owned();
        let all = all.map_err(|_| Full::All)?;
        let source = network(address);
        let mut taken = self.taken();
        let own = taken.entry(source).or_insert_with(|| Taken {
            connections: 0,
            handshakes: Arc::new(Semaphore::new(self.handshakes)),
        });
        if own.connections >= self.most {
            return Err(Full::Source);
        }
        own.connections += 1;
        Ok(Slot {
            _all: all,
            handshakes: Arc::clone(&own.handshakes),
            own: Some(Own {
                sources: self.clone(),
                source,
            }),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, Taken>> {
        // A count is changed whole: a panic leaves nothing half-done.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The source's turns for handshakes.
    pub(super) fn handshakes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.handshakes)
    }

    /// The peer has proved its identity: its place no longer counts as its address's, behind which
    /// may be a whole site.
    pub(super) fn proven(&mut self) {
        self.own = None;
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut taken = self.sources.taken();
        if let Some(own) = taken.get_mut(&self.source) {
            own.connections = own.connections.saturating_sub(1);
            if own.connections == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_cannot_take_all_connections() {
        let sources = Sources::new(8, 8);
        let mut held = Vec::new();
        for address in ["192.0.2.1", "::ffff:192.0.2.1"] {
            held.push(sources.take(ip(address)).unwrap());
        }
        assert_eq!(sources.take(ip("192.0.2.1")).unwrap_err(), Full::Source);
        assert_eq!(held[0].handshakes().available_permits(), 2);
        for address in ["2001:db8::1", "2001:db8::ffff:2"] {
            held.push(sources.take(ip(address)).unwrap());
        }
        assert_eq!(sources.take(ip("2001:db8::3")).unwrap_err(), Full::Source);
        held.push(sources.take(ip("2001:db8:0:1::3")).unwrap());
        // One that is known makes room for the next behind the same address.
        held[0].proven();
        held.push(sources.take(ip("192.0.2.1")).unwrap());
        held.push(sources.take(ip("192.0.2.2")).unwrap());
        held.push(sources.take(ip("192.0.2.3")).unwrap());
        assert_eq!(sources.take(ip("192.0.2.4")).unwrap_err(), Full::All);
        held.clear();
        assert!(
            sources.taken().is_empty(),
            "nothing is kept of who has gone"
        );
        sources.take(ip("192.0.2.4")).unwrap();
    }
}
