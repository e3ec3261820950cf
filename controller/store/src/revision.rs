//! Revisions, and values that have one.

use std::fmt;

/// Grows with every transaction that writes, here or by others in the same engine: not
/// necessarily by one. 0 before the first.
pub type Revision = u64;

/// A value with the revision that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The revision of the transaction that wrote it last.
    pub revision: Revision,
    /// The bytes.
    pub value: Vec<u8>,
}

impl fmt::Debug for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, value } = self;
        write!(f, "{} bytes at revision {revision}", value.len())
    }
}
