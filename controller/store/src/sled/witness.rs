//! The last revision that came to disk, in a file of its own.
//!
//! sled takes a damaged end of its log for one that was never written, and starts with what was
//! there before. The file shows that more had been acknowledged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Revision, StoreError};

const NAME: &str = "acknowledged";
/// How often the file is written at most.
const PAUSE: Duration = Duration::from_secs(1);

/// The file of a store.
#[derive(Debug)]
pub(super) struct Witness {
    path: PathBuf,
    written: Revision,
    at: Instant,
}

impl Witness {
    /// Refuses a store that is at an earlier revision than it once was.
    pub(super) fn open(store: &Path, found: Revision) -> Result<Self, StoreError> {
        let path = store.join(NAME);
        // Without the file, or with half of one, nothing is known of before.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let acknowledged = text.trim().parse().unwrap_or(0);
        if acknowledged > found {
            return Err(StoreError::WentBack {
                path: store.display().to_string(),
                file: path.display().to_string(),
                acknowledged,
                found,
            });
        }
        Ok(Self {
            path,
            written: acknowledged,
            at: Instant::now(),
        })
    }

    /// A revision is on disk.
    pub(super) fn note(&mut self, revision: Revision) {
        if self.at.elapsed() >= PAUSE {
            self.write(revision);
        }
    }

    /// The same, without waiting for the next one.
    pub(super) fn write(&mut self, revision: Revision) {
        if revision == self.written {
            return;
        }
        self.at = Instant::now();
        let temporary = self.path.with_extension("new");
        let written = fs::write(&temporary, format!("{revision}\n"))
            .and_then(|()| fs::rename(&temporary, &self.path));
        match written {
            Ok(()) => self.written = revision,
            // The store itself is whole; the next one is tried.
            Err(error) => tracing::debug!(%error, "the last revision was not noted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Embedded, Store as _, StoreError, Txn};

    #[tokio::test]
    async fn a_store_that_went_back_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        for _ in 0..3 {
            store.commit(Txn::new().put("a", "1")).await.unwrap();
        }
        store.close().await;
        let file = dir.path().join(super::NAME);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "3\n");
        Embedded::open(dir.path()).unwrap().close().await;

        std::fs::write(&file, "4\n").unwrap();
        let error = Embedded::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::WentBack { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("restore a backup"), "{message}");
        // As the message says: without the file it goes on with what there is.
        std::fs::remove_file(&file).unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.revision().await.unwrap(), 3);
        store.close().await;
    }
}
