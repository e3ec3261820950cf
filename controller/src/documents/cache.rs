//! One parsed copy of the present documents, for all that read them.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Stored, version};
use crate::store::{Store, StoreError};

/// The documents as they were read last. A clone is the same cache.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Arc<dyn Store>,
    last: Arc<Mutex<Option<Stored>>>,
    turns: Arc<Mutex<()>>,
}

impl Cache {
    /// Nothing is read yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            last: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// A turn to change documents. The transaction is what keeps changes apart; the turn saves
    /// those of one controller from checking a long request again and again.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turns).lock_owned().await
    }

    /// The present state: one small read where nothing has changed. Of several that ask after a
    /// change one reads, and the others wait for it.
    pub async fn read(&self) -> Result<Stored, StoreError> {
        let mut last = self.last.lock().await;
        let (version, expect) = version(self.store.as_ref()).await?;
        if let Some(stored) = last.as_mut().filter(|stored| stored.version == version) {
            // Pruning writes the same state once more.
            stored.expect = expect;
            return Ok(stored.clone());
        }
        // One copy at a time: the old one goes before the new one is made.
        *last = None;
        let stored = Stored::read(self.store.as_ref()).await?;
        *last = Some(stored.clone());
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::tests::{change, put};
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn a_state_is_read_once() {
        let store = Memory::default();
        change(&store, "anna", vec![put("acme", 1)]).await;
        let cache = Cache::new(Arc::new(store.clone()));
        let first = cache.read().await.unwrap();
        let again = cache.clone().read().await.unwrap();
        assert!(Arc::ptr_eq(&first.documents, &again.documents));
        change(&store, "anna", vec![put("acme", 2)]).await;
        let next = cache.read().await.unwrap();
        assert_eq!(next.version.version, 2);
        assert_ne!(next.documents, first.documents);
    }
}
