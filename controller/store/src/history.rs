//! The recent past of an engine that keeps none by itself: for reads at a revision, and for
//! watchers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use tokio::sync::watch;

use crate::{Change, Changes, Revision, StoreError, Versioned, WatchError};

/// Transactions that are kept.
const MAX_TRANSACTIONS: usize = 8192;
/// Keys and values that are kept, bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Transactions that a watcher takes at once.
const WATCH_BATCH: usize = 256;

/// One write of a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: String,
    /// What the key held before.
    pub(crate) old: Option<Versioned>,
    pub(crate) new: Option<Arc<[u8]>>,
}

impl Write {
    fn bytes(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.value.len());
        let new = self.new.as_ref().map_or(0, |new| new.len());
        self.key.len() + old + new
    }
}

#[derive(Debug)]
struct Log {
    /// By ascending revision.
    transactions: VecDeque<(Revision, Vec<Write>)>,
    bytes: usize,
    /// The oldest revision that can be read, and after which all changes are known.
    oldest: Revision,
    newest: Revision,
}

/// Committed transactions, the latest ones. Clones are the same history.
#[derive(Debug, Clone)]
pub(crate) struct History {
    log: Arc<Mutex<Log>>,
    /// The last transaction that watchers may see: it is on disk.
    published: Arc<watch::Sender<Revision>>,
}

/// A watcher's place.
struct Watcher {
    log: Arc<Mutex<Log>>,
    published: watch::Receiver<Revision>,
    prefix: String,
    after: Revision,
    found: VecDeque<Change>,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    // Nothing is left half-done by a panic: every method changes the log with plain pushes.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// Nothing before `revision` is known.
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            log: Arc::new(Mutex::new(Log {
                transactions: VecDeque::new(),
                bytes: 0,
                oldest: revision,
                newest: revision,
            })),
            published: Arc::new(watch::Sender::new(revision)),
        }
    }

    /// Adds a transaction. Watchers see it once it is published.
    pub(crate) fn add(&self, revision: Revision, writes: Vec<Write>) {
        let mut log = lock(&self.log);
        log.bytes += writes.iter().map(Write::bytes).sum::<usize>();
        log.transactions.push_back((revision, writes));
        log.newest = revision;
        while log.transactions.len() > MAX_TRANSACTIONS || log.bytes > MAX_BYTES {
            log.forget_first();
        }
    }

    /// The store has come to `revision`, and all up to it is on disk.
    pub(crate) fn publish(&self, revision: Revision) {
        let mut log = lock(&self.log);
        log.newest = log.newest.max(revision);
        drop(log);
        self.published.send_if_modified(|published| {
            let later = revision > *published;
            *published = revision.max(*published);
            later
        });
    }

    /// Forgets everything before `revision`.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn compact(&self, revision: Revision) {
        let mut log = lock(&self.log);
        while log
            .transactions
            .front()
            .is_some_and(|(at, _)| *at <= revision)
        {
            log.forget_first();
        }
        log.oldest = log.oldest.max(revision.min(log.newest));
    }

    /// What keys under `prefix` held at a revision, of those that were written since.
    pub(crate) fn undo(
        &self,
        prefix: &str,
        at: Revision,
    ) -> Result<BTreeMap<String, Option<Versioned>>, StoreError> {
        let log = lock(&self.log);
        if at < log.oldest {
            return Err(StoreError::Compacted {
                revision: at,
                oldest: log.oldest,
            });
        }
        if at > log.newest {
            return Err(StoreError::Future {
                revision: at,
                newest: log.newest,
            });
        }
        let later = log.transactions.iter().rev();
        let mut held = BTreeMap::new();
        for (_, writes) in later.take_while(|(revision, _)| *revision > at) {
            for write in writes.iter().filter(|write| write.key.starts_with(prefix)) {
                held.insert(write.key.clone(), write.old.clone());
            }
        }
        Ok(held)
    }

    /// Changes under a prefix after a revision.
    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> Changes {
        let watcher = Watcher {
            log: Arc::clone(&self.log),
            published: self.published.subscribe(),
            prefix: prefix.to_owned(),
            after,
            found: VecDeque::new(),
        };
        Box::pin(stream::unfold(watcher, Watcher::next))
    }
}

impl Log {
    fn forget_first(&mut self) {
        if let Some((revision, writes)) = self.transactions.pop_front() {
            let bytes: usize = writes.iter().map(Write::bytes).sum();
            self.bytes = self.bytes.saturating_sub(bytes);
            self.oldest = revision;
        }
    }
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<Change, WatchError>, Self)> {
        loop {
            if let Some(change) = self.found.pop_front() {
                return Some((Ok(change), self));
            }
            let published = *self.published.borrow_and_update();
            if self.after < published {
                if let Err(error) = self.read(published) {
                    return Some((Err(error), self));
                }
                continue;
            }
            // An error: the store was closed.
            self.published.changed().await.ok()?;
        }
    }

    fn read(&mut self, published: Revision) -> Result<(), WatchError> {
        let log = lock(&self.log);
        if self.after < log.oldest {
            self.after = published;
            let oldest = log.oldest;
            return Err(WatchError::Compacted { oldest });
        }
        let first = log
            .transactions
            .partition_point(|(revision, _)| *revision <= self.after);
        let new = log.transactions.range(first..);
        let new = new.take_while(|(revision, _)| *revision <= published);
        for (taken, (revision, writes)) in new.enumerate() {
            if taken == WATCH_BATCH {
                return Ok(());
            }
            self.after = *revision;
            let writes = writes.iter();
            let writes = writes.filter(|write| write.key.starts_with(&self.prefix));
            self.found.extend(writes.map(|write| Change {
                key: write.key.clone(),
                revision: *revision,
                value: write.new.clone(),
            }));
        }
        self.after = published;
        Ok(())
    }
}
