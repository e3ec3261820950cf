//! Values that are too large for a transaction: cut into parts that are immutable, named by
//! their digest, and written before the small commit that refers to them.
//!
//! Parts belong to an owner, a key. Whoever refers to a part commits a write of the owner, and
//! expects it as it was before the part was written or found; whoever collects parts that
//! nothing refers to does the same. So a part never goes while a commit is about to refer to it:
//! one of the two conflicts.

use std::collections::BTreeSet;

use prost::Message as _;
use voipfleet_ruleset::ruleset::Digest;

use crate::{Entry, Expect, Outcome, Pages, Store, StoreError, Txn, Versioned, keys};

/// Values up to so many bytes stay whole.
pub const INLINE_BYTES: usize = 64 * 1024;
/// A part's least and greatest size, bytes; it is about 64 KiB on the average.
const LEAST: usize = 16 * 1024;
const MOST: usize = 256 * 1024;
/// Of the hash of the last bytes these bits are zero where a part ends.
const BOUNDARY: u64 = (1 << 16) - 1;
/// The first byte of a value in parts: no JSON and no protobuf begins with it.
const IN_PARTS: u8 = 0;
/// The longest value, bytes: all documents of an installation.
const MAX_VALUE_BYTES: usize = 256 * 1024 * 1024;
/// Keys in one read.
const PAGE: usize = 64;
/// Removals in one transaction.
const BATCH: usize = 90;

/// A value that was cut into parts.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Parts {
    /// The key that they belong to.
    #[prost(string, tag = "1")]
    pub owner: String,
    /// SHA-256 of each, in their order.
    #[prost(bytes = "vec", repeated, tag = "2")]
    digests: Vec<Vec<u8>>,
    /// The size of the value, bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
}

impl Parts {
    /// Cuts a value where its content says so: where a few bytes of it change, most of its parts
    /// stay the same.
    pub fn cut<'v>(owner: &str, value: &'v [u8]) -> (Self, Vec<(String, &'v [u8])>) {
        let mut parts = Self {
            owner: owner.to_owned(),
            digests: Vec::new(),
            size: value.len() as u64,
        };
        let mut chunks = Vec::new();
        let mut rest = value;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(boundary(rest));
            let digest = Digest::of(part);
            chunks.push((keys::part(owner, &digest), part));
            parts.digests.push(digest.as_bytes().to_vec());
            rest = after;
        }
        (parts, chunks)
    }

    /// The keys of the parts, in their order.
    pub fn keys(&self) -> Vec<String> {
        let digests = self.digests.iter();
        digests
            .filter_map(|digest| Digest::try_from(digest.as_slice()).ok())
            .map(|digest| keys::part(&self.owner, &digest))
            .collect()
    }

    /// As the value of a key.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![IN_PARTS];
        value.extend(self.encode_to_vec());
        value
    }

    /// The parts that a value consists of; `None`: it is whole.
    pub fn of(key: &str, held: &Versioned) -> Result<Option<Self>, StoreError> {
        let Some((&IN_PARTS, encoded)) = held.value.split_first() else {
            return Ok(None);
        };
        Self::decode(encoded)
            .map(Some)
            .map_err(|error| StoreError::Value {
                key: key.to_owned(),
                source: error.into(),
            })
    }

    /// The whole value; `None`: a part is missing, which was collected meanwhile.
    pub async fn join(&self, store: &dyn Store) -> Result<Option<Vec<u8>>, StoreError> {
        let mut value = Vec::with_capacity(
            usize::try_from(self.size)
                .unwrap_or_default()
                .min(MAX_VALUE_BYTES),
        );
        for key in self.keys() {
            let Some(part) = store.get(&key).await? else {
                return Ok(None);
            };
            value.extend_from_slice(&part.value);
            if value.len() > MAX_VALUE_BYTES {
                let why = "its parts are longer than a value can be";
                return Err(StoreError::Corrupt { key, why });
            }
        }
        Ok(Some(value))
    }
}

/// Where the first part of a value ends.
fn boundary(value: &[u8]) -> usize {
    if value.len() <= LEAST {
        return value.len();
    }
    let mut hash = 0u64;
    for (at, byte) in value.iter().enumerate().take(MOST).skip(LEAST - 64) {
        hash = (hash << 1).wrapping_add(gear(*byte));
        if at >= LEAST && (hash >> 40) & BOUNDARY == 0 {
            return at + 1;
        }
    }
    value.len().min(MOST)
}

/// A random number for each byte (`SplitMix64`).
const fn gear(byte: u8) -> u64 {
    let mut z = (byte as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Reads a value, whole again, with the parts that it consists of where it does.
pub async fn get(
    store: &dyn Store,
    key: &str,
) -> Result<Option<(Option<Parts>, Versioned)>, StoreError> {
    let mut missing_at = None;
    loop {
        let Some(held) = store.get(key).await? else {
            return Ok(None);
        };
        if missing_at == Some(held.revision) {
            return Err(StoreError::Corrupt {
                key: key.to_owned(),
                why: "a part of it is missing",
            });
        }
        missing_at = Some(held.revision);
        let parts = Parts::of(key, &held)?;
        if let Some(held) = join(store, parts.as_ref(), held).await? {
            return Ok(Some((parts, held)));
        }
        // It was replaced between the two reads, or it is damaged.
    }
}

async fn join(
    store: &dyn Store,
    parts: Option<&Parts>,
    held: Versioned,
) -> Result<Option<Versioned>, StoreError> {
    let Some(parts) = parts else {
        return Ok(Some(held));
    };
    let revision = held.revision;
    let value = parts.join(store).await?;
    Ok(value.map(|value| Versioned { revision, value }))
}

/// Joins a value that was read as part of a range; `None`: it is whole.
pub async fn joined(store: &dyn Store, entry: &Entry) -> Result<Option<Versioned>, StoreError> {
    let Some(parts) = Parts::of(&entry.key, &entry.held)? else {
        return Ok(None);
    };
    let (key, revision) = (entry.key.clone(), entry.held.revision);
    let why = "a part of it is missing";
    let joined = parts.join(store).await?;
    let value = joined.ok_or(StoreError::Corrupt { key, why })?;
    Ok(Some(Versioned { revision, value }))
}

/// The keys of all parts that belong to `owner`, those of failed attempts to write it among them.
pub async fn keys_of(store: &dyn Store, owner: &str) -> Result<Vec<String>, StoreError> {
    let prefix = keys::parts(owner);
    let mut found = Vec::new();
    let mut pages = Pages::new(store, &prefix, PAGE);
    while let Some(entries) = pages.next().await? {
        found.extend(entries.into_iter().map(|entry| entry.key));
    }
    Ok(found)
}

/// The key that parts belong to, for one who removes some of them. Everything that refers to
/// parts is read after it.
#[derive(Debug)]
pub struct Owner<'s> {
    store: &'s dyn Store,
    key: String,
    held: Versioned,
}

impl<'s> Owner<'s> {
    /// Reads it; `None`: there is none, and nothing refers to parts of it.
    pub async fn read(store: &'s dyn Store, key: &str) -> Result<Option<Self>, StoreError> {
        let held = store.get(key).await?;
        Ok(held.map(|held| Self {
            store,
            key: key.to_owned(),
            held,
        }))
    }

    /// Its own parts, where it is a value in parts.
    pub fn parts(&self) -> Result<Option<Parts>, StoreError> {
        Parts::of(&self.key, &self.held)
    }

    /// Removes keys that refer to parts, or parts, in transactions within the limits. Each of
    /// them writes the owner as it is: a commit that is about to refer to one of the keys
    /// conflicts. False: the owner was written meanwhile, and some keys are left.
    pub async fn delete(&mut self, useless: &[String]) -> Result<bool, StoreError> {
        for batch in useless.chunks(BATCH) {
            let mut txn = Txn::new()
                .expect(self.key.clone(), Expect::At(self.held.revision))
                .put(self.key.clone(), self.held.value.clone());
            txn.deletes = batch.to_vec();
            match self.store.commit(txn).await? {
                Outcome::Committed { revision } => self.held.revision = revision,
                Outcome::Conflict => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Removes its parts that are not in `used`; answers how many were found. A concurrent write
    /// of the owner may leave some of them.
    pub async fn collect(&mut self, used: &BTreeSet<String>) -> Result<usize, StoreError> {
        let mut useless = keys_of(self.store, &self.key).await?;
        useless.retain(|key| !used.contains(key));
        self.delete(&useless).await?;
        Ok(useless.len())
    }
}
