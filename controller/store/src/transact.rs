//! Read, decide, commit; again after a conflict. The one retry loop of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::parts::{self, Parts};
use crate::{Expect, Outcome, Revision, Store, StoreError, Txn, Versioned, records};

/// Attempts before a transaction gives up. The losers of a conflict wait up to twice as long
/// each time: all of them together half a second or so.
const ATTEMPTS: u32 = 16;
/// Replaced parts that go with the transaction that replaces them; the rest is collected later.
const REPLACED: usize = 40;
/// The first wait after a conflict, at most. The attempt after the first conflict does not wait.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// A transaction that is being put together. What it reads it expects unchanged.
#[derive(Debug)]
pub struct Transaction<'s> {
    store: &'s dyn Store,
    expects: BTreeMap<String, Expect>,
    writes: BTreeMap<String, Option<Vec<u8>>>,
    /// Immutable values, which may be written before the rest.
    staged: BTreeMap<String, Vec<u8>>,
    /// Keys of parts that stay as long as the expectations hold.
    present: BTreeSet<String>,
    /// Values that were read, and are in parts.
    in_parts: BTreeMap<String, Parts>,
}

/// The end of one attempt.
#[derive(Debug)]
pub struct Decision<'s, T> {
    transaction: Transaction<'s>,
    value: T,
}

impl<'s> Transaction<'s> {
    /// Nothing read, nothing written.
    pub fn new(store: &'s dyn Store) -> Self {
        Self {
            store,
            expects: BTreeMap::new(),
            writes: BTreeMap::new(),
            staged: BTreeMap::new(),
            present: BTreeSet::new(),
            in_parts: BTreeMap::new(),
        }
    }

    /// The store, for reads that need not be expected unchanged.
    pub fn store(&self) -> &'s dyn Store {
        self.store
    }

    /// Reads a value.
    pub async fn get(&mut self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let held = self.store.get(key).await?;
        self.expect(key, Expect::from(&held));
        Ok(held)
    }

    /// Reads a value, whether it is whole or in parts.
    pub async fn get_large(&mut self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let Some((parts, held)) = parts::get(self.store, key).await? else {
            self.expect(key, Expect::Absent);
            return Ok(None);
        };
        self.expect(key, Expect::At(held.revision));
        if let Some(parts) = parts {
            self.present.extend(parts.keys());
            self.in_parts.insert(key.to_owned(), parts);
        }
        Ok(Some(held))
    }

    /// Reads a JSON record, whether it is whole or in parts.
    pub async fn read<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, StoreError> {
        let held = self.get_large(key).await?;
        held.map(|held| records::from_json(key, &held)).transpose()
    }

    /// Expects a key as it was read before. The first expectation of a key counts.
    pub fn expect(&mut self, key: impl Into<String>, expect: Expect) {
        self.expects.entry(key.into()).or_insert(expect);
    }

    /// Writes a value.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    /// Writes a small JSON record.
    pub fn put_json<T: Serialize>(&mut self, key: &str, record: &T) -> Result<(), StoreError> {
        let value = records::to_json(key, record)?;
        self.put(key, value);
        Ok(())
    }

    /// Writes a value of any size. One that is too long for its key goes into parts, which
    /// belong to `owner`: a key that this transaction expects as it was read, and writes.
    pub fn put_large(&mut self, owner: &str, key: &str, value: Vec<u8>) {
        let before = self.in_parts.get(key).filter(|_| owner == key);
        let mut replaced = before.map(Parts::keys).unwrap_or_default();
        if value.len() <= parts::INLINE_BYTES {
            self.put(key, value);
        } else {
            let parts = self.stage_parts(owner, &value);
            let kept: BTreeSet<String> = parts.keys().into_iter().collect();
            replaced.retain(|part| !kept.contains(part));
            self.put(key, parts.encode());
        }
        for part in replaced.into_iter().take(REPLACED) {
            self.delete(part);
        }
    }

    /// Writes a JSON record of any size; see [`Self::put_large`].
    pub fn put_large_json<T: Serialize>(
        &mut self,
        owner: &str,
        key: &str,
        record: &T,
    ) -> Result<(), StoreError> {
        self.put_large(owner, key, records::to_json(key, record)?);
        Ok(())
    }

    /// Cuts a value into parts that belong to `owner`, and writes those that are new.
    pub fn stage_parts(&mut self, owner: &str, value: &[u8]) -> Parts {
        let (parts, chunks) = Parts::cut(owner, value);
        for (key, chunk) in chunks {
            if !self.present.contains(&key) {
                self.stage(key, chunk);
            }
        }
        parts
    }

    /// These parts stay as long as what the transaction expects holds.
    pub fn keep_parts(&mut self, parts: &Parts) {
        self.present.extend(parts.keys());
    }

    /// Writes a value that never changes under its key, for instance one whose key holds its
    /// digest. It may be written although the rest of the transaction is not.
    pub fn stage(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.staged.insert(key.into(), value.into());
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.writes.insert(key.into(), None);
    }

    /// Removes a key with the parts that its value was in when it was read here.
    pub fn delete_large(&mut self, key: &str) {
        for part in self.in_parts.get(key).map(Parts::keys).unwrap_or_default() {
            self.delete(part);
        }
        self.delete(key);
    }

    /// Whether anything would be written.
    pub fn writes(&self) -> bool {
        !self.writes.is_empty() || !self.staged.is_empty()
    }

    /// Commits; `None` after a conflict. Staged values that do not fit into the same transaction
    /// are written before it, in as many as it takes.
    pub async fn commit(self) -> Result<Option<Revision>, StoreError> {
        let mut txn = Txn {
            compares: self.expects.into_iter().collect(),
            ..Txn::new()
        };
        for (key, value) in self.writes {
            match value {
                Some(value) => txn.puts.push((key, value)),
                None => txn.deletes.push(key),
            }
        }
        let limits = self.store.limits();
        let small = txn.clone();
        txn.puts.extend(self.staged.clone());
        let txn = if txn.operations() <= limits.operations && txn.bytes() <= limits.bytes {
            txn
        } else {
            let staged = self.staged.into_iter();
            write_batched(self.store, staged.map(|(key, value)| (key, Some(value)))).await?;
            small
        };
        match self.store.commit(txn).await? {
            Outcome::Committed { revision } => Ok(Some(revision)),
            Outcome::Conflict => Ok(None),
        }
    }

    /// Ends an attempt: commits what was put together, then returns `value`.
    pub fn done<T>(self, value: T) -> Decision<'s, T> {
        Decision {
            transaction: self,
            value,
        }
    }
}

/// Writes values, and removes keys whose value is `None`, in as many transactions as it takes.
/// Each of them is one moment, all of them together are not.
pub async fn write_batched(
    store: &dyn Store,
    writes: impl IntoIterator<Item = (String, Option<Vec<u8>>)>,
) -> Result<(), StoreError> {
    let limits = store.limits();
    let mut txn = Txn::new();
    for (key, value) in writes {
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if txn.operations() == limits.operations || txn.bytes() + size > limits.bytes {
            store.commit(std::mem::take(&mut txn)).await?;
        }
        txn = match value {
            Some(value) => txn.put(key, value),
            None => txn.delete(key),
        };
    }
    if txn.operations() > 0 {
        store.commit(txn).await?;
    }
    Ok(())
}

/// Runs `decide` until what it puts together is committed, and returns its value. It reads
/// through the [`Transaction`], writes into it, and ends with [`Transaction::done`]; where it
/// writes nothing, nothing is committed. An error of its own ends the attempts.
///
/// `what` names what is contended for, in the error after too many conflicts.
pub async fn transact<'s, T, E, F, Fut>(store: &'s dyn Store, what: &str, decide: F) -> Result<T, E>
where
    E: From<StoreError>,
    F: FnMut(Transaction<'s>) -> Fut,
    Fut: Future<Output = Result<Decision<'s, T>, E>>,
{
    Ok(transact_at(store, what, decide).await?.0)
}

/// The same, with the revision that was committed; `None`: nothing was written.
pub async fn transact_at<'s, T, E, F, Fut>(
    store: &'s dyn Store,
    what: &str,
    mut decide: F,
) -> Result<(T, Option<Revision>), E>
where
    E: From<StoreError>,
    F: FnMut(Transaction<'s>) -> Fut,
    Fut: Future<Output = Result<Decision<'s, T>, E>>,
{
    for attempt in 0..ATTEMPTS {
        let Decision { transaction, value } = decide(Transaction::new(store)).await?;
        if !transaction.writes() {
            return Ok((value, None));
        }
        if let Some(revision) = transaction.commit().await? {
            return Ok((value, Some(revision)));
        }
        tokio::time::sleep(wait(attempt)).await;
    }
    Err(E::from(StoreError::Contended {
        what: what.to_owned(),
    }))
}

/// How long to wait after a conflict: a random time, so that of two that collide one goes first.
fn wait(attempt: u32) -> Duration {
    let Some(doubled) = attempt.checked_sub(1) else {
        return Duration::ZERO;
    };
    let most = FIRST_WAIT.saturating_mul(1 << doubled.min(16));
    let share = RandomState::new().hash_one(attempt) % 256;
    most.min(LONGEST_WAIT)
        .mul_f64(f64::from(u8::try_from(share).unwrap_or(u8::MAX)) / 256.0)
}

#[cfg(test)]
#[path = "transact_tests.rs"]
mod tests;
