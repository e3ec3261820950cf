//! The store on sled: one process, one directory.

mod frame;
mod gate;
mod snapshot;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use gate::Gate;
use snapshot::{Frozen, Snapshots};

use crate::{
    Change, Changes, Entry, Expect, MAX_KEY_BYTES, MAX_VALUE_BYTES, Missed, Outcome, Page,
    Revision, Snapshot, Store, StoreError, Txn, Versioned,
};

/// Keys of the store itself; they are outside what callers can name.
const FORMAT_KEY: &[u8] = b"\0format";
const REVISION_KEY: &[u8] = b"\0revision";
const FORMAT: u8 = 1;
/// Pages that sled keeps in memory.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Commits waiting for the writer: more callers than this wait before they queue.
const QUEUE: usize = 256;
/// Commits that share one flush.
const GROUP: usize = 128;
/// Changes that a watcher may lag behind before it must read anew.
const WATCH_BACKLOG: usize = 4096;
/// Tries to get sled's file lock: sled gives it back on threads of its own, a moment after the
/// database was dropped.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// A store in a directory.
///
/// One thread writes: it takes what is queued, commits each transaction, flushes once, and
/// only then answers. Reads see whole transactions.
#[derive(Debug, Clone)]
pub struct Embedded {
    tree: Gate,
    queue: mpsc::Sender<Request>,
    changes: broadcast::Sender<Change>,
    snapshots: Snapshots,
}

enum Request {
    Commit {
        txn: Txn,
        answer: oneshot::Sender<Result<Outcome, StoreError>>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

type Answered = (
    oneshot::Sender<Result<Outcome, StoreError>>,
    Result<Outcome, StoreError>,
);

struct Writer {
    db: sled::Db,
    tree: Gate,
    changes: broadcast::Sender<Change>,
    snapshots: Snapshots,
    revision: Revision,
}

fn open_database(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        // Every commit is flushed before its answer; a timer would only add writes.
        .flush_every_ms(None);
    let shown = || path.display().to_string();
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Ok(db) => return Ok(db),
            // sled has no error kind of its own for its lock.
            Err(error) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(source) => {
                return Err(StoreError::Open {
                    path: shown(),
                    source,
                });
            }
        }
    }
    Err(StoreError::InUse { path: shown() })
}

impl Embedded {
    /// Opens the store in `path`, or makes it. Blocks while sled recovers its log.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = open_database(path)?;
        let tree = db.open_tree("voipfleet")?;
        match tree.get(FORMAT_KEY)?.as_deref() {
            None => {
                tree.insert(FORMAT_KEY, &[FORMAT])?;
                db.flush()?;
            }
            Some([FORMAT]) => {}
            Some(other) => {
                return Err(StoreError::Format {
                    found: other.first().copied().unwrap_or_default(),
                    known: FORMAT,
                });
            }
        }
        let revision = last_revision(&tree)?;
        let tree = Arc::new(RwLock::new(Some(tree)));
        let (queue, requests) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let snapshots = Snapshots::default();
        let writer = Writer {
            db,
            tree: Arc::clone(&tree),
            changes: changes.clone(),
            snapshots: snapshots.clone(),
            revision,
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|error| StoreError::Engine(sled::Error::Io(error)))?;
        Ok(Self {
            tree,
            queue,
            changes,
            snapshots,
        })
    }

    /// Commits what is queued, flushes, and gives the directory free; every later call is
    /// refused.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.queue.send(Request::Close { done }).await.is_ok() {
            // An error means that the thread has ended already.
            let _ = ended.await;
        }
    }

    async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&sled::Tree) -> Result<T, StoreError> + Send + 'static,
    {
        let tree = Arc::clone(&self.tree);
        tokio::task::spawn_blocking(move || {
            // Nothing here could be left half-written by a panic: sled's batches are whole.
            let tree = tree.read().unwrap_or_else(PoisonError::into_inner);
            read(tree.as_ref().ok_or(StoreError::Closed)?)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

impl Writer {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut closed = None;
        while closed.is_none() {
            let Some(first) = requests.blocking_recv() else {
                break;
            };
            let mut done = Vec::new();
            let mut changes = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match request {
                    Request::Commit { txn, answer } => {
                        done.push((answer, self.apply(txn, &mut changes)));
                    }
                    Request::Close { done } => closed = Some(done),
                }
                if done.len() < GROUP && closed.is_none() {
                    next = requests.try_recv().ok();
                }
            }
            self.acknowledge(done, changes);
        }
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = None;
        // The file lock goes with the database, so that whoever awaits the end may reopen.
        drop(self);
        if let Some(done) = closed {
            let _ = done.send(());
        }
    }

    /// Flushes, then tells callers and watchers. A conflict may have been judged against a
    /// commit of the same group, so it too is told only when that is on disk.
    fn acknowledge(&self, done: Vec<Answered>, changes: Vec<Change>) {
        let flushed = self.db.flush();
        if flushed.is_ok() {
            for change in changes {
                // No watcher is fine.
                let _ = self.changes.send(change);
            }
        }
        for (answer, result) in done {
            let result = match &flushed {
                Ok(_) => result,
                Err(error) => Err(StoreError::Engine(error.clone())),
            };
            // The caller may have gone; the commit stands all the same.
            let _ = answer.send(result);
        }
    }

    fn apply(&mut self, txn: Txn, changes: &mut Vec<Change>) -> Result<Outcome, StoreError> {
        check_sizes(&txn)?;
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let tree = tree.as_ref().ok_or(StoreError::Closed)?;
        for (key, expect) in &txn.compares {
            let found = tree
                .get(key)?
                .map(|framed| frame::decode(key.as_bytes(), &framed))
                .transpose()?;
            if Expect::from(&found) != *expect {
                return Ok(Outcome::Conflict);
            }
        }
        let written = txn.puts.iter().map(|(key, _)| key);
        let written = written.chain(&txn.deletes).map(String::as_str);
        self.snapshots.keep(tree, &written)?;
        let revision = self.revision.saturating_add(1);
        let mut batch = sled::Batch::default();
        for key in txn.deletes {
            batch.remove(key.as_bytes());
            changes.push(Change {
                key,
                revision,
                value: None,
            });
        }
        for (key, value) in txn.puts {
            batch.insert(
                key.as_bytes(),
                frame::encode(key.as_bytes(), revision, &value),
            );
            changes.push(Change {
                key,
                revision,
                value: Some(value.into()),
            });
        }
        batch.insert(REVISION_KEY, &revision.to_be_bytes());
        // One batch of one tree is recovered as a whole or not at all.
        tree.apply_batch(batch)?;
        self.revision = revision;
        Ok(Outcome::Committed { revision })
    }
}

fn check_sizes(txn: &Txn) -> Result<(), StoreError> {
    let keys = txn.puts.iter().map(|(key, _)| key).chain(&txn.deletes);
    for key in keys {
        if key.is_empty() || key.starts_with('\0') || key.len() > MAX_KEY_BYTES {
            return Err(StoreError::TooLarge {
                what: "a key".to_owned(),
                size: key.len(),
                limit: MAX_KEY_BYTES,
            });
        }
    }
    for (key, value) in &txn.puts {
        if value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::TooLarge {
                what: format!("the value of {key:?}"),
                size: value.len(),
                limit: MAX_VALUE_BYTES,
            });
        }
    }
    Ok(())
}

fn last_revision(tree: &sled::Tree) -> Result<Revision, StoreError> {
    match tree.get(REVISION_KEY)? {
        None => Ok(0),
        Some(bytes) => bytes
            .as_ref()
            .try_into()
            .map(Revision::from_be_bytes)
            .map_err(|_| StoreError::Corrupt {
                key: "revision".to_owned(),
                why: "it is not 8 bytes",
            }),
    }
}

/// A new store that is filled with what another one held.
#[derive(Debug)]
pub struct Filling {
    db: sled::Db,
    tree: sled::Tree,
}

impl Filling {
    /// Makes a store in `path`, where there is none. Blocks.
    pub fn begin(path: &Path) -> Result<Self, StoreError> {
        let db = open_database(path)?;
        let tree = db.open_tree("voipfleet")?;
        Ok(Self { db, tree })
    }

    /// Adds an entry, with the revision that it had.
    pub fn add(&self, entry: &Entry) -> Result<(), StoreError> {
        let Entry { key, held } = entry;
        let value = held.value.clone();
        check_sizes(&Txn::new().put(key.clone(), value))?;
        let framed = frame::encode(key.as_bytes(), held.revision, &held.value);
        self.tree.insert(key.as_bytes(), framed)?;
        Ok(())
    }

    /// Makes it a store whose last transaction was `revision`, and brings it to disk.
    pub fn end(self, revision: Revision) -> Result<(), StoreError> {
        self.tree.insert(REVISION_KEY, &revision.to_be_bytes())?;
        self.tree.insert(FORMAT_KEY, &[FORMAT])?;
        self.db.flush()?;
        Ok(())
    }
}

fn read_page(
    tree: &sled::Tree,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Page, StoreError> {
    let start = match after {
        Some(after) => std::ops::Bound::Excluded(after.as_bytes()),
        None => std::ops::Bound::Included(prefix.as_bytes()),
    };
    let mut page = Page {
        entries: Vec::new(),
        more: false,
    };
    for item in tree.range::<&[u8], _>((start, std::ops::Bound::Unbounded)) {
        let (key, framed) = item?;
        if key.starts_with(b"\0") || (key.as_ref() < prefix.as_bytes()) {
            continue;
        }
        if !key.starts_with(prefix.as_bytes()) {
            break;
        }
        if page.entries.len() == limit {
            page.more = true;
            break;
        }
        page.entries.push(Entry {
            held: frame::decode(&key, &framed)?,
            key: gate::text(&key)?,
        });
    }
    Ok(page)
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let key = key.to_owned();
        self.read(move |tree| {
            tree.get(&key)?
                .map(|framed| frame::decode(key.as_bytes(), &framed))
                .transpose()
        })
        .await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let prefix = prefix.to_owned();
        let after = after.map(str::to_owned);
        self.read(move |tree| read_page(tree, &prefix, after.as_deref(), limit))
            .await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.queue
            .send(Request::Commit { txn, answer })
            .await
            .map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let (gate, snapshots) = (Arc::clone(&self.tree), self.snapshots.clone());
        self.read(move |tree| {
            let frozen = Frozen::new(gate, &snapshots, last_revision(tree)?);
            Ok(Box::new(frozen) as Box<dyn Snapshot>)
        })
        .await
    }

    fn watch(&self, prefix: &str) -> Changes {
        let prefix = prefix.to_owned();
        let changes = BroadcastStream::new(self.changes.subscribe());
        Box::pin(changes.filter_map(move |item| match item {
            Ok(change) if change.key.starts_with(&prefix) => Some(Ok(change)),
            Ok(_) => None,
            Err(BroadcastStreamRecvError::Lagged(missed)) => Some(Err(Missed(missed))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_value_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let txn = Txn::new().put("doc/site/a", "hello").put("doc/site/b", "x");
        store.commit(txn).await.unwrap();
        {
            let tree = store.tree.read().unwrap();
            let tree = tree.as_ref().unwrap();
            let mut framed = tree.get("doc/site/a").unwrap().unwrap().to_vec();
            *framed.last_mut().unwrap() ^= 1;
            tree.insert("doc/site/a", framed).unwrap();
        }
        let error = store.get("doc/site/a").await.unwrap_err().to_string();
        assert!(error.contains("doc/site/a"), "{error}");
        assert!(store.range("doc/", None, 10).await.is_err());
        assert!(store.get("doc/site/b").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_second_opener_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Embedded::open(dir.path()).unwrap();
        let error = Embedded::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }
}
