//! Whom a site serves, by what was pushed and confirmed.
//!
//! What a fetched list must not deny follows from this. Documents that were only stored, and what
//! nodes report about themselves, change nothing of it: neither was agreed to in a push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use voipfleet_policy::Documents;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;

use crate::documents::{Stored, documents_at};
use crate::records::{self, DocumentsVersion, GenerationRecord, OutcomeRecord, RolloutState};
use crate::store::{Store, StoreError, keys};

/// The most generations of a site that are read: more than pruning leaves.
const MOST: usize = 10_000;

/// The stored documents, with the number of their state; and the earlier states that are in use.
#[derive(Debug, Default)]
pub(crate) struct Present {
    version: DocumentsVersion,
    pub(crate) documents: Arc<Documents>,
    /// Sites that were pushed from the same state share it.
    earlier: Mutex<HashMap<DocumentsVersion, Weak<Documents>>>,
}

impl Present {
    /// Takes a newer state.
    pub(crate) fn replace(&mut self, stored: Stored) {
        let before = Arc::downgrade(&self.documents);
        self.earlier().insert(self.version, before);
        self.version = stored.version.version;
        self.documents = stored.documents;
    }

    /// The documents of the newest generation of a site that some node took and that was not taken
    /// back; none: the site has none, or what it was made of is not kept. Most generations share
    /// the stored ones.
    pub(crate) async fn confirmed(
        &self,
        store: &dyn Store,
        site: &SiteName,
    ) -> Result<Option<Arc<Documents>>, StoreError> {
        let entries = store.all(&keys::generations(site), MOST).await?;
        for entry in entries.iter().rev() {
            let Some(number) = keys::number(&entry.key) else {
                continue;
            };
            let key = keys::outcome(site, number);
            let outcome = records::read::<OutcomeRecord>(store, &key).await?;
            if !outcome.is_some_and(|read| is_confirmed(&read.record, number)) {
                continue;
            }
            let record: GenerationRecord = records::load(store, entry).await?;
            let Some(version) = record.documents else {
                continue;
            };
            let documents = self.at(store, version).await?;
            // A site that was deleted and made again has generations without its document.
            let documents = documents.filter(|documents| documents.sites.contains_key(site));
            if documents.is_some() {
                return Ok(documents);
            }
        }
        Ok(None)
    }

    /// The documents of a state; none: it is not kept.
    async fn at(
        &self,
        store: &dyn Store,
        version: DocumentsVersion,
    ) -> Result<Option<Arc<Documents>>, StoreError> {
        if version == self.version {
            return Ok(Some(Arc::clone(&self.documents)));
        }
        let known = self.earlier().get(&version).and_then(Weak::upgrade);
        if known.is_some() {
            return Ok(known);
        }
        let read = documents_at(store, version).await?.map(Arc::new);
        if let Some(read) = &read {
            let mut earlier = self.earlier();
            earlier.retain(|_, documents| documents.strong_count() > 0);
            earlier.insert(version, Arc::downgrade(read));
        }
        Ok(read)
    }

    fn earlier(&self) -> MutexGuard<'_, HashMap<DocumentsVersion, Weak<Documents>>> {
        // Each change under the lock is whole: a panic leaves nothing half-done.
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Stored> for Present {
    fn from(stored: Stored) -> Self {
        let mut present = Self::default();
        present.replace(stored);
        present
    }
}

/// Whether nodes run `number` because of the rollout that ended so. Nodes that failed do not
/// change what the others serve.
fn is_confirmed(outcome: &OutcomeRecord, number: Generation) -> bool {
    match outcome.state {
        RolloutState::Done => outcome.applied > 0,
        RolloutState::RolledBack => outcome.brought == number,
        // Nodes that took it keep it.
        RolloutState::Halted | RolloutState::Aborted => {
            outcome.brought == number && outcome.applied > 0
        }
        RolloutState::Running | RolloutState::Paused | RolloutState::RollingBack => false,
    }
}
