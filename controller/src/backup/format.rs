//! The file: one JSON object a line, so that people can look into it.
//!
//! The first line is the [`Header`], the last one the [`Seal`] over all before it; every other
//! line is an entry of the store, by ascending key.

use std::io::{self, BufRead, Read as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::{Entry, Limits, Revision, Versioned};

/// The format that is written and read.
const FORMAT: u32 = 1;
/// The longest line: a value in hexadecimal, and what is around it.
const MAX_LINE_BYTES: u64 = 2 * Limits::STANDARD.bytes as u64 + 64 * 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The format of the file.
    pub voipfleet_backup: u32,
    /// The store's last transaction that is in it.
    pub revision: Revision,
    /// When it was taken, Unix time.
    pub at_ms: u64,
    /// The version of the controller that took it.
    pub controller: String,
    /// SHA-256 of the CA's certificate, hexadecimal: whose installation it is.
    pub ca: String,
}

impl Header {
    /// The header of a backup that is taken now.
    pub fn new(revision: Revision, at_ms: u64, ca: [u8; 32]) -> Self {
        Self {
            voipfleet_backup: FORMAT,
            revision,
            at_ms,
            controller: env!("CARGO_PKG_VERSION").to_owned(),
            ca: hex::encode(ca),
        }
    }
}

/// The last line. Without it the file is cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    /// Entries of the store.
    pub entries: u64,
    /// Bytes of all lines before this one.
    pub bytes: u64,
    /// SHA-256 of these bytes, hexadecimal.
    pub sha256: String,
}

/// An entry. The value is `text` where it is text, so that people can read and compare it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    revision: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// Why a file is no backup that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file failed.
    #[error("the backup cannot be read")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is not a Voipfleet backup")]
    Other,
    /// A later format.
    #[error("the backup has format {found}, and this controller reads {FORMAT}: upgrade it")]
    Later {
        /// Its format.
        found: u32,
    },
    /// A line that was not written so.
    #[error("line {line} of the backup is damaged")]
    Line {
        /// From 1.
        line: u64,
        /// The parser's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The end is missing.
    #[error("the backup is cut short after {entries} entries")]
    Short {
        /// Whole entries that are there.
        entries: u64,
    },
    /// It is not what was written.
    #[error("the backup was altered or damaged: {what} its last line")]
    Altered {
        /// What differs.
        what: &'static str,
    },
}

/// Sums what is written or read.
#[derive(Debug, Default)]
struct Sum {
    sha256: Sha256,
    bytes: u64,
    entries: u64,
}

impl Sum {
    fn add(&mut self, line: &[u8]) {
        self.sha256.update(line);
        self.bytes += line.len() as u64;
    }

    fn seal(self) -> Seal {
        Seal {
            entries: self.entries,
            bytes: self.bytes,
            sha256: hex::encode(self.sha256.finalize()),
        }
    }
}

/// Makes the lines.
#[derive(Debug, Default)]
pub(super) struct Writer(Sum);

impl Writer {
    pub(super) fn header(&mut self, header: &Header) -> Result<Vec<u8>, serde_json::Error> {
        let line = line_of(header)?;
        self.0.add(&line);
        Ok(line)
    }

    pub(super) fn entry(&mut self, entry: Entry) -> Result<Vec<u8>, serde_json::Error> {
        let Entry { key, held } = entry;
        let (text, hex) = match String::from_utf8(held.value) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(hex::encode(bytes.as_bytes()))),
        };
        let revision = held.revision;
        let line = line_of(&Line {
            key,
            revision,
            text,
            hex,
        })?;
        self.0.add(&line);
        self.0.entries += 1;
        Ok(line)
    }

    pub(super) fn seal(self) -> Result<(Vec<u8>, Seal), serde_json::Error> {
        let seal = self.0.seal();
        Ok((line_of(&seal)?, seal))
    }
}

fn line_of(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a backup entry by entry. Only when [`Reader::next`] has reached the end is
/// it known that the file is what was written.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    header: Header,
    sum: Sum,
    line: u64,
    key: String,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub(crate) fn new(mut input: R) -> Result<Self, FormatError> {
        /// Of a later format only this is sure to be there.
        #[derive(Deserialize)]
        struct Known {
            voipfleet_backup: u32,
        }
        let mut first = Vec::new();
        input
            .by_ref()
            .take(64 * 1024)
            .read_until(b'\n', &mut first)?;
        let Known { voipfleet_backup } =
            serde_json::from_slice(&first).map_err(|_| FormatError::Other)?;
        if voipfleet_backup != FORMAT {
            return Err(FormatError::Later {
                found: voipfleet_backup,
            });
        }
        let header = serde_json::from_slice(&first).map_err(|error| FormatError::Line {
            line: 1,
            source: error.into(),
        })?;
        let mut sum = Sum::default();
        sum.add(&first);
        Ok(Self {
            input,
            header,
            sum,
            line: 1,
            key: String::new(),
        })
    }

    /// The header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The next entry; none: that was all, and the file is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, FormatError> {
        let mut bytes = Vec::new();
        let line = self
            .input
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut bytes)?;
        self.line += 1;
        if line == 0 || bytes.last() != Some(&b'\n') {
            return Err(FormatError::Short {
                entries: self.sum.entries,
            });
        }
        if let Ok(seal) = serde_json::from_slice::<Seal>(&bytes) {
            return self.end(&seal).map(|()| None);
        }
        let damaged = |source| FormatError::Line {
            line: self.line,
            source,
        };
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| damaged(error.into()))?;
        let value = match (line.text, line.hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(digits)) => hex::decode(digits).map_err(|error| damaged(error.into()))?,
            _ => return Err(damaged("it has not exactly one of text and hex".into())),
        };
        if line.key <= self.key {
            return Err(damaged("its key is not above the one before it".into()));
        }
        self.sum.add(&bytes);
        self.sum.entries += 1;
        self.key.clone_from(&line.key);
        Ok(Some(Entry {
            key: line.key,
            held: Versioned {
                revision: line.revision,
                value,
            },
        }))
    }

    fn end(&mut self, wanted: &Seal) -> Result<(), FormatError> {
        let mut after = [0];
        if self.input.read(&mut after)? > 0 {
            return Err(FormatError::Altered {
                what: "it continues after",
            });
        }
        let found = std::mem::take(&mut self.sum).seal();
        let what = if found.entries != wanted.entries {
            "the number of entries differs from that in"
        } else if found.bytes != wanted.bytes {
            "its length differs from that in"
        } else if found.sha256 != wanted.sha256 {
            "its checksum differs from that in"
        } else {
            return Ok(());
        };
        Err(FormatError::Altered { what })
    }
}
