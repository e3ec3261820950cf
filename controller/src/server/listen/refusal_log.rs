//! Log lines about refused connections: so many a second, and the rest as a number. Strangers
//! decide how many there are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);
const LINES: u32 = 10;

/// The lines of a listener. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct RefusalLog(Arc<Mutex<Window>>);

#[derive(Debug)]
struct Window {
    begun: Instant,
    lines: u32,
    /// Refusals without a line.
    more: u64,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Window {
            begun: Instant::now(),
            lines: 0,
            more: 0,
        })))
    }

    /// A connection was refused.
    pub(super) fn refused(&self, peer: SocketAddr, reason: &str) {
        let (line, more) = self.count();
        if more > 0 {
            tracing::warn!(connections = more, "more connections refused");
        }
        if line {
            tracing::warn!(%peer, reason, "connection refused");
        }
    }

    /// Whether this one gets a line, and how many of the last window did not.
    fn count(&self) -> (bool, u64) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = 0;
        if window.begun.elapsed() >= WINDOW {
            more = std::mem::take(&mut window.more);
            window.begun = Instant::now();
            window.lines = 0;
        }
        let line = window.lines < LINES;
        if line {
            window.lines += 1;
        } else {
            window.more += 1;
        }
        (line, more)
    }
}

/// Connections were given up for newer ones.
pub(super) fn given_up(connections: u64) {
    if connections > 0 {
        tracing::warn!(
            connections,
            "connections that proved nothing made room for newer ones"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_counted() {
        let log = RefusalLog::new();
        let lines = (0..1000).filter(|_| log.count().0).count();
        assert_eq!(lines, 10);
        tokio::time::advance(WINDOW).await;
        assert_eq!(log.count(), (true, 990));
        assert_eq!(log.count(), (true, 0));
    }
}
