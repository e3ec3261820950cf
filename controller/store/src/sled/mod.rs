//! The store on sled: one process, one directory.

mod database;
mod frame;
mod gate;
mod room;
mod snapshot;
mod witness;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

pub use database::OPENING_THREAD;
use gate::Gate;
use room::Room;
use snapshot::{Frozen, Snapshots};
use witness::Witness;

use crate::history::{History, Write};
use crate::{
    Changes, Entry, Expect, Limits, Outcome, Page, Revision, Snapshot, Store, StoreError, Txn,
    Versioned,
};

/// Keys of the store itself; they are outside what callers can name.
const FORMAT_KEY: &[u8] = b"\0format";
const REVISION_KEY: &[u8] = b"\0revision";
const PROBE_KEY: &[u8] = b"\0probe";
const FORMAT: u8 = 1;
/// sled would take more: what runs on it must run on any engine.
const LIMITS: Limits = Limits::STANDARD;
/// Commits waiting for the writer: more callers than this wait before they queue.
const QUEUE: usize = 256;
/// Commits that share one flush.
const GROUP: usize = 128;
/// How long a close waits for the writer, which may hang in a write.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A store in a directory.
///
/// One thread writes: it takes what is queued, commits each transaction, flushes once, and
/// only then answers. Reads see whole transactions.
#[derive(Debug, Clone)]
pub struct Embedded {
    tree: Gate,
    queue: mpsc::Sender<Request>,
    history: History,
    snapshots: Snapshots,
}

enum Request {
    Commit {
        txn: Txn,
        answer: oneshot::Sender<Result<Outcome, StoreError>>,
    },
    Probe {
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
    history: History,
    snapshots: Snapshots,
    revision: Revision,
    room: Room,
    witness: Witness,
}

impl Embedded {
    /// Opens the store in `path`, or makes it. Blocks while sled recovers its log.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (db, tree) = database::open(path)?;
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
        let witness = Witness::open(path, revision)?;
        let tree = Arc::new(RwLock::new(Some(tree)));
        let (queue, requests) = mpsc::channel(QUEUE);
        let history = History::new(revision);
        let snapshots = Snapshots::default();
        let writer = Writer {
            db,
            tree: Arc::clone(&tree),
            history: history.clone(),
            snapshots: snapshots.clone(),
            revision,
            room: Room::new(path),
            witness,
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        Ok(Self {
            tree,
            queue,
            history,
            snapshots,
        })
    }

    /// Commits what is queued, flushes, and gives the directory free; every later call is
    /// refused. A writer that hangs is left behind after a while: what it had acknowledged is on
    /// disk.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        let closing = async {
            if self.queue.send(Request::Close { done }).await.is_ok() {
                // An error means that the thread has ended already.
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::error!("the store could not be closed: a write does not reach the disk");
        }
    }

    /// Forgets the past: only what is there now can be read.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        self.history.compact(Revision::MAX);
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
        let mut flushed = true;
        while closed.is_none() {
            let Some(first) = requests.blocking_recv() else {
                break;
            };
            let mut done = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match request {
                    Request::Commit { txn, answer } => {
                        done.push((answer, self.apply(txn)));
                    }
                    Request::Probe { answer } => done.push((answer, self.probe())),
                    Request::Close { done } => closed = Some(done),
                }
                if done.len() < GROUP && closed.is_none() {
                    next = requests.try_recv().ok();
                }
            }
            flushed = self.acknowledge(done);
        }
        if flushed {
            self.witness.write(self.revision);
        }
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = None;
        // The file lock goes with the database, so that whoever awaits the end may reopen.
        drop(self);
        if let Some(done) = closed {
            let _ = done.send(());
        }
    }

    /// Flushes, then tells callers and watchers. A conflict may have been judged against a
    /// commit of the same group, so it too is told only when that is on disk. False: nothing came
    /// to disk.
    fn acknowledge(&mut self, done: Vec<Answered>) -> bool {
        // After an error a flush of sled may wait for ever, and proves nothing.
        let broken = |(_, result): &Answered| {
            matches!(result, Err(StoreError::Failed(_) | StoreError::Damaged(_)))
        };
        let flushed = if done.iter().any(broken) {
            let why = "a write of the same group failed";
            Err(sled::Error::ReportableBug(why.to_owned()))
        } else {
            self.db.flush()
        };
        if flushed.is_ok() {
            self.room.flushed();
            self.witness.note(self.revision);
            self.history.publish(self.revision);
        }
        for (answer, result) in done {
            let result = match (&flushed, result) {
                (Ok(_), result) | (Err(_), result @ Err(_)) => result,
                (Err(error), Ok(_)) => Err(error.clone().into()),
            };
            // The caller may have gone; the commit stands all the same.
            let _ = answer.send(result);
        }
        flushed.is_ok()
    }

    /// Writes as a commit does, outside of what callers can read. The revision stays.
    fn probe(&mut self) -> Result<Outcome, StoreError> {
        self.room.take(&Txn::new())?;
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let tree = tree.as_ref().ok_or(StoreError::Closed)?;
        let before = tree.get(PROBE_KEY)?;
        let before = before.and_then(|bytes| bytes.as_ref().try_into().ok());
        let next = before.map_or(0, u64::from_be_bytes).wrapping_add(1);
        tree.insert(PROBE_KEY, &next.to_be_bytes())?;
        let revision = self.revision;
        Ok(Outcome::Committed { revision })
    }

    fn apply(&mut self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check(LIMITS)?;
        self.room.take(&txn)?;
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let tree = tree.as_ref().ok_or(StoreError::Closed)?;
        for (key, expect) in &txn.compares {
            if Expect::from(&get(tree, key)?) != *expect {
                return Ok(Outcome::Conflict);
            }
        }
        let writes = txn.into_writes();
        if writes.is_empty() {
            let revision = self.revision;
            return Ok(Outcome::Committed { revision });
        }
        self.snapshots
            .keep(tree, &writes.keys().map(String::as_str))?;
        let revision = self.revision.saturating_add(1);
        let mut batch = sled::Batch::default();
        let mut done = Vec::with_capacity(writes.len());
        for (key, value) in writes {
            match &value {
                Some(value) => {
                    let framed = frame::encode(key.as_bytes(), revision, value);
                    batch.insert(key.as_bytes(), framed);
                }
                None => batch.remove(key.as_bytes()),
            }
            done.push(Write {
                // A damaged value may be written over.
                old: get(tree, &key).unwrap_or_default(),
                new: value.map(Into::into),
                key,
            });
        }
        batch.insert(REVISION_KEY, &revision.to_be_bytes());
        // One batch of one tree is recovered as a whole or not at all.
        tree.apply_batch(batch)?;
        self.revision = revision;
        self.history.add(revision, done);
        Ok(Outcome::Committed { revision })
    }
}

/// Where the engine found its files damaged.
#[derive(Debug, thiserror::Error)]
#[error("the engine's files are damaged{0}")]
struct Corruption(String);

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            // Its own words end in an empty backtrace.
            sled::Error::Corruption { at, .. } => {
                let at = at.map(|at| format!(" at {at:?}")).unwrap_or_default();
                StoreError::Damaged(Box::new(Corruption(at)))
            }
            error => StoreError::Failed(Box::new(error)),
        }
    }
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

fn get(tree: &sled::Tree, key: &str) -> Result<Option<Versioned>, StoreError> {
    tree.get(key)?
        .map(|framed| frame::decode(key.as_bytes(), &framed))
        .transpose()
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
        let (db, tree) = database::open(path)?;
        Ok(Self { db, tree })
    }

    /// Adds an entry, with the revision that it had.
    pub fn add(&self, entry: &Entry) -> Result<(), StoreError> {
        let Entry { key, held } = entry;
        Txn::new().delete(key.clone()).check(LIMITS)?;
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

/// Where a page begins and ends.
struct Span {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Span {
    fn new(prefix: &str, after: Option<&str>, limit: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
        }
    }

    /// Reads a page; `past` is what some keys held at `revision`, where that is not now.
    fn read(
        &self,
        tree: &sled::Tree,
        past: &BTreeMap<String, Option<Versioned>>,
        revision: Revision,
    ) -> Result<Page, StoreError> {
        let start = match &self.after {
            Some(after) if *after >= self.prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(self.prefix.as_str()),
        };
        let mut past = past.range::<str, _>((start, Bound::Unbounded)).peekable();
        let mut page = Page {
            revision,
            entries: Vec::new(),
            more: false,
        };
        let mut add = |key: String, held: Versioned| {
            page.more = page.entries.len() == self.limit;
            if !page.more {
                page.entries.push(Entry { key, held });
            }
            !page.more
        };
        let bytes = (start.map(str::as_bytes), Bound::Unbounded);
        let present = tree.range::<&[u8], _>(bytes);
        for item in present {
            let (key, framed) = item?;
            // The store's own keys.
            if key.starts_with(b"\0") {
                continue;
            }
            if !key.starts_with(self.prefix.as_bytes()) {
                break;
            }
            let key = gate::text(&key)?;
            // Keys of the past that are gone.
            while let Some((gone, old)) = past.next_if(|(gone, _)| **gone < key) {
                if old.clone().is_some_and(|old| !add(gone.clone(), old)) {
                    return Ok(page);
                }
            }
            let held = match past.next_if(|(changed, _)| **changed == key) {
                Some((_, old)) => old.clone(),
                None => Some(frame::decode(key.as_bytes(), &framed)?),
            };
            if held.is_some_and(|held| !add(key, held)) {
                return Ok(page);
            }
        }
        for (gone, old) in past {
            if old.clone().is_some_and(|old| !add(gone.clone(), old)) {
                break;
            }
        }
        Ok(page)
    }
}

#[async_trait]
impl Store for Embedded {
    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.read(last_revision).await
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let key = key.to_owned();
        self.read(move |tree| get(tree, &key)).await
    }

    async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Versioned>, StoreError> {
        let (key, history) = (key.to_owned(), self.history.clone());
        self.read(move |tree| match history.undo(&key, at)?.remove(&key) {
            Some(old) => Ok(old),
            None => get(tree, &key),
        })
        .await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let span = Span::new(prefix, after, limit);
        self.read(move |tree| span.read(tree, &BTreeMap::new(), last_revision(tree)?))
            .await
    }

    async fn range_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Page, StoreError> {
        let (span, history) = (Span::new(prefix, after, limit), self.history.clone());
        self.read(move |tree| span.read(tree, &history.undo(&span.prefix, at)?, at))
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

    async fn probe(&self) -> Result<(), StoreError> {
        let (answer, written) = oneshot::channel();
        self.queue
            .send(Request::Probe { answer })
            .await
            .map_err(|_| StoreError::Closed)?;
        written.await.map_err(|_| StoreError::Closed)?.map(drop)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let (gate, snapshots) = (Arc::clone(&self.tree), self.snapshots.clone());
        self.read(move |tree| {
            let frozen = Frozen::new(gate, &snapshots, last_revision(tree)?);
            Ok(Box::new(frozen) as Box<dyn Snapshot>)
        })
        .await
    }

    fn watch(&self, prefix: &str, after: Revision) -> Changes {
        self.history.watch(prefix, after)
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
