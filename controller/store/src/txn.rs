//! Transactions: expectations and writes that happen together.

use std::collections::BTreeMap;

use crate::{Limits, Revision, StoreError, Versioned};

/// The longest key, bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// What a transaction expects of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last written at this revision.
    At(Revision),
}

impl From<&Option<Versioned>> for Expect {
    /// Expects what was read.
    fn from(read: &Option<Versioned>) -> Self {
        read.as_ref()
            .map_or(Expect::Absent, |held| Expect::At(held.revision))
    }
}

/// Writes that happen together, or not at all, if every expectation holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The expectations.
    pub compares: Vec<(String, Expect)>,
    /// The writes. Of several writes to one key the last one counts.
    pub puts: Vec<(String, Vec<u8>)>,
    /// The removals; a key that is put as well is not removed.
    pub deletes: Vec<String>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an expectation.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.compares.push((key.into(), expect));
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.puts.push((key.into(), value.into()));
        self
    }

    /// Adds a removal; a key that does not exist is fine.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// Compares, puts and deletes.
    pub fn operations(&self) -> usize {
        self.compares.len() + self.puts.len() + self.deletes.len()
    }

    /// Keys and values, bytes.
    pub fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|(key, _)| key.len());
        let puts = self.puts.iter().map(|(key, value)| key.len() + value.len());
        let deletes = self.deletes.iter().map(String::len);
        compares.chain(puts).chain(deletes).sum()
    }

    /// Refuses what no engine may commit. Every engine calls it first.
    pub fn check(&self, limits: Limits) -> Result<(), StoreError> {
        let puts = self.puts.iter().map(|(key, _)| key);
        let compares = self.compares.iter().map(|(key, _)| key);
        for key in puts.chain(compares).chain(&self.deletes) {
            if key.is_empty() || key.starts_with('\0') || key.len() > MAX_KEY_BYTES {
                return Err(StoreError::Key {
                    size: key.len(),
                    limit: MAX_KEY_BYTES,
                });
            }
        }
        let (operations, bytes) = (self.operations(), self.bytes());
        if operations > limits.operations || bytes > limits.bytes {
            return Err(StoreError::OverLimit {
                operations,
                bytes,
                limits,
            });
        }
        Ok(())
    }

    /// One write for each key; `None` removes it.
    pub fn into_writes(self) -> BTreeMap<String, Option<Vec<u8>>> {
        let deletes = self.deletes.into_iter().map(|key| (key, None));
        let puts = self.puts.into_iter().map(|(key, value)| (key, Some(value)));
        deletes.chain(puts).collect()
    }
}

/// The result of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and on disk.
    Committed {
        /// The revision of what it wrote.
        revision: Revision,
    },
    /// An expectation did not hold; nothing was written.
    Conflict,
}
