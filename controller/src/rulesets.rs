//! How rulesets lie in the store: a long set is kept once for all nodes and generations of its
//! site, apart from the rulesets that name it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::protobuf;
use voipfleet_ruleset::ruleset::{Digest, MAX_RULESET_BYTES, Ruleset};

use crate::records::Content;
use crate::store::{Store, StoreError, Transaction, keys};

/// Sets of so many bytes are kept apart: beside its key a shorter one is not worth it.
const APART: usize = 1024;
/// What is kept apart is cut into slices: one transaction takes several.
const SLICE: usize = 256 * 1024;
/// The field of `ruleset.proto` that holds the sets.
const SETS: u32 = 6;

/// A ruleset without its long sets.
#[derive(Clone, PartialEq, prost::Message)]
struct InParts {
    /// Whose sets these are.
    #[prost(string, tag = "1")]
    site: String,
    #[prost(message, repeated, tag = "2")]
    parts: Vec<Part>,
}

/// Bytes of a ruleset, and after them the set of this digest.
#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
    /// Empty: none, at the end.
    #[prost(bytes = "vec", tag = "2")]
    set: Vec<u8>,
}

/// The rulesets of a generation, as they will be stored: of each long set one copy.
#[derive(Debug)]
pub struct Packed {
    site: SiteName,
    rulesets: BTreeMap<Digest, Vec<u8>>,
    sets: BTreeMap<Digest, Vec<u8>>,
}

impl Packed {
    /// None yet.
    pub fn new(site: SiteName) -> Self {
        Self {
            site,
            rulesets: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    /// Adds a node's ruleset.
    pub fn add(&mut self, ruleset: &Ruleset) -> Content {
        self.add_encoded(&ruleset.encode())
    }

    /// Adds a node's ruleset in its canonical encoding.
    pub fn add_encoded(&mut self, encoded: &[u8]) -> Content {
        let digest = Digest::of(encoded);
        let mut parts = Vec::new();
        for (bytes, set) in cut(encoded) {
            let mut inline = bytes;
            if bytes.len() > SLICE {
                parts.extend(bytes.chunks(SLICE).map(|slice| self.apart(&[], slice)));
                inline = &[];
            }
            for slice in set.unwrap_or_default().chunks(SLICE) {
                parts.push(self.apart(std::mem::take(&mut inline), slice));
            }
            if !inline.is_empty() {
                parts.push(Part {
                    bytes: inline.to_vec(),
                    set: Vec::new(),
                });
            }
        }
        let site = self.site.to_string();
        let value = InParts { site, parts }.encode_to_vec();
        self.rulesets.insert(digest, value);
        Content {
            digest,
            size: encoded.len() as u64,
        }
    }

    /// Keeps a slice apart, after bytes that are not.
    fn apart(&mut self, bytes: &[u8], slice: &[u8]) -> Part {
        let digest = Digest::of(slice);
        self.sets.entry(digest).or_insert_with(|| slice.to_vec());
        Part {
            bytes: bytes.to_vec(),
            set: digest.as_bytes().to_vec(),
        }
    }

    /// Writes what is not there yet, before the transaction that refers to it or with it.
    /// `stored` are rulesets that stay as long as the transaction's expectations hold. Those who
    /// prune write the site's targets, which the transaction expects unchanged.
    pub async fn stage(
        self,
        stored: &BTreeSet<Digest>,
        tx: &mut Transaction<'_>,
    ) -> Result<(), StoreError> {
        let store = tx.store();
        let mut there = BTreeSet::new();
        for digest in stored {
            there.extend(sets_of(store, digest).await?);
        }
        for (digest, value) in self.rulesets {
            if !stored.contains(&digest) {
                tx.stage(keys::ruleset(&digest), value);
            }
        }
        for (digest, bytes) in self.sets {
            let key = keys::set(&self.site, &digest);
            if !there.contains(&key) {
                tx.stage(key, bytes);
            }
        }
        Ok(())
    }
}

/// Cuts an encoded ruleset before and after every long set. Bytes that are no protobuf stay in
/// one part.
fn cut(encoded: &[u8]) -> Vec<(&[u8], Option<&[u8]>)> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut rest = encoded;
    while !rest.is_empty() {
        let Some(content) = next_field(&mut rest) else {
            break;
        };
        let after = encoded.len() - rest.len();
        if content.len() >= APART {
            let before = after - content.len();
            let bytes = encoded.get(begin..before).unwrap_or_default();
            parts.push((bytes, Some(content)));
            begin = after;
        }
    }
    if begin < encoded.len() || parts.is_empty() {
        parts.push((encoded.get(begin..).unwrap_or_default(), None));
    }
    parts
}

/// Steps over a field; its content if it is a set, else nothing. None: this is no protobuf.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let field = protobuf::next_field(rest)?;
    let content = field.content.filter(|_| field.tag == SETS);
    Some(content.unwrap_or_default())
}

/// The canonical encoding of a stored ruleset; none: it is not stored, or no longer.
pub async fn get(store: &dyn Store, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let key = keys::ruleset(digest);
    let Some(held) = store.get(&key).await? else {
        return Ok(None);
    };
    let corrupt = |why| StoreError::Corrupt {
        key: key.clone(),
        why,
    };
    let stored = in_parts(&key, &held.value)?;
    let mut encoded = Vec::new();
    for part in &stored.parts {
        encoded.extend_from_slice(&part.bytes);
        if let Some(set) = part.key(&stored.site) {
            let Some(set) = store.get(&set).await? else {
                // It may have been pruned between the two reads, and then the ruleset is gone.
                return match store.get(&key).await? {
                    None => Ok(None),
                    Some(_) => Err(corrupt("a set that it names is missing")),
                };
            };
            encoded.extend_from_slice(&set.value);
        }
        if encoded.len() > MAX_RULESET_BYTES {
            return Err(corrupt("it is longer than a ruleset can be"));
        }
    }
    if Digest::of(&encoded) != *digest {
        return Err(corrupt("its parts do not give what its digest says"));
    }
    Ok(Some(encoded))
}

impl Part {
    /// The key of its set.
    fn key(&self, site: &str) -> Option<String> {
        let digest = Digest::try_from(self.set.as_slice()).ok()?;
        Some(keys::set(site, &digest))
    }
}

/// The parts of a stored ruleset.
fn in_parts(key: &str, value: &[u8]) -> Result<InParts, StoreError> {
    InParts::decode(value).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        source: error.into(),
    })
}

/// The keys of the sets that a stored ruleset names.
async fn sets_of(store: &dyn Store, digest: &Digest) -> Result<Vec<String>, StoreError> {
    let key = keys::ruleset(digest);
    let Some(held) = store.get(&key).await? else {
        return Ok(Vec::new());
    };
    let stored = in_parts(&key, &held.value)?;
    let sets = stored.parts.iter();
    Ok(sets.filter_map(|part| part.key(&stored.site)).collect())
}

/// The keys of what goes with the rulesets `dropped` when of the same site those of `kept` stay:
/// rulesets, and sets that no other names.
pub async fn useless(
    store: &dyn Store,
    dropped: &BTreeSet<Digest>,
    kept: &BTreeSet<Digest>,
) -> Result<Vec<String>, StoreError> {
    let mut useless = Vec::new();
    let mut sets = BTreeSet::new();
    for digest in dropped.difference(kept) {
        sets.extend(sets_of(store, digest).await?);
        useless.push(keys::ruleset(digest));
    }
    for digest in kept {
        if sets.is_empty() {
            break;
        }
        for set in sets_of(store, digest).await? {
            sets.remove(&set);
        }
    }
    useless.extend(sets);
    Ok(useless)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use voipfleet_proto::v1 as pb;

    use super::*;
    use crate::store::Txn;
    use crate::store::memory::Memory;

    fn network(number: u32) -> pb::Network {
        pb::Network {
            address: number.to_be_bytes().to_vec(),
            prefix_length: 32,
        }
    }

    /// An encoded ruleset of `node` with a set of each of these lengths.
    fn encoded(node: &str, sets: &[u32]) -> Vec<u8> {
        let sets = sets
            .iter()
            .zip(0u32..)
            .map(|(length, place)| pb::AddressSet {
                stem: format!("s{place}"),
                family: pb::Family::V4.into(),
                max_elements: 1024,
                elements: (0..*length).map(network).collect(),
                ..pb::AddressSet::default()
            });
        pb::Ruleset {
            site: "site-a".to_owned(),
            node: node.to_owned(),
            ssh_ports: vec![22],
            sets: sets.collect(),
            chains: vec![pb::Chain {
                name: "VF-INPUT".to_owned(),
                rules: Vec::new(),
            }],
            ..pb::Ruleset::default()
        }
        .encode_to_vec()
    }

    fn packed() -> Packed {
        Packed::new("site-a".parse().unwrap())
    }

    async fn count(store: &dyn Store, prefix: &str) -> usize {
        store.all(prefix, 10_000).await.unwrap().len()
    }

    async fn write(store: &dyn Store, packed: Packed, stored: &BTreeSet<Digest>) {
        let mut tx = Transaction::new(store);
        packed.stage(stored, &mut tx).await.unwrap();
        assert!(tx.commit().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn thirty_nodes_share_a_set() {
        let store = Memory::default();
        let mut all = packed();
        let rulesets: Vec<Vec<u8>> = (0..30)
            .map(|node| encoded(&format!("n{node}"), &[50_000, 3, 2_000]))
            .collect();
        let contents: Vec<Content> = rulesets.iter().map(|it| all.add_encoded(it)).collect();
        write(&store, all, &BTreeSet::new()).await;
        // 400 KiB in two slices, and 16 KiB.
        assert_eq!(count(&store, "set/").await, 3);
        let mut stored = 0;
        for entry in store.all("", 10_000).await.unwrap() {
            stored += entry.held.value.len();
        }
        let one = rulesets.first().unwrap().len();
        assert!(stored < 2 * one, "{stored} bytes for 30 times {one}");
        for (content, encoded) in contents.iter().zip(&rulesets) {
            let read = get(&store, &content.digest).await.unwrap();
            assert!(read.as_ref() == Some(encoded), "the same bytes");
            assert_eq!(content.size, encoded.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_set_goes_with_the_last_ruleset_that_names_it() {
        let store = Memory::default();
        let mut first = packed();
        let old = first.add_encoded(&encoded("a", &[500, 600])).digest;
        write(&store, first, &BTreeSet::new()).await;
        let mut second = packed();
        let new = second.add_encoded(&encoded("a", &[500, 700])).digest;
        // What the first has already is not written again.
        let known = BTreeSet::from([old]);
        let before = count(&store, "").await;
        write(&store, second, &known).await;
        assert_eq!(count(&store, "").await, before + 2);
        assert_eq!(count(&store, "set/").await, 3);

        let kept = BTreeSet::from([new]);
        let goes = useless(&store, &known, &kept).await.unwrap();
        assert_eq!(goes.len(), 2, "{goes:?}");
        let mut txn = Txn::new();
        txn.deletes = goes;
        store.commit(txn).await.unwrap();
        assert_eq!(get(&store, &old).await.unwrap(), None);
        let read = get(&store, &new).await.unwrap();
        assert!(read == Some(encoded("a", &[500, 700])));
    }

    #[tokio::test]
    async fn a_wrong_part_is_no_ruleset() {
        let store = Memory::default();
        let mut packed = packed();
        let digest = packed.add_encoded(&encoded("a", &[500])).digest;
        write(&store, packed, &BTreeSet::new()).await;
        let sets = store.all("set/", 10).await.unwrap();
        let set = sets.first().unwrap();
        let mut wrong = set.held.value.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let txn = Txn::new().put(set.key.clone(), wrong);
        store.commit(txn).await.unwrap();
        let error = get(&store, &digest).await.unwrap_err().to_string();
        assert!(error.contains("digest"), "{error}");
        let txn = Txn::new().delete(set.key.clone());
        store.commit(txn).await.unwrap();
        let error = get(&store, &digest).await.unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }

    fn joined(encoded: &[u8]) -> Vec<u8> {
        let parts = cut(encoded).into_iter();
        parts
            .flat_map(|(bytes, set)| [bytes, set.unwrap_or_default()].concat())
            .collect()
    }

    proptest! {
        /// Whatever the bytes are: the parts give them back.
        #[test]
        fn parts_are_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(&joined(&bytes), &bytes);
        }

        #[test]
        fn parts_of_rulesets_are_the_whole(sets in prop::collection::vec(0..400u32, 0..5)) {
            let ruleset = encoded("a", &sets);
            prop_assert_eq!(&joined(&ruleset), &ruleset);
            let long = cut(&ruleset).iter().filter(|(_, set)| set.is_some()).count();
            // An element takes 10 bytes here: address 6, length 2, and 2 before them.
            prop_assert!(long <= sets.len());
            prop_assert!(long >= sets.iter().filter(|length| **length > 110).count());
        }
    }
}
