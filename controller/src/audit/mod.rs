//! The audit log: a hash chain in the store, written before a change begins and
//! before its result is answered.

pub mod check;
mod event;
mod rate_limit;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use voipfleet_protocol::audit::{Ending, Kind, Link, Record, text};
use voipfleet_protocol::identity::rights::Call;

pub use event::Event;
use rate_limit::Flood;
pub(crate) use rate_limit::WINDOW as RATE_WINDOW;
use writer::{Append, Writer};

use crate::clock::{self, Clock};
use crate::errors::chain;
use crate::records::{self, Read};
use crate::store::{Store, StoreError, Txn, keys};

/// Records that wait for the writer; more callers than this wait before they queue.
const QUEUE: usize = 1024;
/// The longest text of a record, characters.
const MAX_TEXT: usize = 500;
/// The most names in a record.
const MAX_NAMES: usize = 200;
/// Open records that are closed at once at the start.
const PAGE: usize = 256;

/// The log. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct Audit {
    queue: mpsc::Sender<Append>,
    /// By operator.
    flood: Arc<Flood>,
    /// By what the events are about.
    events: Arc<Flood>,
    clock: Arc<dyn Clock>,
}

/// A record that is not in the log, as far as is known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The store failed.
    #[error("the audit log cannot be written")]
    Store(#[source] Arc<StoreError>),
    /// Another process writes the log of this store.
    #[error("the audit log is being written by another controller")]
    Contended,
    /// The controller is stopping.
    #[error("the audit log is closed")]
    Closed,
}

impl AuditError {
    /// That the store's disk is full, where that is why.
    pub fn full_disk(&self) -> Option<String> {
        match self {
            AuditError::Store(error) if matches!(**error, StoreError::Full { .. }) => {
                Some(error.to_string())
            }
            _ => None,
        }
    }
}

/// The last record; the default where there is none.
pub async fn head(store: &dyn Store) -> Result<Link, StoreError> {
    let read: Option<Read<Link>> = records::read(store, keys::AUDIT_HEAD).await?;
    Ok(read.map(|read| read.record).unwrap_or_default())
}

/// What is before the first record: not the default once old records were pruned.
pub async fn anchor(store: &dyn Store) -> Result<Link, StoreError> {
    let read: Option<Read<Link>> = records::read(store, keys::AUDIT_ANCHOR).await?;
    Ok(read.map(|read| read.record).unwrap_or_default())
}

impl Audit {
    /// Opens the log of a store, and closes what an earlier run left open: it is unknown how
    /// that ended. The chain is checked in the background.
    pub async fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (queue, appends) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&store), Arc::clone(&clock));
        tokio::spawn(writer.run(appends));
        let audit = Self {
            queue,
            flood: Arc::default(),
            events: Arc::default(),
            clock,
        };
        let restored: Option<Read<u64>> = records::read(store.as_ref(), keys::RESTORED).await?;
        audit.close_open(store.as_ref(), restored.is_some()).await?;
        if let Some(read) = restored {
            audit.note_restore(store.as_ref(), read.record).await?;
        }
        tokio::spawn(check::at_start(store));
        Ok(audit)
    }

    /// Records once that the store was restored from a backup.
    async fn note_restore(&self, store: &dyn Store, taken_ms: u64) -> Result<(), StoreError> {
        let taken = clock::show(taken_ms);
        let event = Event::new("Restored").detail(format!(
            "from a backup of {taken}: what was done after that is not in this log"
        ));
        self.note(event).await;
        store.commit(Txn::new().delete(keys::RESTORED)).await?;
        Ok(())
    }

    /// Closes the records of calls whose end is unknown. Of a backup that was `restored`, the call
    /// that took it was open, and is known to have ended well.
    async fn close_open(&self, store: &dyn Store, restored: bool) -> Result<(), StoreError> {
        loop {
            let page = store.range(keys::ALL_AUDIT_OPEN, None, PAGE).await?;
            for entry in &page.entries {
                let seq = keys::number(&entry.key).unwrap_or_default();
                let asked = store.get(&keys::audit(seq)).await?;
                let asked = asked.and_then(|held| serde_json::from_slice(&held.value).ok());
                let backup = |asked: &Record| restored && asked.what == Call::Backup.as_str();
                let record = match asked {
                    Some(asked) if backup(&asked) => Record {
                        message: text("this store was restored from it"),
                        ..ended(asked, Ending::Done)
                    },
                    Some(asked) => Record {
                        message: text("the controller ended before the result was known"),
                        ..ended(asked, Ending::Unknown)
                    },
                    None => Record {
                        asked: Some(seq),
                        result: Some(Ending::Unknown),
                        message: text("what was asked for is not in the log any more"),
                        ..Record::new(Kind::Result, "Unknown")
                    },
                };
                if let Err(error) = self.append(record).await {
                    tracing::error!(error = %chain(&error), "audit log: open records not closed");
                    return Ok(());
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Writes a record; answers with its number when it is on disk. `seq`, `prev` and `at_ms`
    /// are the log's own.
    pub async fn append(&self, record: Record) -> Result<u64, AuditError> {
        let (answer, written) = oneshot::channel();
        let record = bounded(record);
        let sent = self.queue.send(Append { record, answer }).await;
        sent.map_err(|_| AuditError::Closed)?;
        written.await.map_err(|_| AuditError::Closed)?
    }

    /// Writes down something that no call brought about just then. What cannot be written is
    /// logged: it has happened all the same.
    pub async fn note(&self, event: Event) {
        if let Err(error) = self.append(event.record()).await {
            tracing::error!(error = %chain(&error), "audit log: event not recorded");
        }
    }

    /// Writes down a refusal, of which an operator gets a bounded number in a minute; the rest
    /// of them become one record with their count. The call is refused even where that cannot be
    /// written.
    ///
    /// `key` is the hash of the key that the caller has proven: an earlier holder of the name, with
    /// another key, uses up nothing of its holder's.
    pub(crate) async fn refused(&self, key: &str, record: Record) {
        self.within(&self.flood, key.to_owned(), record).await;
    }

    /// Writes down an event of which there may be thousands at once: a bounded number in a minute
    /// of those about the same (`names`), and the rest of them as one record with their count.
    pub async fn note_some(&self, about: &str, event: Event) {
        let (about, record) = (about.to_owned(), event.record());
        self.within(&self.events, about, record).await;
    }

    /// Writes a record, if the window of those it belongs to has room for one more.
    async fn within(&self, flood: &Arc<Flood>, of: String, record: Record) {
        let told = flood.take(&of, &record, self.clock.now_ms());
        if let Some(more) = told.more {
            self.append_or_log(more).await;
        }
        if told.flush_later {
            let (audit, flood) = (self.clone(), Arc::clone(flood));
            tokio::spawn(async move {
                tokio::time::sleep(rate_limit::WINDOW).await;
                if let Some(more) = flood.end(&of) {
                    audit.append_or_log(more).await;
                }
            });
        }
        if told.write {
            self.append_or_log(record).await;
        }
    }

    /// Whether the holder of a key was refused so often within the minute that it has to wait.
    pub(crate) fn floods(&self, key: &str) -> bool {
        self.flood.is_full(key, self.clock.now_ms())
    }

    async fn append_or_log(&self, record: Record) {
        if let Err(error) = self.append(record).await {
            tracing::error!(error = %chain(&error), "audit log: record not written");
        }
    }
}

/// The result of what was asked for.
pub(crate) fn ended(asked: Record, result: Ending) -> Record {
    Record {
        kind: Kind::Result,
        asked: Some(asked.seq),
        result: Some(result),
        ..asked
    }
}

/// A record of bounded size.
fn bounded(mut record: Record) -> Record {
    let optional = [&mut record.detail, &mut record.message];
    for text in optional.into_iter().flatten().chain([&mut record.what]) {
        if text.chars().count() > MAX_TEXT {
            *text = text.chars().take(MAX_TEXT).collect::<String>() + "…";
        }
    }
    for names in [&mut record.sites, &mut record.objects] {
        let more = names.len().saturating_sub(MAX_NAMES);
        if more > 0 {
            names.truncate(MAX_NAMES);
            names.push(format!("and {more} more"));
        }
    }
    record
}
