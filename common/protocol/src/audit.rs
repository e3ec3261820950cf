//! The audit log's records, and the chain of hashes that holds them together.
//!
//! A record is the bytes of one JSON object. Its hash covers these bytes as they are, and the
//! next record carries it as `prev`: with the last hash it can be proved that a record was
//! altered, removed, added or moved.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Hashed before every record's bytes, so that its hash is never that of something else.
const DOMAIN: &[u8] = b"voipfleet audit record\n";

/// The hash of a record; of none before the first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of a record's bytes.
    pub fn of(record: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(record);
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash of the audit log is 64 hexadecimal digits")]
pub struct InvalidHash;

impl FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidHash)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// A place in the chain: the number of a record, and its hash. The default is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Link {
    /// The record's number, from 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An operator asked for a change, which is about to be made.
    Asked,
    /// How it ended.
    Result,
    /// A call was refused before anything was begun.
    Refused,
    /// Something happened without a request.
    Event,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It was made, or accepted.
    Done,
    /// It was refused; nothing was changed.
    Refused,
    /// It failed; see `message`.
    Failed,
    /// The controller or the connection ended before the result was known.
    Unknown,
}

impl Ending {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The operator's name, from the certificate.
    pub operator: String,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// The address that the call came from.
    pub peer: String,
}

/// A record. Its fields are written in this order; those without a value are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// The hash of the record before it.
    pub prev: Hash,
    /// Unix time, milliseconds.
    pub at_ms: u64,
    /// What it is about.
    pub kind: Kind,
    /// The call, as in the proto file; or the name of the event.
    pub what: String,
    /// Who did it; `None` if it happened without a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// The number of the request, as returned to its caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The sites that it concerns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// Nodes (`Node/site/name`), documents (`Tenant/name`), operators (`Operator/name`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// More about it, for people. Never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The site's generation before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// The site's generation after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The record in which it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// How it ended; `None` in the record of the request itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Ending>,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many of these there were, where one record counts several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Record {
    /// A record with nothing but its kind and what it is about; the log gives it its number.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            seq: 0,
            prev: Hash::default(),
            at_ms: 0,
            kind,
            what: what.into(),
            who: None,
            request: None,
            sites: Vec::new(),
            objects: Vec::new(),
            detail: None,
            before: None,
            after: None,
            asked: None,
            result: None,
            message: None,
            count: None,
        }
    }
}

/// A text of a record; `None` where there is nothing to say.
pub fn text(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|text| !text.is_empty())
}

/// The call by which old records are removed; its records name the last of them.
pub const PRUNE: &str = "PruneAudit";

/// How a record of [`PRUNE`] names the last record that was to go.
pub fn pruned(last: Link) -> String {
    format!("Record/{}/{}", last.seq, last.hash)
}

impl Record {
    /// The last record that was to go by this one; `None`: it is about something else.
    fn prunes(&self) -> Option<Link> {
        if self.what != PRUNE || self.kind == Kind::Refused {
            return None;
        }
        let mut links = self.objects.iter().filter_map(|object| {
            let (seq, hash) = object.strip_prefix("Record/")?.split_once('/')?;
            let (seq, hash) = (seq.parse().ok()?, hash.parse().ok()?);
            Some(Link { seq, hash })
        });
        links.next()
    }
}

/// Where a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is not the next one.
    #[error("record {expected} is missing: record {found} is in its place")]
    Missing {
        /// The number that should be there.
        expected: u64,
        /// The one that is.
        found: u64,
    },
    /// Bytes that are no record.
    #[error("record {0} cannot be read: it was altered")]
    Unreadable(u64),
    /// A record under another's number.
    #[error("record {found} is in the place of record {expected}: records were moved")]
    Moved {
        /// The number that should be there.
        expected: u64,
        /// The one that is.
        found: u64,
    },
    /// A record does not follow from the one before it.
    #[error("record {0} does not follow from the record before it: one of the two was altered")]
    Altered(u64),
    /// The log has another record at a place that was verified before.
    #[error("record {0} is another one than was verified before: the log was rewritten")]
    Rewritten(u64),
    /// The oldest records are missing, and no record of pruning accounts for them.
    #[error(
        "records up to {0} are missing, and no record says that they were pruned: the \
         beginning was cut off"
    )]
    Beginning(u64),
    /// There are records, and the log does not know its own end.
    #[error("the log has lost its end: its last record is unknown")]
    NoEnd,
    /// The log ends before a place that was verified before.
    #[error("the log ends at record {found}, and record {known} was there: its end was cut off")]
    CutOff {
        /// The last record.
        found: u64,
        /// The last one that was known.
        known: u64,
    },
}

/// Walks a chain from one of its places.
#[derive(Debug, Clone)]
pub struct Walk {
    from: Link,
    at: Link,
    /// Whether a record accounts for the removal of all before `from`.
    accounted: bool,
}

impl Walk {
    /// A walk whose next record is the one after `from`.
    pub fn new(from: Link) -> Self {
        Self {
            from,
            at: from,
            accounted: from == Link::default(),
        }
    }

    /// After the last record: whether a record accounts for what is missing before the first.
    pub fn end(&self) -> Result<(), Broken> {
        if self.accounted {
            Ok(())
        } else {
            Err(Broken::Beginning(self.from.seq))
        }
    }

    /// The last record that was good.
    pub fn at(&self) -> Link {
        self.at
    }

    /// Takes the record that is stored under the number `seq`.
    pub fn next(&mut self, seq: u64, bytes: &[u8]) -> Result<Record, Broken> {
        let expected = self.at.seq.saturating_add(1);
        if seq != expected {
            let found = seq;
            return Err(Broken::Missing { expected, found });
        }
        let record: Record =
            serde_json::from_slice(bytes).map_err(|_| Broken::Unreadable(expected))?;
        if record.seq != expected {
            let found = record.seq;
            return Err(Broken::Moved { expected, found });
        }
        if record.prev != self.at.hash {
            return Err(Broken::Altered(expected));
        }
        let hash = Hash::of(bytes);
        self.at = Link { seq, hash };
        // One that was broken off has removed less than it names.
        self.accounted |= record.prunes().is_some_and(|last| {
            last.seq < record.seq && (last == self.from || last.seq > self.from.seq)
        });
        Ok(record)
    }
}
