//! Log lines about refused connections. Strangers decide how many there are.

use std::net::SocketAddr;

use crate::log_limit::{LogLimit, short};

/// The lines of a listener, of which only the first of each second are written. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct RefusalLog(LogLimit);

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self(LogLimit::new("listener"))
    }

    /// A connection was refused.
    pub(super) fn refused(&self, peer: SocketAddr, reason: &str) {
        if self.0.admits("strangers") {
            tracing::warn!(%peer, reason = short(reason), "connection refused");
        }
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
