//! Where the nodes connected from last, as far as the store knows.

use std::net::{IpAddr, SocketAddr};

use super::Fleet;
use crate::records::{self, StatusRecord};
use crate::store::{Pages, StoreError, keys};

/// Statuses in one read: each may have hundreds of kilobytes of facts.
const PAGE: usize = 32;

impl Fleet {
    /// The addresses that nodes connected from before this start.
    pub async fn last_peers(&self) -> Result<Vec<IpAddr>, StoreError> {
        let mut peers = Vec::new();
        let mut pages = Pages::new(self.inner.store.as_ref(), keys::ALL_STATUS, PAGE);
        while let Some(entries) = pages.next().await? {
            for entry in entries {
                let status: StatusRecord = records::from_protobuf(&entry.key, &entry.held)?;
                let peer = status.peer.parse().map(|peer: SocketAddr| peer.ip());
                peers.extend(peer.ok());
            }
        }
        Ok(peers)
    }
}
