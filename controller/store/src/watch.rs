//! Changes as a watcher sees them.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;

use crate::Revision;

/// A committed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The revision of the transaction.
    pub revision: Revision,
    /// The new value; `None`: the key was removed.
    pub value: Option<Arc<[u8]>>,
}

/// Why changes are missing. The watcher reads anew; the stream goes on with what is committed
/// after the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The changes that come next are no longer kept: the watcher was too slow, or asked for a
    /// revision of long ago.
    #[error("changes up to revision {oldest} are no longer kept")]
    Compacted {
        /// The oldest revision after which changes are known.
        oldest: Revision,
    },
    /// The engine could not be reached for a while.
    #[error("the store could not be watched for a while")]
    Unavailable,
}

/// Changes under a prefix, in the order of their revisions, each after it is on disk.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, WatchError>> + Send>>;
