//! The documents of the installation: their present state, and every state that is still needed.

mod cache;
mod history;
mod prune;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use voipfleet_policy::{Document, Documents, Kind};

pub use cache::Cache;
pub use history::{DocumentChange, document_history, documents_at, last_change};
pub use prune::prune;

use crate::records::{self, DocumentRecord, DocumentsRecord};
use crate::store::{Entry, Expect, Revision, Store, StoreError, Txn, Versioned, keys};

/// The most documents of an installation.
pub const MAX_DOCUMENTS: usize = 50_000;
/// Tries to read all documents of one state while others change them.
const TRIES: usize = 20;

/// The key of a document.
pub fn key(kind: Kind, name: &str) -> String {
    keys::document(lower(kind), name)
}

fn lower(kind: Kind) -> String {
    kind.as_str().to_ascii_lowercase()
}

/// Every document, as of one state. A copy shares them.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The state.
    pub version: DocumentsRecord,
    /// What a transaction that stands on it expects of [`keys::DOCUMENTS`].
    pub expect: Expect,
    /// The documents.
    pub documents: Arc<Documents>,
    /// By key, the transaction that wrote a document.
    revisions: Arc<BTreeMap<String, Revision>>,
}

/// Reads the number of the present state, and what to expect of it.
pub async fn version(store: &dyn Store) -> Result<(DocumentsRecord, Expect), StoreError> {
    let held = store.get(keys::DOCUMENTS).await?;
    let expect = Expect::from(&held);
    Ok((held.as_ref().map(understand).unwrap_or_default(), expect))
}

/// Before states were numbered, the value was the name of whoever changed a document last.
fn understand(held: &Versioned) -> DocumentsRecord {
    serde_json::from_slice(&held.value).unwrap_or_default()
}

impl Stored {
    /// Reads all documents of one state; they are understood off the async threads, for long
    /// lists take a while. [`Cache::read`] does it once for each state.
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        for _ in 0..TRIES {
            let (version, expect) = version(store).await?;
            let entries = store.all(keys::ALL_DOCUMENTS, MAX_DOCUMENTS).await?;
            let (_, after) = self::version(store).await?;
            if after != expect {
                // Some of them may be of a later state.
                continue;
            }
            let revisions = entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.held.revision))
                .collect();
            let reading = tokio::task::spawn_blocking(move || documents(&entries));
            let documents = reading.await.map_err(|_| StoreError::Corrupt {
                key: keys::ALL_DOCUMENTS.to_owned(),
                why: "its reader broke; the controller's log says why",
            })??;
            return Ok(Self {
                version,
                expect,
                documents: Arc::new(documents),
                revisions: Arc::new(revisions),
            });
        }
        Err(StoreError::Contended {
            what: "the set of documents".to_owned(),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// The transaction that wrote a document; 0: there is none.
    pub fn revision(&self, kind: Kind, name: &str) -> Revision {
        let revision = self.revisions.get(&key(kind, name));
        revision.copied().unwrap_or_default()
    }

    /// The transaction that takes these documents to the next state.
    pub fn change(
        &self,
        by: &str,
        at_ms: u64,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Txn, StoreError> {
        let next = DocumentsRecord {
            version: self.version.version.saturating_add(1),
            by: by.to_owned(),
            at_ms,
        };
        let mut txn = Txn::new()
            .expect(keys::DOCUMENTS, self.expect)
            .put(keys::DOCUMENTS, records::to_json(keys::DOCUMENTS, &next)?);
        if self.version.version == 0 {
            txn = self.with_baseline(txn)?;
        }
        for change in changes {
            let (kind, name) = change.of();
            let versioned = keys::document_version(lower(kind), name, next.version);
            let current = key(kind, name);
            txn = match &change {
                Change::Put(document) => {
                    let value = records::to_json(&current, document)?;
                    txn.put(current, value)
                }
                Change::Delete(..) => txn.delete(current),
            };
            let record = DocumentRecord {
                by: by.to_owned(),
                at_ms,
                document: change.document(),
            };
            let value = records::to_json(&versioned, &record)?;
            txn = txn.put(versioned, value);
        }
        Ok(txn)
    }

    /// What was stored before states were numbered is state 0.
    fn with_baseline(&self, mut txn: Txn) -> Result<Txn, StoreError> {
        for document in self.documents.iter() {
            let versioned = keys::document_version(lower(document.kind()), document.name(), 0);
            let record = DocumentRecord {
                by: String::new(),
                at_ms: 0,
                document: Some(document),
            };
            let value = records::to_json(&versioned, &record)?;
            txn = txn.put(versioned, value);
        }
        Ok(txn)
    }
}

/// Understands documents as they are stored.
fn documents(entries: &[Entry]) -> Result<Documents, StoreError> {
    entries
        .iter()
        .map(|entry| records::from_json::<Document>(&entry.key, &entry.held))
        .collect()
}

/// What becomes of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is made, or becomes this.
    Put(Document),
    /// It goes.
    Delete(Kind, String),
}

impl Change {
    /// Its kind and name.
    pub fn of(&self) -> (Kind, &str) {
        match self {
            Change::Put(document) => (document.kind(), document.name()),
            Change::Delete(kind, name) => (*kind, name),
        }
    }

    /// The name of the site that goes.
    pub fn goes_site(&self) -> Option<String> {
        match self {
            Change::Delete(Kind::Site, name) => Some(name.clone()),
            _ => None,
        }
    }

    fn document(&self) -> Option<Document> {
        match self {
            Change::Put(document) => Some(document.clone()),
            Change::Delete(..) => None,
        }
    }
}
