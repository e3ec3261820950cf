//! Opening sled's database, which panics over some damages of its files.

use std::path::Path;
use std::time::Duration;

use crate::StoreError;

/// Pages that sled keeps in memory.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Tries to get sled's file lock: sled gives it back on threads of its own, a moment after the
/// database was dropped.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// The name of the thread that opens a store: what panics on it is reported by its opener.
pub const OPENING_THREAD: &str = "store-open";

/// Why sled's own thread ended.
#[derive(Debug, thiserror::Error)]
#[error("the engine stopped while it read its files: {0}")]
struct Panicked(String);

/// Opens the database with its only tree, or makes both.
pub(super) fn open(path: &Path) -> Result<(sled::Db, sled::Tree), StoreError> {
    let owned = path.to_owned();
    let opening = std::thread::Builder::new()
        .name(OPENING_THREAD.to_owned())
        .spawn(move || -> Result<_, StoreError> {
            let db = locked(&owned)?;
            let tree = db.open_tree("voipfleet")?;
            // Every key and value once: a damaged page shows now, not in the middle of a push.
            for item in &tree {
                item?;
            }
            Ok((db, tree))
        })
        .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    match opening.join() {
        Ok(opened) => opened,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_else(|| "no reason given".to_owned());
            let line = text.lines().next().unwrap_or_default().to_owned();
            Err(StoreError::Damaged(Box::new(Panicked(line))))
        }
    }
}

fn locked(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        // Every commit is flushed before its answer; a timer would only add writes.
        .flush_every_ms(None);
    let shown = || path.display().to_string();
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Ok(db) => return Ok(db),
            // sled has no error kind of its own for its lock.
            Err(error) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error @ sled::Error::Corruption { .. }) => return Err(error.into()),
            // What cannot be decoded, and files of another version.
            Err(error @ (sled::Error::ReportableBug(_) | sled::Error::Unsupported(_))) => {
                return Err(StoreError::Damaged(Box::new(error)));
            }
            Err(source) => {
                return Err(StoreError::Open {
                    path: shown(),
                    source: Box::new(source),
                });
            }
        }
    }
    Err(StoreError::InUse { path: shown() })
}
