//! What an engine implements.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Changes, Limits, Outcome, Revision, StoreError, Txn, Versioned};

/// After a read that failed.
const RETRY: Duration = Duration::from_secs(1);

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub held: Versioned,
}

/// One read of a range: the state of the store at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision that was read. A watch from it misses nothing.
    pub revision: Revision,
    /// Entries by ascending key.
    pub entries: Vec<Entry>,
    /// There are more after the last entry.
    pub more: bool,
}

/// The store.
///
/// A read may see a commit whose flush is still under way; whatever is committed after that
/// read is flushed with or after it.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// What one transaction may hold; at least [`Limits::STANDARD`].
    fn limits(&self) -> Limits;

    /// The revision that a read would see now.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// The value that a key had at a revision.
    async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Versioned>, StoreError>;

    /// At most `limit` entries whose key starts with `prefix`, by ascending key, those after
    /// the key `after` where one is given.
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// The same as of a revision.
    async fn range_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Page, StoreError>;

    /// Commits a transaction; answers when it is on disk. After an error other than
    /// [`StoreError::OverLimit`] and [`StoreError::Key`] it may have been committed.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Writes something that no reader sees, as a commit would be written: whether the store
    /// can be written now.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Every entry as of now, to be read while writes go on.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Changes after a revision to keys that start with `prefix`: all of them, each once. To
    /// resume, pass the revision of the last change whose transaction was seen to its end.
    fn watch(&self, prefix: &str, after: Revision) -> Changes;

    /// Changes from now on: what is committed after this has returned. Waits while the store
    /// cannot answer; of a closed store there are none.
    async fn watch_from_now(&self, prefix: &str) -> Changes {
        loop {
            match self.revision().await {
                Ok(revision) => return self.watch(prefix, revision),
                Err(StoreError::Closed | StoreError::Failed(_)) => {
                    return Box::pin(tokio_stream::empty());
                }
                Err(error) => {
                    log(&error, prefix);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

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

fn log(error: &StoreError, prefix: &str) {
    let error = error as &dyn std::error::Error;
    tracing::error!(prefix, error, "the store cannot be watched; retrying");
}

/// Every entry of a store as of one revision.
#[async_trait]
pub trait Snapshot: Send {
    /// The last transaction that is in it.
    fn revision(&self) -> Revision;

    /// The next entries by ascending key; empty at the end.
    async fn next(&mut self) -> Result<Vec<Entry>, StoreError>;
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

    /// The next entries by ascending key; `None` at the end.
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

/// Every entry under a prefix, however many there are.
pub async fn every(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    const PAGE: usize = 1000;
    let mut all = Vec::new();
    let mut pages = Pages::new(store, prefix, PAGE);
    while let Some(entries) = pages.next().await? {
        all.extend(entries);
    }
    Ok(all)
}
