//! Connection tracking: the flows of this node, and the end of some of them.

mod addresses;
mod entry;
mod netlink;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Protocol;

use addresses::Addresses;
use entry::Entry;
use netlink::{Deleted, Netlink};

/// Sources that are counted each by itself.
const MAX_SOURCES: usize = 1024;
/// Flows that are counted once although the other side made them anew during the walk; beyond
/// it such a one counts twice.
const MAX_KNOWN: usize = 16_384;

/// What was cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// The number of flows.
    pub flows: u64,
    /// How many of each peer, for the first 1024 of them.
    pub sources: BTreeMap<IpAddr, u64>,
    /// Entries that the kernel told of in words that are not understood. They go on.
    pub unread: u64,
    /// Entries that the kernel did not delete. They go on.
    pub kept: u64,
    /// Why not, of the last of them.
    pub refusal: String,
}

impl Cut {
    /// One flow more of `peer`.
    fn count(&mut self, peer: IpAddr) {
        self.flows += 1;
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&peer) {
            *self.sources.entry(peer).or_default() += 1;
        }
    }
}

/// Flows could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// No netlink socket.
    #[error("no netlink socket to connection tracking can be had")]
    Socket(#[source] std::io::Error),
    /// The kernel does not tell what it tracks.
    #[error("the kernel does not list the connections that it tracks (nf_conntrack_netlink)")]
    List(#[source] std::io::Error),
    /// Which flows are this node's cannot be told.
    #[error("the addresses of this machine cannot be read")]
    Addresses(#[source] std::io::Error),
}

/// Deletes the entries of those TCP and UDP flows of this node that `picks` picks, in the
/// network namespace of the calling thread.
///
/// What is only forwarded (a container's), loopback, and what belongs to another connection
/// (an expected one, as of FTP's data) is not asked about. An entry that is gone meanwhile is
/// not counted, and no error.
pub(super) fn cut(picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
    let addresses = Addresses::read().map_err(ConntrackError::Addresses)?;
    let mut list = Netlink::open().map_err(ConntrackError::Socket)?;
    // Each entry is deleted as soon as it is seen, over a socket of its own, so that nothing is
    // kept: a flood may have made millions.
    let mut end = Netlink::open().map_err(ConntrackError::Socket)?;
    let mut cut = Cut::default();
    let mut known: HashSet<(Protocol, SocketAddr, u16)> = HashSet::new();
    let unread = list.list(|attributes| {
        let Some(entry) = Entry::read(attributes) else {
            return;
        };
        let Some(flow) = addresses.flow(&entry) else {
            return;
        };
        if !picks(&flow) {
            return;
        }
        let flow = (flow.protocol, flow.peer, flow.local_port);
        match end.delete(entry) {
            Ok(Deleted::Now) => {
                if known.len() >= MAX_KNOWN || known.insert(flow) {
                    cut.count(flow.1.ip());
                }
            }
            Ok(Deleted::Before) => {}
            // The others are cut all the same.
            Err(error) => {
                cut.kept += 1;
                cut.refusal = error.to_string();
            }
        }
    })?;
    cut.unread = unread;
    Ok(cut)
}
