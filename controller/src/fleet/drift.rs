//! One node's drift records in the store: each once, the oldest dropped.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use voipfleet_proto::v1::DriftRecord;

use crate::records::{self, NodeId};
use crate::store::{Outcome, Store, StoreError, Txn, keys};

/// Records in one transaction, which may remove as many old ones.
const AT_ONCE: usize = 40;
/// Records kept of one node.
const KEPT: usize = 1000;

/// The records of a node, as this session knows them.
#[derive(Debug)]
pub(super) struct DriftLog {
    id: NodeId,
    by_sequence: BTreeMap<u64, String>,
    by_id: HashMap<String, Known>,
}

/// A record that is stored.
#[derive(Debug, Clone, Copy)]
struct Known {
    sequence: u64,
    received_ms: u64,
}

impl DriftLog {
    /// Reads what is stored of a node.
    pub(super) async fn load(store: &dyn Store, id: &NodeId) -> Result<Self, StoreError> {
        let mut log = Self {
            id: id.clone(),
            by_sequence: BTreeMap::new(),
            by_id: HashMap::new(),
        };
        let prefix = keys::node_drift(&id.site, &id.node);
        for entry in store.all(&prefix, 2 * KEPT).await? {
            let record: DriftRecord = records::from_protobuf(&entry.key, &entry.held)?;
            let sequence = entry.key.strip_prefix(&prefix).and_then(|n| n.parse().ok());
            if let Some(sequence) = sequence {
                let received_ms = record.received_ms;
                log.note(
                    record.id,
                    Known {
                        sequence,
                        received_ms,
                    },
                );
            }
        }
        Ok(log)
    }

    fn note(&mut self, id: String, known: Known) {
        self.by_id.insert(id.clone(), known);
        self.by_sequence.insert(known.sequence, id);
    }

    /// The place of a record; a new one comes last.
    fn place(&self, id: &str, now_ms: u64) -> Known {
        let last = self.by_sequence.last_key_value();
        let new = Known {
            sequence: last.map_or(1, |(last, _)| last + 1),
            received_ms: now_ms,
        };
        self.by_id.get(id).copied().unwrap_or(new)
    }

    /// Stores records that were received at `now_ms`, each with an id; answers the ids that are on
    /// disk now. A record that is known already is replaced, and was received when it first came:
    /// it may have been repaired meanwhile.
    pub(super) async fn store(
        &mut self,
        store: &dyn Store,
        mut records: Vec<DriftRecord>,
        now_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::with_capacity(records.len());
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(AT_ONCE));
            ids.extend(self.store_some(store, records, now_ms).await?);
            records = rest;
        }
        Ok(ids)
    }

    async fn store_some(
        &mut self,
        store: &dyn Store,
        records: Vec<DriftRecord>,
        now_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        let mut txn = Txn::new();
        let mut ids = Vec::with_capacity(records.len());
        for mut record in records {
            let place = self.place(&record.id, now_ms);
            record.received_ms = place.received_ms;
            let key = keys::drift(&self.id.site, &self.id.node, place.sequence);
            txn = txn.put(key, record.encode_to_vec());
            self.note(record.id.clone(), place);
            ids.push(record.id);
        }
        while self.by_sequence.len() > KEPT {
            if let Some((sequence, id)) = self.by_sequence.pop_first() {
                self.by_id.remove(&id);
                let key = keys::drift(&self.id.site, &self.id.node, sequence);
                txn.puts.retain(|(put, _)| *put != key);
                txn = txn.delete(key);
            }
        }
        // A node that was deleted meanwhile must not leave records behind.
        let node_key = keys::node(&self.id.site, &self.id.node);
        let node = store.get(&node_key).await?;
        if node.is_none() {
            return Ok(Vec::new());
        }
        txn = txn.expect(node_key, (&node).into());
        match store.commit(txn).await? {
            Outcome::Committed { .. } => Ok(ids),
            // Deleted in this moment: the session ends by itself.
            Outcome::Conflict => Ok(Vec::new()),
        }
    }
}
