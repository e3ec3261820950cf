//! The documents of the installation: their present state, and every state that is still needed.

mod history;
mod prune;
#[cfg(test)]
mod tests;

use voipfleet_common::policy::{Document, Documents, Kind};

pub use history::{DocumentChange, document_history, documents_at, last_change};
pub use prune::prune;

use crate::records::{self, DocumentRecord, DocumentsRecord};
use crate::store::{Entry, Expect, Store, StoreError, Txn, Versioned, keys};

/// The most documents of an installation.
pub const MAX_DOCUMENTS: usize = 50_000;

/// The key of a document.
pub fn key(kind: Kind, name: &str) -> String {
    keys::document(lower(kind), name)
}

fn lower(kind: Kind) -> String {
    kind.as_str().to_ascii_lowercase()
}

/// Every document, as of one state.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The state.
    pub version: DocumentsRecord,
    /// What a transaction that stands on it expects of [`keys::DOCUMENTS`].
    pub expect: Expect,
    /// The documents, by ascending key, each with the revision that wrote it.
    pub entries: Vec<Entry>,
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
    /// Reads all documents. A change that happens meanwhile makes a transaction that expects
    /// `expect` a conflict.
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        // The version first: it is never newer than the documents.
        let (version, expect) = version(store).await?;
        Ok(Self {
            version,
            expect,
            entries: store.all(keys::ALL_DOCUMENTS, MAX_DOCUMENTS).await?,
        })
    }

    /// Understands them. Long lists take a while: off the async threads.
    pub fn documents(&self) -> Result<Documents, StoreError> {
        documents(&self.entries)
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
        for entry in &self.entries {
            let document: Document = records::from_json(&entry.key, &entry.held)?;
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
pub fn documents(entries: &[Entry]) -> Result<Documents, StoreError> {
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
    fn of(&self) -> (Kind, &str) {
        match self {
            Change::Put(document) => (document.kind(), document.name()),
            Change::Delete(kind, name) => (*kind, name),
        }
    }

    fn document(&self) -> Option<Document> {
        match self {
            Change::Put(document) => Some(document.clone()),
            Change::Delete(..) => None,
        }
    }
}
