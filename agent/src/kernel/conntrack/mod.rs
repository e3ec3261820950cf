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
/// Flows that count once although the peer created them again during the walk; beyond it, such a
/// flow counts twice.
const MAX_KNOWN: usize = 16_384;

/// The flows that were cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// The number of flows.
    pub flows: u64,
    /// How many of each peer, for the first 1024 of them.
    pub sources: BTreeMap<IpAddr, u64>,
    /// Entries that could not be parsed, and go on.
    pub unread: u64,
    /// Entries that the kernel did not delete, and that go on.
    pub kept: u64,
    /// Why the last of them was not.
    pub refusal: Option<String>,
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
    #[error("cannot open a netlink socket to connection tracking")]
    Socket(#[source] std::io::Error),
    /// The kernel does not list its entries.
    #[error("the kernel does not list tracked connections (is nf_conntrack_netlink loaded?)")]
    List(#[source] std::io::Error),
    /// Without its addresses, the flows of this node are not known.
    #[error("the addresses of this machine cannot be read")]
    Addresses(#[source] std::io::Error),
}

/// Deletes the entries of those TCP and UDP flows of this node that `picks` picks, in the
/// network namespace of the calling thread.
///
/// Forwarded flows (of containers), loopback, and connections that belong to others (FTP's data)
/// are left alone. An entry that is gone meanwhile does not count, and is not an error.
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
                cut.refusal = Some(error.to_string());
            }
        }
    })?;
    cut.unread = unread;
    Ok(cut)
}
