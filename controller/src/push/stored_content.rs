//! Content of generations that are stored.

use voipfleet_policy::Documents;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::ruleset::{Digest, Ruleset};

use super::PushError;
use crate::documents::documents_at;
use crate::records::{self, GenerationRecord, Read};
use crate::rulesets;
use crate::store::{Store, StoreError, keys};

/// A generation that is kept.
pub(super) async fn generation(
    store: &dyn Store,
    site: &SiteName,
    number: Generation,
) -> Result<Read<GenerationRecord>, PushError> {
    let read = records::read(store, &keys::generation(site, number)).await?;
    read.ok_or_else(|| PushError::UnknownGeneration(site.clone(), number))
}

/// A ruleset; none: it is not stored, or no longer.
pub(super) async fn stored_ruleset(
    store: &dyn Store,
    digest: &Digest,
) -> Result<Option<Ruleset>, StoreError> {
    let Some(bytes) = rulesets::get(store, digest).await? else {
        return Ok(None);
    };
    let key = keys::ruleset(digest);
    let decoding = tokio::task::spawn_blocking(move || Ruleset::decode(&bytes));
    let decoded = decoding.await.map_err(|_| StoreError::Corrupt {
        key: key.clone(),
        why: "its reader failed",
    })?;
    decoded.map(Some).map_err(|error| StoreError::Value {
        key,
        source: error.into(),
    })
}

/// A ruleset that a stored generation names.
pub(super) async fn named_ruleset(
    store: &dyn Store,
    digest: &Digest,
) -> Result<Ruleset, StoreError> {
    let missing = || StoreError::Corrupt {
        key: keys::ruleset(digest),
        why: "it is missing, and a generation names it",
    };
    stored_ruleset(store, digest).await?.ok_or_else(missing)
}

/// The documents that a generation was made of; none: unknown.
pub(super) async fn documents_of(
    store: &dyn Store,
    record: &GenerationRecord,
) -> Result<Option<Documents>, StoreError> {
    match record.documents {
        Some(version) => documents_at(store, version).await,
        None => Ok(None),
    }
}
