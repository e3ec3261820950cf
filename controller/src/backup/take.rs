//! Takes a backup of a running store.

use crate::store::{Snapshot, Store, StoreError};

use super::format::{Header, Seal, Writer};

/// A backup that is being taken.
#[allow(missing_debug_implementations, reason = "a snapshot is any store's")]
pub struct Taking {
    snapshot: Box<dyn Snapshot>,
    writer: Option<Writer>,
    /// The header, until it is given.
    begin: Option<Vec<u8>>,
    seal: Option<Seal>,
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Value {
        key: "backup".to_owned(),
        source: error.into(),
    }
}

impl Taking {
    /// Begins: what is written to the store after this is not in it.
    pub async fn begin(store: &dyn Store, at_ms: u64, ca: [u8; 32]) -> Result<Self, StoreError> {
        let snapshot = store.snapshot().await?;
        let mut writer = Writer::default();
        let header = Header::new(snapshot.revision(), at_ms, ca);
        Ok(Self {
            begin: Some(writer.header(&header).map_err(unwritable)?),
            writer: Some(writer),
            snapshot,
            seal: None,
        })
    }

    /// The next lines of the file; none: that was all.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(begin) = self.begin.take() {
            return Ok(Some(begin));
        }
        if self.writer.is_none() {
            return Ok(None);
        }
        let entries = self.snapshot.next().await?;
        let Some(mut writer) = self.writer.take() else {
            return Ok(None);
        };
        if entries.is_empty() {
            let (line, seal) = writer.seal().map_err(unwritable)?;
            self.seal = Some(seal);
            return Ok(Some(line));
        }
        let mut lines = Vec::new();
        for entry in entries {
            lines.extend(writer.entry(entry).map_err(unwritable)?);
        }
        self.writer = Some(writer);
        Ok(Some(lines))
    }

    /// Entries of the whole backup, once its last lines were given.
    pub fn entries(&self) -> u64 {
        self.seal.as_ref().map_or(0, |seal| seal.entries)
    }
}

/// Writes a whole backup; answers how many entries of the store are in it.
pub async fn take_into(
    store: &dyn Store,
    at_ms: u64,
    ca: [u8; 32],
    out: &mut (dyn std::io::Write + Send),
) -> Result<u64, TakeError> {
    let mut taking = Taking::begin(store, at_ms, ca).await?;
    while let Some(lines) = taking.next().await? {
        out.write_all(&lines)?;
    }
    out.flush()?;
    Ok(taking.entries())
}

/// Why a backup was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file failed.
    #[error("the backup cannot be written")]
    Io(#[from] std::io::Error),
}
