//! Why the fleet turns a node away or ends its session.

use std::error::Error;
use std::net::SocketAddr;

use crate::records::NodeId;
use crate::store::StoreError;

/// Why a certificate does not speak for a node.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error("this node was deleted; enrol it again")]
    Deleted,
    #[error("this node's certificate has expired; enrol it again")]
    Expired,
    #[error("this node was enrolled again with another key; enrol this machine under another name")]
    OtherKey,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a session ended, other than by the node's hanging up.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    #[error("controller is stopping")]
    Stopping,
    #[error("no Hello within 10 s")]
    NoHello,
    #[error("the first message must be Hello")]
    NotHello,
    #[error("Hello may be sent only once")]
    SecondHello,
    #[error("the certificate is for node {0}, but Hello names another; enrol this machine again")]
    OtherNode(NodeId),
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error("this node connected again from {0}")]
    Replaced(SocketAddr),
    /// Where the other machine is.
    #[error(
        "another machine with this node's identity is connected from {0}; enrol this one under a \
         name of its own"
    )]
    Duplicate(String),
    #[error("the node hung up")]
    HungUp,
    #[error("the node does not read its messages")]
    NotReading,
    #[error("the connection broke")]
    Connection(#[source] Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a node gets no ruleset and no dynamic sets.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("controller is stopping")]
    Stopping,
    /// Of all nodes together.
    #[error("too many rulesets are being fetched; try again later")]
    Busy,
    /// Of this node.
    #[error("this node is already fetching; try again later")]
    OwnBusy,
    #[error("this ruleset was replaced by a newer one; wait for its offer")]
    Replaced,
    #[error("this ruleset is not for this node")]
    OtherNode,
    #[error("these dynamic sets are not current; wait for the next notice")]
    NotCurrent,
    #[error("the controller has lost this ruleset; push the site again")]
    Lost,
    #[error("the content was not read in time")]
    NotReading,
    #[error(transparent)]
    Store(#[from] StoreError),
}
