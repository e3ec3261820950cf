//! The documents of the installation: their present state, and every state that is still needed.
//!
//! A state is one value, all documents of it; it is cut into parts, of which most are those of
//! the state before. So a change of any number of documents is one small commit: parts that are
//! new, the list of parts, and the number of the state.

mod cache;
mod history;
mod prune;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serializer as _;
use voipfleet_policy::{Document, Documents, Kind, Site};
use voipfleet_ruleset::identifiers::SiteName;

pub use cache::Cache;
pub use history::documents_at;
pub use prune::prune;

use crate::records::{self, DocumentsRecord, DocumentsVersion, LastChange, StateEntry};
use crate::store::parts::{self, Parts};
use crate::store::{Expect, Revision, Store, StoreError, Transaction, Versioned, keys};

/// States whose deleted documents are remembered, and of which every one is kept.
const RECENT: u64 = 200;

/// A document by its kind, in lower case, and name.
type Name = (String, String);

fn name_of(kind: Kind, name: &str) -> Name {
    (kind.as_str().to_ascii_lowercase(), name.to_owned())
}

/// Every document, as of one state. A copy shares them.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The state.
    pub version: DocumentsRecord,
    /// What a transaction that is based on it expects of [`keys::DOCUMENTS`].
    pub expect: Expect,
    /// The documents.
    pub documents: Arc<Documents>,
    /// By name, also of documents that were deleted lately.
    changes: Arc<BTreeMap<Name, LastChange>>,
    parts: Option<Parts>,
}

/// Reads the number of the present state, and what to expect of it.
pub async fn version(store: &dyn Store) -> Result<(DocumentsRecord, Expect), StoreError> {
    let read = records::read(store, keys::DOCUMENTS).await?;
    let expect = records::expected(read.as_ref());
    Ok((read.map(|read| read.record).unwrap_or_default(), expect))
}

/// The documents of a state and their last changes; `None`: the state is no longer kept.
async fn read_state(
    store: &dyn Store,
    version: u64,
) -> Result<Option<(State, Option<Parts>)>, StoreError> {
    if version == 0 {
        return Ok(Some((State::default(), None)));
    }
    let key = keys::documents_state(version);
    let Some((parts, held)) = parts::get(store, &key).await? else {
        return Ok(None);
    };
    let state = off_the_async_threads(&key, {
        let key = key.clone();
        move || State::decode(&key, &held)
    });
    Ok(Some((state.await?, parts)))
}

async fn off_the_async_threads<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Value {
            key: key.to_owned(),
            source: error.into(),
        })?
}

/// A state as it is in memory.
#[derive(Debug, Default)]
struct State {
    documents: Documents,
    changes: BTreeMap<Name, LastChange>,
}

impl State {
    fn decode(key: &str, held: &Versioned) -> Result<Self, StoreError> {
        let entries: Vec<StateEntry> = records::from_json(key, held)?;
        let mut state = Self::default();
        for entry in entries {
            state
                .changes
                .insert((entry.kind, entry.name), entry.changed);
            state.documents.extend(entry.document);
        }
        Ok(state)
    }
}

/// Writes the state after `changes`.
fn encode(
    documents: &Documents,
    before: &BTreeMap<Name, LastChange>,
    by: &LastChange,
    changes: Vec<Change>,
) -> serde_json::Result<Vec<u8>> {
    let changes: BTreeMap<Name, Option<Document>> = changes
        .into_iter()
        .map(|change| match change {
            Change::Put(document) => {
                let name = name_of(document.kind(), document.name());
                (name, Some(document))
            }
            Change::Delete(kind, name) => (name_of(kind, &name), None),
        })
        .collect();
    let entry = |(kind, name): Name, last: LastChange, document| StateEntry {
        kind,
        name,
        changed: last,
        document,
    };
    let kept = documents.iter().filter_map(|document| {
        let name = name_of(document.kind(), document.name());
        let last = before.get(&name).filter(|_| !changes.contains_key(&name))?;
        Some(entry(name, last.clone(), Some(document)))
    });
    let oldest = by.version.saturating_sub(RECENT);
    let deleted = before.iter().filter(|(name, last)| {
        last.deleted && last.version > oldest && !changes.contains_key(*name)
    });
    let deleted = deleted.map(|(name, last)| entry(name.clone(), last.clone(), None));
    let written = changes.iter().map(|(name, document)| {
        let last = LastChange {
            deleted: document.is_none(),
            ..by.clone()
        };
        entry(name.clone(), last, document.clone())
    });
    let mut value = Vec::new();
    // An entry at a time: a copy of all documents would be large.
    serde_json::Serializer::new(&mut value).collect_seq(kept.chain(written).chain(deleted))?;
    Ok(value)
}

impl Stored {
    /// Reads all documents. [`Cache::read`] does it once for each state.
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let (version, expect) = version(store).await?;
        let Some((state, parts)) = read_state(store, version.version).await? else {
            let key = keys::documents_state(version.version);
            let why = "it is missing, and is the present state";
            return Err(StoreError::Corrupt { key, why });
        };
        Ok(Self {
            version,
            expect,
            documents: Arc::new(state.documents),
            changes: Arc::new(state.changes),
            parts,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.changes.values().filter(|one| !one.deleted).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision of a document's last change; 0: there is no such document.
    pub fn revision(&self, kind: Kind, name: &str) -> Revision {
        let last = self.last_change(kind, name).filter(|last| !last.deleted);
        last.map_or(0, |last| last.revision)
    }

    /// The last change of a document; `None`: it never was, or was deleted long ago.
    pub fn last_change(&self, kind: Kind, name: &str) -> Option<&LastChange> {
        self.changes.get(&name_of(kind, name))
    }

    /// The documents of a site that were changed after the state `since`: `Tenant/acme`.
    pub fn changed_since(&self, site: &SiteName, since: DocumentsVersion) -> Vec<String> {
        let needs = self.documents.sites.get(site).map(Site::needs);
        let needed = needs.unwrap_or_default().into_iter();
        needed
            .filter(|(kind, name)| {
                let last = self.last_change(*kind, name);
                last.is_some_and(|last| last.version > since)
            })
            .map(|(kind, name)| format!("{kind}/{name}"))
            .collect()
    }

    /// Takes these documents to the next state, in a transaction. Answers with the revision of
    /// the documents that it changes.
    pub async fn change(
        &self,
        tx: &mut Transaction<'_>,
        by: &str,
        at_ms: u64,
        changes: Vec<Change>,
    ) -> Result<Revision, StoreError> {
        let by = LastChange {
            // Greater than those of all changes before, which were committed by now.
            revision: tx.store().revision().await?.saturating_add(1),
            version: self.version.version.saturating_add(1),
            by: by.to_owned(),
            at_ms,
            deleted: false,
        };
        let next = DocumentsRecord {
            version: by.version,
            by: by.by.clone(),
            at_ms,
        };
        let key = keys::documents_state(next.version);
        let revision = by.revision;
        let value = off_the_async_threads(&key, {
            let (documents, before) = (Arc::clone(&self.documents), Arc::clone(&self.changes));
            let key = key.clone();
            move || {
                let encoded = encode(&documents, &before, &by, changes);
                encoded.map_err(|error| StoreError::Value {
                    key,
                    source: error.into(),
                })
            }
        });
        let value = value.await?;
        tx.expect(keys::DOCUMENTS, self.expect);
        tx.put_json(keys::DOCUMENTS, &next)?;
        // The present state stays as long as the expectation holds.
        if let Some(parts) = &self.parts {
            tx.keep_parts(parts);
        }
        tx.put_large(keys::DOCUMENTS, &key, value);
        Ok(revision)
    }
}

/// A change of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is made, or becomes this.
    Put(Document),
    /// It is deleted.
    Delete(Kind, String),
}

impl Change {
    /// The name of the site that is deleted.
    pub fn deleted_site(&self) -> Option<String> {
        match self {
            Change::Delete(Kind::Site, name) => Some(name.clone()),
            _ => None,
        }
    }
}
