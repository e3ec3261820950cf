//! Every entry of the embedded store as of one moment, read bit by bit while writes go on.
//!
//! Before a write the old value of a key that is still to be read is set aside: what a reader
//! has not come to yet stays as it was when it began.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::frame;
use super::gate::{self, Gate};
use crate::{Entry, Revision, Snapshot, StoreError};

/// What one read takes at most: so many entries, or bytes.
const PAGE_ENTRIES: usize = 256;
const PAGE_BYTES: usize = 1024 * 1024;
/// Old values that are set aside for a reader, bytes. One that is too slow for the writes is
/// told so.
const ASIDE_BYTES: usize = 64 * 1024 * 1024;

/// What a snapshot still needs of the past.
#[derive(Debug, Default)]
struct Aside {
    /// The last key that was read.
    cursor: Vec<u8>,
    /// Values as they were, framed, of keys after it; none: there was none.
    values: BTreeMap<Vec<u8>, Option<sled::IVec>>,
    bytes: usize,
    lost: bool,
}

/// The snapshots that are being read.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshots(Arc<Mutex<Vec<Weak<Mutex<Aside>>>>>);

impl Snapshots {
    /// Sets aside what `keys` hold in `tree`, where a snapshot needs it. Called by the writer,
    /// which holds the gate, before it writes.
    pub(super) fn keep<'k>(
        &self,
        tree: &sled::Tree,
        keys: &(impl Iterator<Item = &'k str> + Clone),
    ) -> Result<(), StoreError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        for one in all.iter().filter_map(Weak::upgrade) {
            let mut aside = one.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys.clone() {
                aside.keep(tree, key.as_bytes())?;
            }
        }
        Ok(())
    }

    fn open(&self) -> Arc<Mutex<Aside>> {
        let aside = Arc::new(Mutex::new(Aside::default()));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::downgrade(&aside));
        aside
    }
}

impl Aside {
    fn keep(&mut self, tree: &sled::Tree, key: &[u8]) -> Result<(), StoreError> {
        if self.lost || key <= self.cursor.as_slice() || self.values.contains_key(key) {
            return Ok(());
        }
        let old = tree.get(key)?;
        self.bytes += key.len() + old.as_ref().map_or(0, |old| old.len());
        self.values.insert(key.to_vec(), old);
        if self.bytes > ASIDE_BYTES {
            self.lost = true;
            self.values = BTreeMap::new();
        }
        Ok(())
    }
}

/// A snapshot of the embedded store.
#[derive(Debug)]
pub(super) struct Frozen {
    gate: Gate,
    aside: Arc<Mutex<Aside>>,
    revision: Revision,
    done: bool,
}

impl Frozen {
    /// As the store is now. Called with the gate held for reading: no write is half-way.
    pub(super) fn new(gate: Gate, snapshots: &Snapshots, revision: Revision) -> Self {
        Self {
            gate,
            aside: snapshots.open(),
            revision,
            done: false,
        }
    }
}

/// Framed values by key.
type Raw = BTreeMap<Vec<u8>, sled::IVec>;

/// What the tree holds after `cursor`, up to a page full of it; whether that is all.
fn page(tree: &sled::Tree, cursor: &[u8]) -> Result<(Raw, bool), StoreError> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    let start = Bound::Excluded(cursor);
    for item in tree.range::<&[u8], _>((start, Bound::Unbounded)) {
        let (key, framed) = item?;
        // The store's own keys.
        if key.starts_with(b"\0") {
            continue;
        }
        bytes += framed.len();
        found.insert(key.to_vec(), framed);
        if found.len() >= PAGE_ENTRIES || bytes >= PAGE_BYTES {
            return Ok((found, false));
        }
    }
    Ok((found, true))
}

/// Reads on; whether that was the end.
fn read(tree: &sled::Tree, aside: &mut Aside) -> Result<(Vec<Entry>, bool), StoreError> {
    if aside.lost {
        return Err(StoreError::Outrun);
    }
    let (mut found, end) = page(tree, &aside.cursor)?;
    let old = if end {
        std::mem::take(&mut aside.values)
    } else {
        let last = found.keys().next_back().cloned().unwrap_or_default();
        let mut later = aside.values.split_off(&last);
        // What is at the last key itself belongs to this page.
        let mut old = std::mem::take(&mut aside.values);
        if let Some(value) = later.remove(&last) {
            old.insert(last.clone(), value);
        }
        aside.values = later;
        aside.cursor = last;
        old
    };
    for (key, value) in old {
        aside.bytes = aside
            .bytes
            .saturating_sub(key.len() + value.as_ref().map_or(0, |old| old.len()));
        match value {
            Some(value) => found.insert(key, value),
            None => found.remove(&key),
        };
    }
    let entries = found.into_iter().map(|(key, framed)| {
        Ok(Entry {
            held: frame::decode(&key, &framed)?,
            key: gate::text(&key)?,
        })
    });
    Ok((entries.collect::<Result<_, StoreError>>()?, end))
}

#[async_trait]
impl Snapshot for Frozen {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        while !self.done {
            let (gate, aside) = (Arc::clone(&self.gate), Arc::clone(&self.aside));
            let reading = tokio::task::spawn_blocking(move || {
                let tree = gate.read().unwrap_or_else(PoisonError::into_inner);
                let mut aside = aside.lock().unwrap_or_else(PoisonError::into_inner);
                read(tree.as_ref().ok_or(StoreError::Closed)?, &mut aside)
            });
            let (entries, end) = reading.await.map_err(|_| StoreError::Closed)??;
            self.done = end;
            // A page of what came after the snapshot is empty, and not the end.
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Embedded, Store as _, Txn};

    fn txn(writes: &[(u16, Option<u8>)]) -> Txn {
        let mut txn = Txn::new();
        for (key, value) in writes {
            let key = format!("k/{key:05}");
            txn = match value {
                Some(value) => txn.put(key, vec![*value]),
                None => txn.delete(key),
            };
        }
        txn
    }

    async fn all(snapshot: &mut dyn Snapshot) -> Vec<Entry> {
        let mut all = Vec::new();
        loop {
            let page = snapshot.next().await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    type Writes = Vec<Vec<(u16, Option<u8>)>>;

    fn writes() -> impl Strategy<Value = Writes> {
        let write = (0..2_000u16, prop::option::weighted(0.7, any::<u8>()));
        prop::collection::vec(prop::collection::vec(write, 1..100), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever is written between its pages: a snapshot is what was there when it began.
        #[test]
        fn it_is_one_moment(first in writes(), between in writes()) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let store = Embedded::open(dir.path()).unwrap();
                let every: Vec<_> = (0..1_000).map(|key| (key * 2, Some(1))).collect();
                for some in every.chunks(100) {
                    store.commit(txn(some)).await.unwrap();
                }
                for writes in &first {
                    store.commit(txn(writes)).await.unwrap();
                }
                let wanted = store.all("", 10_000).await.unwrap();
                let mut snapshot = store.snapshot().await.unwrap();
                let newest = store.revision().await.unwrap();
                assert_eq!(snapshot.revision(), newest);
                let mut found = Vec::new();
                for writes in &between {
                    store.commit(txn(writes)).await.unwrap();
                    found.extend(snapshot.next().await.unwrap());
                }
                found.extend(all(snapshot.as_mut()).await);
                assert!(found == wanted);
                store.close().await;
            });
        }
    }

    /// Memory is bounded: a reader that does not come on is told, and the next one is not.
    #[tokio::test]
    async fn a_slow_reader_is_outrun() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let long = vec![0; 1_000_000];
        for key in 0..80 {
            let txn = Txn::new().put(format!("k/{key}"), long.clone());
            store.commit(txn).await.unwrap();
        }
        let mut snapshot = store.snapshot().await.unwrap();
        snapshot.next().await.unwrap();
        for key in 0..80 {
            let txn = Txn::new().delete(format!("k/{key}"));
            store.commit(txn).await.unwrap();
        }
        let error = snapshot.next().await.unwrap_err();
        assert!(matches!(error, StoreError::Outrun), "{error}");
        let mut snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.next().await.unwrap(), []);
        store.close().await;
    }
}
