//! The one task that adds records: each batch of what waits is one transaction, one flush.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use voipfleet_protocol::audit::{Hash, Kind, Link, Record};

use super::AuditError;
use crate::clock::Clock;
use crate::errors::chain;
use crate::records::{self, Read};
use crate::store::{Expect, Store, StoreError, Transaction, keys, transact_at};

/// Records that share one transaction: each takes three operations, the end of the log two.
const GROUP: usize = 32;
/// Records in one read.
const PAGE: usize = 1000;

/// A record, and its waiting caller.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) record: Record,
    pub(super) answer: oneshot::Sender<Result<u64, AuditError>>,
}

/// The end of the log, as it was last written or read.
#[derive(Debug, Clone, Copy)]
struct Head {
    link: Link,
    expect: Expect,
}

pub(super) struct Writer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    head: Option<Head>,
}

impl Writer {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            head: None,
        }
    }

    pub(super) async fn run(mut self, mut appends: mpsc::Receiver<Append>) {
        let mut batch = Vec::new();
        while appends.recv_many(&mut batch, GROUP).await > 0 {
            let records = batch.iter().map(|append| append.record.clone()).collect();
            let written = self.write(records).await;
            if let Err(error) = &written {
                tracing::error!(error = %chain(error), "the audit log cannot be written");
            }
            for (append, offset) in batch.drain(..).zip(0u64..) {
                let answer = written.clone().map(|first| first.saturating_add(offset));
                // The caller may have gone; the record is written all the same.
                let _ = append.answer.send(answer);
            }
        }
    }

    /// The number of the first of the records.
    async fn write(&mut self, records: Vec<Record>) -> Result<u64, AuditError> {
        // Until the commit is known to have succeeded, the end of the log has to be read again.
        let known = Mutex::new(self.head.take());
        let store = Arc::clone(&self.store);
        let appended = transact_at(store.as_ref(), "the audit log", async |mut tx| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner).take();
            let head = match known {
                Some(head) => head,
                None => self.load().await?,
            };
            let link = self.chained(&mut tx, head, &records)?;
            Ok(tx.done((head.link.seq.saturating_add(1), link)))
        })
        .await;
        let ((first, link), revision) = appended.map_err(|error| match error {
            StoreError::Contended { .. } => AuditError::Contended,
            error => AuditError::Store(Arc::new(error)),
        })?;
        let expect = revision.map(Expect::At);
        self.head = expect.map(|expect| Head { link, expect });
        Ok(first)
    }

    /// Adds records to a transaction; returns the new end of the log.
    fn chained(
        &self,
        tx: &mut Transaction<'_>,
        head: Head,
        records: &[Record],
    ) -> Result<Link, StoreError> {
        tx.expect(keys::AUDIT_HEAD, head.expect);
        let mut link = head.link;
        let at_ms = self.clock.now_ms();
        for record in records {
            let record = Record {
                seq: link.seq.saturating_add(1),
                prev: link.hash,
                at_ms,
                ..record.clone()
            };
            let key = keys::audit(record.seq);
            let bytes = records::to_json(&key, &record)?;
            link = Link {
                seq: record.seq,
                hash: Hash::of(&bytes),
            };
            match (record.kind, record.asked) {
                (Kind::Asked, _) => tx.put(keys::audit_open(record.seq), "1"),
                (Kind::Result, Some(asked)) => tx.delete(keys::audit_open(asked)),
                _ => {}
            }
            // Nothing may stand there: a log whose head was set back is not written over.
            tx.expect(key.clone(), Expect::Absent);
            tx.put(key, bytes);
        }
        tx.put_json(keys::AUDIT_HEAD, &link)?;
        Ok(link)
    }

    async fn load(&self) -> Result<Head, StoreError> {
        let store = self.store.as_ref();
        let read: Option<Read<Link>> = records::read(store, keys::AUDIT_HEAD).await?;
        let (mut link, expect) = match read {
            Some(read) => (read.record, Expect::At(read.revision)),
            None => (super::anchor(store).await?, Expect::Absent),
        };
        // Records after the head: it was set back or removed, or another process wrote.
        let mut after = keys::audit(link.seq);
        loop {
            let page = store.range(keys::ALL_AUDIT, Some(&after), PAGE).await?;
            for entry in &page.entries {
                let seq = keys::number(&entry.key).unwrap_or_default();
                let hash = Hash::of(&entry.held.value);
                tracing::error!(
                    seq,
                    "audit log has records after its recorded end; check it: voipctl audit verify"
                );
                link = Link { seq, hash };
            }
            match page.entries.last() {
                Some(last) if page.more => after.clone_from(&last.key),
                _ => return Ok(Head { link, expect }),
            }
        }
    }
}
