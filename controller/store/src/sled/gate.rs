//! The lock between the writer and the readers.

use std::sync::{Arc, RwLock};

use crate::StoreError;

/// Locked for writing while a transaction is applied, for reading by every read; `None` once the
/// store is closed.
pub(super) type Gate = Arc<RwLock<Option<sled::Tree>>>;

/// A key as text.
pub(super) fn text(key: &[u8]) -> Result<String, StoreError> {
    String::from_utf8(key.to_vec()).map_err(|_| StoreError::Corrupt {
        key: String::from_utf8_lossy(key).into_owned(),
        why: "its key is not UTF-8",
    })
}
