//! The types of the store's values. What operators decide is JSON; what agents report stays in
//! the wire's protobuf, and what is large is protobuf too.

mod documents;
mod emergency;
mod feed;
mod members;
mod node;
mod operator;
mod resolved;
mod token;

use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::exception::{ExceptionKind, SiteScope};
pub use documents::{DocumentsRecord, LastChange, StateEntry};
pub use emergency::{ExceptionRecord, OpenRecord, is_over};
pub use feed::{Dropped, FeedRecord};
pub use members::{MembersRecord, PendingMember};
pub use node::{Duplicate, LostAddress, NodeId, NodeRecord, StatusRecord};
pub use operator::{MAX_KEYS, OperatorKey, OperatorRecord, Taken};
pub use resolved::{ResolvedRecord, Seen};
pub use token::{TokenRecord, TokenUse};
pub use voipfleet_controller_core::DocumentsVersion;
pub use voipfleet_controller_core::generation::{
    Cause, Content, GenerationChanges, GenerationRecord,
};
pub use voipfleet_controller_core::queue::{Ended, Fate, QueueRecord, Queued};
pub use voipfleet_controller_core::rollout::{
    ForwardResult, NodeProgress, OutcomeRecord, Phase, RolloutRecord, RolloutState, Stages, Tally,
};
pub use voipfleet_controller_core::target::TargetRecord;

use crate::{Entry, Expect, Revision, Store, StoreError, Versioned, parts};

/// A record with its revision.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// The transaction that wrote it.
    pub revision: Revision,
    /// The record.
    pub record: T,
}

/// Reads a JSON record, whether it is whole or in parts.
pub async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Read<T>>, StoreError> {
    let Some((_, held)) = parts::get(store, key).await? else {
        return Ok(None);
    };
    Ok(Some(Read {
        revision: held.revision,
        record: from_json(key, &held)?,
    }))
}

/// Understands a JSON record that was read as part of a range, whether it is whole or in parts.
pub async fn load<T: DeserializeOwned>(store: &dyn Store, entry: &Entry) -> Result<T, StoreError> {
    let joined = parts::joined(store, entry).await?;
    from_json(&entry.key, joined.as_ref().unwrap_or(&entry.held))
}

/// Expects what was read.
pub fn expected<T>(read: Option<&Read<T>>) -> Expect {
    read.map_or(Expect::Absent, |read| Expect::At(read.revision))
}

/// Understands a JSON record.
pub fn from_json<T: DeserializeOwned>(key: &str, held: &Versioned) -> Result<T, StoreError> {
    serde_json::from_slice(&held.value).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        source: error.into(),
    })
}

/// Writes a JSON record.
pub fn to_json<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        source: error.into(),
    })
}

/// Understands a protobuf record.
pub fn from_protobuf<T: prost::Message + Default>(
    key: &str,
    held: &Versioned,
) -> Result<T, StoreError> {
    T::decode(held.value.as_slice()).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        source: error.into(),
    })
}

/// Reads a protobuf record, whether it is whole or in parts.
pub async fn read_protobuf<T: prost::Message + Default>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let read = parts::get(store, key).await?;
    read.map(|(_, held)| from_protobuf(key, &held)).transpose()
}

/// Understands a protobuf record that was read as part of a range, whether it is whole or in
/// parts.
pub async fn load_protobuf<T: prost::Message + Default>(
    store: &dyn Store,
    entry: &Entry,
) -> Result<T, StoreError> {
    let joined = parts::joined(store, entry).await?;
    from_protobuf(&entry.key, joined.as_ref().unwrap_or(&entry.held))
}

/// Reads what a node last said of itself.
pub async fn read_status(store: &dyn Store, key: &str) -> Result<Option<StatusRecord>, StoreError> {
    store
        .get(key)
        .await?
        .map(|held| from_protobuf(key, &held))
        .transpose()
}

/// Writes what a node last said of itself.
pub fn status_bytes(record: &StatusRecord) -> Vec<u8> {
    record.encode_to_vec()
}
