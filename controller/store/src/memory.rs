//! A store in memory, for tests: as strict as an engine may be, and with faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::history::{History, Write};
use crate::{
    Changes, Entry, Expect, Limits, Outcome, Page, Revision, Snapshot, Store, StoreError, Txn,
    Versioned,
};

/// A store in memory. Clones are the same store.
///
/// It enforces its limits, and its revision also grows by what unrelated writers do between two
/// operations.
#[derive(Debug, Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    history: History,
    limits: Limits,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every operation reports an engine's error.
    Engine,
    /// Writes never end.
    Hang,
    /// Writes find no room.
    Full,
    /// The engine's thread has ended.
    Closed,
}

/// What was committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions.
    pub transactions: usize,
    /// The most operations of one.
    pub operations: usize,
    /// The most bytes of one.
    pub bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Versioned>,
    revision: Revision,
    counts: Counts,
    last: Counts,
    conflicts: usize,
    unavailable: bool,
    fault: Option<Fault>,
    /// Steps of the unrelated writers.
    others: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("no member of the cluster answers")]
struct NoAnswer;

impl Default for Memory {
    fn default() -> Self {
        Self::new(Limits::STANDARD)
    }
}

impl Memory {
    /// An empty store with these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Arc::default(),
            history: History::new(0),
            limits,
        }
    }

    /// Whether it answers from now on.
    pub fn set_available(&self, available: bool) {
        self.lock().unavailable = !available;
    }

    /// What goes wrong from now on; `None`: nothing.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Waits for ever, or fails, as the fault says.
    async fn write(&self) -> Result<(), StoreError> {
        let fault = self.lock().fault;
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Full) => Err(StoreError::Full {
                path: "memory".to_owned(),
                free: 0,
            }),
            _ => Ok(()),
        }
    }

    /// Answers the next transactions with a conflict, so many of them.
    pub fn conflict_next(&self, transactions: usize) {
        self.lock().conflicts = transactions;
    }

    /// Forgets the past: only what is there now can be read.
    pub fn compact(&self) {
        let revision = self.lock().revision;
        self.history.compact(revision);
    }

    /// What was committed since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.lock().counts)
    }

    /// The last transaction.
    pub fn last_commit(&self) -> Counts {
        self.lock().last
    }

    /// How many keys there are under a prefix.
    pub fn count(&self, prefix: &str) -> usize {
        let state = self.lock();
        let from = state.entries.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unrelated writers move on, and the revision with them.
    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.lock();
        if state.unavailable {
            return Err(StoreError::Unavailable(Box::new(NoAnswer)));
        }
        match state.fault {
            Some(Fault::Engine) => return Err(StoreError::Failed(Box::new(NoAnswer))),
            Some(Fault::Closed) => return Err(StoreError::Closed),
            _ => {}
        }
        state.others = state
            .others
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.revision += (state.others >> 33) % 3;
        self.history.publish(state.revision);
        Ok(state)
    }
}

fn page(
    entries: &BTreeMap<String, Versioned>,
    past: &BTreeMap<String, Option<Versioned>>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    revision: Revision,
) -> Page {
    let under = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
    let mut all: BTreeMap<&str, &Versioned> = entries
        .range(prefix.to_owned()..)
        .take_while(|(key, _)| key.starts_with(prefix))
        .filter(|(key, _)| under(key))
        .map(|(key, held)| (key.as_str(), held))
        .collect();
    for (key, old) in past.iter().filter(|(key, _)| under(key)) {
        match old {
            Some(old) => all.insert(key, old),
            None => all.remove(key.as_str()),
        };
    }
    let more = all.len() > limit;
    let entries = all.into_iter().take(limit).map(|(key, held)| Entry {
        key: key.to_owned(),
        held: held.clone(),
    });
    Page {
        revision,
        entries: entries.collect(),
        more,
    }
}

#[async_trait]
impl Store for Memory {
    fn limits(&self) -> Limits {
        self.limits
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.open()?.revision)
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.open()?.entries.get(key).cloned())
    }

    async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Versioned>, StoreError> {
        let state = self.open()?;
        let past = self.history.undo(key, at)?;
        let held = state.entries.get(key);
        Ok(past.get(key).cloned().unwrap_or_else(|| held.cloned()))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let state = self.open()?;
        let past = BTreeMap::new();
        Ok(page(
            &state.entries,
            &past,
            prefix,
            after,
            limit,
            state.revision,
        ))
    }

    async fn range_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Page, StoreError> {
        let state = self.open()?;
        let past = self.history.undo(prefix, at)?;
        Ok(page(&state.entries, &past, prefix, after, limit, at))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.write().await?;
        self.open().map(drop)
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check(self.limits)?;
        self.write().await?;
        let mut state = self.open()?;
        if state.conflicts > 0 {
            state.conflicts -= 1;
            return Ok(Outcome::Conflict);
        }
        for (key, expect) in &txn.compares {
            if Expect::from(&state.entries.get(key).cloned()) != *expect {
                return Ok(Outcome::Conflict);
            }
        }
        state.counts.transactions += 1;
        state.counts.operations = state.counts.operations.max(txn.operations());
        state.counts.bytes = state.counts.bytes.max(txn.bytes());
        state.last = Counts {
            transactions: 1,
            operations: txn.operations(),
            bytes: txn.bytes(),
        };
        let writes = txn.into_writes();
        if writes.is_empty() {
            let revision = state.revision;
            return Ok(Outcome::Committed { revision });
        }
        state.revision += 1;
        let revision = state.revision;
        let writes = writes.into_iter().map(|(key, value)| {
            let new = value.as_deref().map(Into::into);
            let old = match value {
                Some(value) => {
                    let held = Versioned { revision, value };
                    state.entries.insert(key.clone(), held)
                }
                None => state.entries.remove(&key),
            };
            Write { key, old, new }
        });
        let writes = writes.collect();
        self.history.add(revision, writes);
        self.history.publish(revision);
        Ok(Outcome::Committed { revision })
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let state = self.open()?;
        let entries = state.entries.iter().map(|(key, held)| Entry {
            key: key.clone(),
            held: held.clone(),
        });
        Ok(Box::new(Frozen {
            revision: state.revision,
            entries: entries.collect(),
        }))
    }

    fn watch(&self, prefix: &str, after: Revision) -> Changes {
        self.history.watch(prefix, after)
    }
}

/// A copy of all entries.
struct Frozen {
    revision: Revision,
    entries: Vec<Entry>,
}

#[async_trait]
impl Snapshot for Frozen {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        let rest = self.entries.split_off(self.entries.len().min(100));
        Ok(std::mem::replace(&mut self.entries, rest))
    }
}
