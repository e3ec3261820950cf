//! Errors of the store, whichever engine it runs on.

use crate::{Limits, Revision};

/// Any engine's own error.
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory open.
    #[error(
        "the store in {path} is in use by another process; stop the other controller, or give \
         this one a data directory of its own"
    )]
    InUse {
        /// The store's directory.
        path: String,
    },
    /// The directory cannot be opened.
    #[error("the store in {path} cannot be opened; check its disk (full, or failing?)")]
    Open {
        /// The store's directory.
        path: String,
        /// The engine's reason.
        #[source]
        source: EngineError,
    },
    /// Written by a later version.
    #[error("the store has format {found}; this controller reads format {known}: upgrade it")]
    Format {
        /// The store's format.
        found: u8,
        /// The newest format that this version reads.
        known: u8,
    },
    /// The engine cannot answer now. What was to be committed may have been.
    #[error("the store cannot be read or written now; check its disk (full, or failing?)")]
    Unavailable(#[source] EngineError),
    /// The engine reported an error after which it may never write again.
    #[error("the store's engine failed: it cannot be read or written any more")]
    Failed(#[source] EngineError),
    /// The disk has no room for a write. Nothing was written.
    #[error("the disk of the store in {path} is full ({} KiB free)", free / 1024)]
    Full {
        /// The store's directory.
        path: String,
        /// What is free, bytes.
        free: u64,
    },
    /// The engine found its own data damaged.
    #[error(
        "the store is damaged; restore a backup: voipfleet-controller restore FILE --data DIR \
         --keys DIR"
    )]
    Damaged(#[source] EngineError),
    /// The engine opened with less than was once acknowledged.
    #[error(
        "the store in {path} is damaged: revision {acknowledged} was acknowledged, and it is at \
         {found}; restore a backup: voipfleet-controller restore FILE --data DIR --keys DIR (to go \
         on without what is lost, remove {file})"
    )]
    WentBack {
        /// The store's directory.
        path: String,
        /// The file that says so.
        file: String,
        /// The last revision that is known to have been on disk.
        acknowledged: Revision,
        /// The revision now.
        found: Revision,
    },
    /// A value differs from what was written.
    #[error(
        "the value of {key:?} in the store is damaged ({why}); restore a backup: \
         voipfleet-controller restore FILE --data DIR --keys DIR"
    )]
    Corrupt {
        /// Its key.
        key: String,
        /// The difference.
        why: &'static str,
    },
    /// A value that is as it was written, and is not of the expected type.
    #[error("the value of {key:?} in the store cannot be decoded")]
    Value {
        /// Its key.
        key: String,
        /// The decoder's reason.
        #[source]
        source: EngineError,
    },
    /// A key that is empty, reserved or too long.
    #[error("a key of {size} bytes is not allowed (1 to {limit}, not beginning with NUL)")]
    Key {
        /// Its length, bytes.
        size: usize,
        /// The longest key, bytes.
        limit: usize,
    },
    /// A transaction over the engine's limits. Nothing of it was written.
    #[error(
        "a transaction of {operations} operations and {bytes} bytes is over the limits \
         ({} operations, {} bytes)", limits.operations, limits.bytes
    )]
    OverLimit {
        /// Compares, puts and deletes.
        operations: usize,
        /// Keys and values, bytes.
        bytes: usize,
        /// The engine's limits.
        limits: Limits,
    },
    /// More entries than the reader accepts.
    #[error("there are more than {most} entries under {prefix:?}")]
    TooMany {
        /// The prefix.
        prefix: String,
        /// The reader's limit.
        most: usize,
    },
    /// The past that was asked for is no longer kept.
    #[error("revision {revision} is no longer kept; the oldest that can be read is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        revision: Revision,
        /// The oldest one that can be read.
        oldest: Revision,
    },
    /// A revision that the store has not reached.
    #[error("revision {revision} is in the future; the store is at {newest}")]
    Future {
        /// The revision that was asked for.
        revision: Revision,
        /// The newest one.
        newest: Revision,
    },
    /// A snapshot is read too slowly for what is written meanwhile.
    #[error("too much was written while the store was read; try again when there is less to do")]
    Outrun,
    /// Other writers changed what was read at every attempt.
    #[error("{what} was modified concurrently; try again")]
    Contended {
        /// What the transaction was about.
        what: String,
    },
    /// The store was closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later, without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable(_)
                | StoreError::Full { .. }
                | StoreError::Compacted { .. }
                | StoreError::Outrun
                | StoreError::Contended { .. }
                | StoreError::Closed
        )
    }
}
