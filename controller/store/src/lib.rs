//! What the controller remembers: a small ordered key-value store with compare-and-swap
//! transactions, revisions and watch (the shape of etcd).
//!
//! Keys are text. The store's revision grows by one with every committed transaction, and
//! every value carries the revision of the transaction that wrote it last.

mod follow;
pub mod keys;
pub mod records;
mod sled;
#[cfg(test)]
mod suite;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_stream::Stream;

pub use follow::each_key;
pub use sled::{Embedded, Filling};

/// The number of a committed transaction; 0 before the first.
pub type Revision = u64;

/// The longest key, bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The longest value, bytes: a ruleset with a set of 100,000 entries takes about 3 MiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024 * 1024;

/// A value with the revision that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The transaction that wrote it last.
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

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What it holds.
    pub held: Versioned,
}

/// One read of a range: a state of the store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries by ascending key.
    pub entries: Vec<Entry>,
    /// There are more after the last entry.
    pub more: bool,
}

/// What a transaction expects of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last written by this transaction.
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
    /// What must be so.
    pub compares: Vec<(String, Expect)>,
    /// What is written. Of several writes to one key the last one counts.
    pub puts: Vec<(String, Vec<u8>)>,
    /// What is removed, before the puts.
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
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and on disk.
    Committed {
        /// Its number.
        revision: Revision,
    },
    /// An expectation did not hold; nothing was written.
    Conflict,
}

/// A committed write, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The transaction.
    pub revision: Revision,
    /// The new value; none: the key was removed.
    pub value: Option<Arc<[u8]>>,
}

/// A watcher was too slow and missed changes: it must read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} changes of the store were missed")]
pub struct Missed(pub u64);

/// Changes under a prefix, in the order of their revisions, each after it is on disk.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, Missed>> + Send>>;

/// The store.
///
/// A read may see a commit whose flush is still under way; whatever is committed after that
/// read is flushed with or after it.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// At most `limit` entries whose key starts with `prefix`, by ascending key, those after
    /// the key `after` where one is given.
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// Commits a transaction; answers when it is on disk.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Every entry as of now, to be read while writes go on.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Changes from now on to keys that start with `prefix`.
    fn watch(&self, prefix: &str) -> Changes;

    /// Every entry under `prefix`, but an error where there are more than `most`.
    async fn all(&self, prefix: &str, most: usize) -> Result<Vec<Entry>, StoreError> {
        let page = self.range(prefix, None, most).await?;
        if page.more {
            return Err(StoreError::TooMany {
                prefix: prefix.to_owned(),
                most,
            });
        }
        Ok(page.entries)
    }
}

/// Reads everything under a prefix a page at a time, however much there is. Each page is of its
/// own moment: what is written meanwhile may be in it or not.
#[derive(Debug)]
pub struct Pages<'a> {
    store: &'a dyn Store,
    prefix: &'a str,
    size: usize,
    after: Option<String>,
    ended: bool,
}

impl<'a> Pages<'a> {
    /// From the first entry under `prefix`, `size` at a time.
    pub fn new(store: &'a dyn Store, prefix: &'a str, size: usize) -> Self {
        Self {
            store,
            prefix,
            size,
            after: None,
            ended: false,
        }
    }

    /// The next entries by ascending key; none: that was the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let after = self.after.as_deref();
        let page = self.store.range(self.prefix, after, self.size).await?;
        self.after = page.entries.last().map(|entry| entry.key.clone());
        self.ended = !page.more || self.after.is_none();
        Ok(Some(page.entries))
    }
}

/// Every entry of a store as of one moment.
#[async_trait]
pub trait Snapshot: Send {
    /// The last transaction that is in it.
    fn revision(&self) -> Revision;

    /// The next entries by ascending key; none at all: that was the end.
    async fn next(&mut self) -> Result<Vec<Entry>, StoreError>;
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store in {path} is in use by another process; stop the other controller, or give \
         this one a data directory of its own"
    )]
    InUse {
        /// The store's directory.
        path: String,
    },
    /// It cannot be opened.
    #[error("the store in {path} cannot be opened")]
    Open {
        /// The store's directory.
        path: String,
        /// The engine's reason.
        #[source]
        source: ::sled::Error,
    },
    /// Written by a later version.
    #[error("the store has format {found}; this controller reads format {known}: upgrade it")]
    Format {
        /// The store's format.
        found: u8,
        /// The newest known one.
        known: u8,
    },
    /// A read or write failed.
    #[error("the store cannot be read or written; look at the disk (full, or failing?)")]
    Engine(#[from] ::sled::Error),
    /// A value is not what was written.
    #[error(
        "the value of {key:?} in the store is damaged ({why}); restore a backup: \
         voipfleet-controller restore FILE --data DIR --keys DIR"
    )]
    Corrupt {
        /// The key.
        key: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A value that cannot be understood though it is what was written.
    #[error("the value of {key:?} in the store cannot be read")]
    Value {
        /// The key.
        key: String,
        /// The reader's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key or value over its limit.
    #[error("{what} of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// A key, or the value of which key.
        what: String,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// More entries than a reader is prepared for.
    #[error("there are more than {most} entries under {prefix:?}")]
    TooMany {
        /// The prefix.
        prefix: String,
        /// The limit.
        most: usize,
    },
    /// A snapshot is read too slowly for what is written meanwhile.
    #[error("too much was written while the store was read; try again when there is less to do")]
    Outrun,
    /// Others changed what was read, again and again.
    #[error("what is under {prefix:?} is being changed by others; try again")]
    Changing {
        /// The prefix.
        prefix: String,
    },
    /// It has been closed, or its thread ended.
    #[error("the store is closed")]
    Closed,
}
