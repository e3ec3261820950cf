//! What is kept of changes of documents.

use serde::{Deserialize, Serialize};
use voipfleet_controller_core::DocumentsVersion;
use voipfleet_policy::Document;

/// The last change of any document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentsRecord {
    /// The state that it made.
    pub version: DocumentsVersion,
    /// Who made it; empty: not known.
    pub by: String,
    /// When, Unix time; 0: not known.
    pub at_ms: u64,
}

/// One document as a change left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRecord {
    /// Who changed it; empty: it was there before changes were counted.
    pub by: String,
    /// When, Unix time; 0: not known.
    pub at_ms: u64,
    /// What it became; none: it was deleted.
    pub document: Option<Document>,
}
