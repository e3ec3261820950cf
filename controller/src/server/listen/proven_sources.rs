//! Addresses from which somebody proved its identity lately: their connections do not compete
//! with those of strangers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::networks::{self, Network};

/// How long an address is remembered.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);
/// Addresses that are remembered; the oldest goes first.
const MOST: usize = 16_384;

/// The addresses. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct ProvenSources(Arc<Mutex<HashMap<Network, Instant>>>);

impl ProvenSources {
    /// Remembers those of before.
    pub(super) fn new(before: impl IntoIterator<Item = IpAddr>) -> Self {
        let sources = Self::default();
        for address in before {
            sources.remember(address);
        }
        sources
    }

    /// A peer at this address has proved its identity.
    pub(super) fn remember(&self, address: IpAddr) {
        let source = networks::host(address);
        let now = Instant::now();
        let mut known = self.lock();
        if known.len() >= MOST && !known.contains_key(&source) {
            let oldest = known.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                known.remove(&oldest);
            }
        }
        known.insert(source, now);
    }

    /// Whether a peer at this address has proved its identity lately.
    pub(super) fn knows(&self, address: IpAddr) -> bool {
        let known = self.lock();
        let at = known.get(&networks::host(address));
        at.is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, Instant>> {
        // Every change is one insertion or removal: a panic leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_known_for_a_while() {
        let sources = ProvenSources::new([ip("192.0.2.1")]);
        sources.remember(ip("2001:db8::1"));
        assert!(sources.knows(ip("::ffff:192.0.2.1")));
        assert!(sources.knows(ip("2001:db8::ffff")));
        assert!(!sources.knows(ip("192.0.2.2")));
        tokio::time::advance(REMEMBERED).await;
        assert!(!sources.knows(ip("192.0.2.1")));
    }

    #[tokio::test(start_paused = true)]
    async fn their_number_is_bounded() {
        let sources = ProvenSources::default();
        sources.remember(ip("192.0.2.1"));
        tokio::time::advance(Duration::from_secs(1)).await;
        for number in 0..u32::try_from(MOST).unwrap() {
            sources.remember(std::net::Ipv4Addr::from_bits(number).into());
        }
        assert!(!sources.knows(ip("192.0.2.1")));
        assert!(sources.knows(ip("0.0.0.0")));
        assert_eq!(sources.lock().len(), MOST);
    }
}
