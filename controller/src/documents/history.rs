//! Earlier states of the documents.

use std::collections::BTreeSet;

use serde::Deserialize;
use voipfleet_policy::Documents;

use super::{read_state, version};
use crate::records::{self, DocumentsVersion};
use crate::store::{Pages, Store, StoreError, keys};

/// Generations in one read: one of a large site is long.
const PAGE: usize = 16;

/// The documents as they were in state `wanted`; `None`: that state is to come, or no longer
/// kept.
///
/// Every state that a kept generation was compiled from is kept, and the last few hundred.
pub async fn documents_at(
    store: &dyn Store,
    wanted: DocumentsVersion,
) -> Result<Option<Documents>, StoreError> {
    let (present, _) = version(store).await?;
    if wanted > present.version {
        return Ok(None);
    }
    let state = read_state(store, wanted).await?;
    Ok(state.map(|(state, _)| state.documents))
}

/// What matters here of a generation.
#[derive(Deserialize)]
struct CompiledFrom {
    documents: Option<DocumentsVersion>,
}

/// The states that generations were compiled from.
pub(super) async fn needed(store: &dyn Store) -> Result<BTreeSet<DocumentsVersion>, StoreError> {
    let mut needed = BTreeSet::new();
    let mut pages = Pages::new(store, keys::ALL_GENERATIONS, PAGE);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            let record: CompiledFrom = records::load(store, &entry).await?;
            needed.extend(record.documents);
        }
    }
    Ok(needed)
}
