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

use crate::{Expect, Outcome, Pages, Store, StoreError, Txn, Versioned, keys};

/// Values up to so many bytes stay whole.
pub const INLINE_BYTES: usize = 64 * 1024;
/// A part's least and greatest size, bytes; it is about 64 KiB on the average.
const LEAST: usize = 16 * 1024;
const MOST: usize = 256 * 1024;
/// Of the hash of the last bytes these bits are zero where a part ends.
const BOUNDARY: u64 = (1 << 16) - 1;
/// The first byte of a value in parts: no JSON and no protobuf begins with it.
const IN_PARTS: u8 = 0;
/// The longest value, bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024 * 1024;
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
        match join(store, parts.as_ref(), held).await? {
            Some(held) => return Ok(Some((parts, held))),
            // It was replaced between the two reads, or it is damaged.
            None => {}
        }
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

/// Makes a value that was read as part of a range whole.
pub async fn whole(store: &dyn Store, key: &str, held: Versioned) -> Result<Versioned, StoreError> {
    let parts = Parts::of(key, &held)?;
    join(store, parts.as_ref(), held)
        .await?
        .ok_or_else(|| StoreError::Corrupt {
            key: key.to_owned(),
            why: "a part of it is missing",
        })
}

/// Removes the parts of an owner that are not in `used`, which was read after `owner` was found
/// as `expect` says. Answers how many went; another writer of the owner stops it, and may leave
/// some.
pub async fn collect(
    store: &dyn Store,
    owner: &str,
    found: &Versioned,
    used: &BTreeSet<String>,
) -> Result<usize, StoreError> {
    let prefix = keys::parts(owner);
    let mut useless = Vec::new();
    let mut pages = Pages::new(store, &prefix, PAGE);
    while let Some(entries) = pages.next().await? {
        let keys = entries.into_iter().map(|entry| entry.key);
        useless.extend(keys.filter(|key| !used.contains(key)));
    }
    delete(store, owner, found, &useless).await
}

/// Removes keys that belong to an owner in transactions within the limits, each of which writes
/// the owner. Answers how many went.
pub async fn delete(
    store: &dyn Store,
    owner: &str,
    found: &Versioned,
    useless: &[String],
) -> Result<usize, StoreError> {
    let mut expect = Expect::At(found.revision);
    let mut gone = 0;
    for batch in useless.chunks(BATCH) {
        let mut txn = Txn::new()
            .expect(owner, expect)
            .put(owner, found.value.clone());
        txn.deletes = batch.to_vec();
        match store.commit(txn).await? {
            Outcome::Committed { revision } => expect = Expect::At(revision),
            Outcome::Conflict => break,
        }
        gone += batch.len();
    }
    Ok(gone)
}
