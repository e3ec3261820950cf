//! The documents, state by state.

use serde::{Deserialize, Serialize};
use voipfleet_controller_core::DocumentsVersion;
use voipfleet_policy::Document;

use crate::Revision;

/// The present state of the documents, by its number. Whoever read several documents compares
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentsRecord {
    /// The state.
    pub version: DocumentsVersion,
    /// The operator whose change made it; empty in state 0.
    pub by: String,
    /// When, Unix time.
    pub at_ms: u64,
}

/// One document in a state of all of them. A state is an array of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// In lower case.
    pub kind: String,
    pub name: String,
    /// Its last change.
    #[serde(flatten)]
    pub changed: LastChange,
    /// `None`: that change deleted it.
    pub document: Option<Document>,
}

/// The last change of a document, its deletion included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChange {
    /// Of two changes of a document the later one has the greater revision, across restores of a
    /// backup too.
    pub revision: Revision,
    /// The state that it made.
    pub version: DocumentsVersion,
    /// The operator.
    pub by: String,
    /// When, Unix time.
    pub at_ms: u64,
    /// It deleted the document.
    #[serde(default)]
    pub deleted: bool,
}
