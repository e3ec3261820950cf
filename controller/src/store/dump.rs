//! Export and import: one JSON object a line.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::{Expect, Outcome, Store, StoreError, Txn};

/// Entries in one read or transaction of an export or import.
const BATCH: usize = 256;
const FORMAT: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    voipfleet_export: u32,
}

/// The last line: without it the file is cut short.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    entries: u64,
}

/// Every other line. Revisions are the store's own and are not carried over.
///
/// The value is `text` where it is text, so that people can read and compare an export.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// Why an export or import did not work.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file or pipe failed.
    #[error("the export cannot be read or written")]
    Io(#[from] std::io::Error),
    /// A line is not one of an export.
    #[error("line {line} is not a line of an export")]
    Line {
        /// From 1.
        line: u64,
        /// The parser's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The last line is missing or counts otherwise.
    #[error("the export is cut short: {found} entries were read, and its last line is missing")]
    Short {
        /// Entries read.
        found: u64,
    },
    /// The store already holds something.
    #[error("the store is not empty; import into a new data directory")]
    NotEmpty,
    /// Somebody else wrote meanwhile.
    #[error("the store was written to during the import")]
    Conflict,
}

/// Writes every entry, by ascending key. Writes that happen meanwhile may or may not be in it.
pub async fn export(store: &dyn Store, out: &mut (dyn Write + Send)) -> Result<u64, DumpError> {
    write_line(
        out,
        &Header {
            voipfleet_export: FORMAT,
        },
    )?;
    let mut entries = 0;
    let mut after: Option<String> = None;
    loop {
        let page = store.range("", after.as_deref(), BATCH).await?;
        for entry in &page.entries {
            let (text, hex) = match String::from_utf8(entry.held.value.clone()) {
                Ok(text) => (Some(text), None),
                Err(bytes) => (None, Some(hex::encode(bytes.as_bytes()))),
            };
            let key = entry.key.clone();
            write_line(out, &Line { key, text, hex })?;
            entries += 1;
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            break;
        }
    }
    write_line(out, &Footer { entries })?;
    out.flush()?;
    Ok(entries)
}

fn write_line(out: &mut (dyn Write + Send), line: &impl Serialize) -> Result<(), DumpError> {
    let mut text = serde_json::to_vec(line).map_err(std::io::Error::other)?;
    text.push(b'\n');
    out.write_all(&text)?;
    Ok(())
}

/// Reads an export into an empty store. The file is checked as a whole before anything is
/// written.
pub async fn import(store: &dyn Store, input: impl BufRead) -> Result<u64, DumpError> {
    let entries = read(input)?;
    if !store.range("", None, 1).await?.entries.is_empty() {
        return Err(DumpError::NotEmpty);
    }
    let count = entries.len() as u64;
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let mut txn = Txn::new();
        for (key, value) in entries.by_ref().take(BATCH) {
            txn = txn.expect(key.clone(), Expect::Absent).put(key, value);
        }
        if store.commit(txn).await? == Outcome::Conflict {
            return Err(DumpError::Conflict);
        }
    }
    Ok(count)
}

fn read(input: impl BufRead) -> Result<Vec<(String, Vec<u8>)>, DumpError> {
    let mut lines = input.lines().zip(1..);
    let broken = |line| move |source| DumpError::Line { line, source };
    let (header, _) = lines.next().ok_or(DumpError::Short { found: 0 })?;
    let header: Header = serde_json::from_str(&header?).map_err(|error| broken(1)(error.into()))?;
    if header.voipfleet_export != FORMAT {
        return Err(broken(1)("its format is unknown to this version".into()));
    }
    let mut entries = Vec::new();
    let mut footer: Option<Footer> = None;
    for (text, line) in lines {
        let text = text?;
        if footer.is_some() {
            return Err(broken(line)("the export ended above".into()));
        }
        if let Ok(end) = serde_json::from_str(&text) {
            footer = Some(end);
            continue;
        }
        let entry: Line = serde_json::from_str(&text).map_err(|e| broken(line)(e.into()))?;
        let value = match (entry.text, entry.hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(digits)) => hex::decode(digits).map_err(|e| broken(line)(e.into()))?,
            _ => {
                return Err(broken(line)(
                    "it has not exactly one of text and hex".into(),
                ));
            }
        };
        entries.push((entry.key, value));
    }
    let found = entries.len() as u64;
    match footer {
        Some(footer) if footer.entries == found => Ok(entries),
        _ => Err(DumpError::Short { found }),
    }
}
