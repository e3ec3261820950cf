//! Earlier states of the documents.

use std::collections::BTreeSet;

use serde::Deserialize;
use voipfleet_policy::{Document, Documents, Kind};

use super::{MAX_DOCUMENTS, documents, lower, version};
use crate::records::{self, DocumentRecord, DocumentsVersion};
use crate::store::{Entry, Store, StoreError, keys};

/// Entries in one read: a version holds a whole document.
pub(super) const PAGE: usize = 64;
/// The most versions of one document that are read.
const MAX_VERSIONS: usize = 10_000;

/// A change of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentChange {
    /// The state of all documents that it made.
    pub version: DocumentsVersion,
    /// Who made it; empty: it was there before changes were counted.
    pub by: String,
    /// When, Unix time; 0: not known.
    pub at_ms: u64,
    /// What the document became; none: it was deleted.
    pub document: Option<Document>,
}

/// The documents as they were at `version`; none: that state is to come, or no longer kept.
///
/// Every state that a kept generation was compiled from is kept, and the last few hundred.
pub async fn documents_at(
    store: &dyn Store,
    wanted: DocumentsVersion,
) -> Result<Option<Documents>, StoreError> {
    let (present, _) = version(store).await?;
    if wanted > present.version || !is_whole(store, wanted).await? {
        return Ok(None);
    }
    if present.version == 0 {
        let entries = store.all(keys::ALL_DOCUMENTS, MAX_DOCUMENTS).await?;
        return Ok(Some(documents(&entries)?));
    }
    let mut all = Documents::default();
    // The newest so far of the document whose versions are being read.
    let mut newest: Option<Entry> = None;
    let mut after: Option<String> = None;
    loop {
        let prefix = keys::ALL_DOCUMENT_VERSIONS;
        let page = store.range(prefix, after.as_deref(), PAGE).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        for entry in page.entries {
            let Some((document, number)) = keys::versioned_document(&entry.key) else {
                continue;
            };
            if number > wanted {
                continue;
            }
            let same = newest.as_ref().is_some_and(|newest| {
                keys::versioned_document(&newest.key).is_some_and(|(of, _)| of == document)
            });
            if let Some(done) = newest.replace(entry).filter(|_| !same) {
                all.extend(understand(&done)?.document);
            }
        }
        if !page.more {
            break;
        }
    }
    if let Some(done) = newest {
        all.extend(understand(&done)?.document);
    }
    Ok(Some(all))
}

fn understand(entry: &Entry) -> Result<DocumentRecord, StoreError> {
    records::from_json(&entry.key, &entry.held)
}

/// Whether nothing of a state was pruned.
async fn is_whole(store: &dyn Store, wanted: DocumentsVersion) -> Result<bool, StoreError> {
    let whole = records::read::<DocumentsVersion>(store, keys::DOCUMENTS_WHOLE).await?;
    if whole.is_none_or(|whole| wanted >= whole.record) {
        return Ok(true);
    }
    Ok(needed(store).await?.contains(&wanted))
}

/// What matters here of a generation.
#[derive(Deserialize)]
struct CompiledFrom {
    /// 0: a generation of the time before states were numbered.
    #[serde(default)]
    documents: DocumentsVersion,
}

/// The states that generations were compiled from.
pub(super) async fn needed(store: &dyn Store) -> Result<BTreeSet<DocumentsVersion>, StoreError> {
    let mut needed = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = store
            .range(keys::ALL_GENERATIONS, after.as_deref(), PAGE)
            .await?;
        for entry in &page.entries {
            let record: CompiledFrom = records::from_json(&entry.key, &entry.held)?;
            needed.insert(record.documents);
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(needed);
        }
    }
}

/// The changes of a document that are kept, the oldest first.
pub async fn document_history(
    store: &dyn Store,
    kind: Kind,
    name: &str,
) -> Result<Vec<DocumentChange>, StoreError> {
    let prefix = keys::document_versions(lower(kind), name);
    let entries = store.all(&prefix, MAX_VERSIONS).await?;
    let changes = entries.iter().filter_map(|entry| {
        let (_, version) = keys::versioned_document(&entry.key)?;
        Some(understand(entry).map(|record| DocumentChange {
            version,
            by: record.by,
            at_ms: record.at_ms,
            document: record.document,
        }))
    });
    changes.collect()
}

/// The last change of a document, its deletion among them; none: nothing is known of it.
pub async fn last_change(
    store: &dyn Store,
    kind: Kind,
    name: &str,
) -> Result<Option<DocumentChange>, StoreError> {
    Ok(document_history(store, kind, name).await?.pop())
}
