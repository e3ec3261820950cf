//! Room on the disk: a write is refused while there is too little, before sled would break on it.

use std::path::{Path, PathBuf};

use crate::{StoreError, Txn};

/// What sled may write besides the values: two segments of its log.
const SLACK_BYTES: u64 = 1024 * 1024;
/// A value may be written again when its segment is cleaned.
const COPIES: u64 = 3;

/// The file system of a store.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    /// Bytes of the transactions since the last flush.
    pending: u64,
}

impl Room {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            pending: 0,
        }
    }

    /// Refuses a transaction that the disk may have no room for.
    pub(super) fn take(&mut self, txn: &Txn) -> Result<(), StoreError> {
        let bytes = u64::try_from(txn.bytes()).unwrap_or(u64::MAX);
        self.pending = self.pending.saturating_add(bytes);
        // A file system that does not say what is free is written until it refuses.
        let Ok(stat) = nix::sys::statvfs::statvfs(&self.path) else {
            return Ok(());
        };
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let needed = self.pending.saturating_mul(COPIES);
        if free >= needed.saturating_add(SLACK_BYTES) {
            return Ok(());
        }
        Err(StoreError::Full {
            path: self.path.display().to_string(),
            free,
        })
    }

    /// What was pending is on disk.
    pub(super) fn flushed(&mut self) {
        self.pending = 0;
    }
}
