//! Versions of documents that nothing needs any more.

use std::collections::BTreeSet;

use super::history::{PAGE, needed};
use super::version;
use crate::records::{self, DocumentRecord, DocumentsVersion};
use crate::store::{Expect, Outcome, Store, StoreError, Txn, keys};

/// The last states of all documents, of which every one is kept.
const RECENT: DocumentsVersion = 200;
/// Removals in one transaction.
const BATCH: usize = 256;

/// A kept version of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    key: String,
    version: DocumentsVersion,
    deleted: bool,
}

/// Removes what neither a kept generation nor one of the last [`RECENT`] states needs; answers
/// how many versions went.
pub async fn prune(store: &dyn Store) -> Result<usize, StoreError> {
    let (present, _) = version(store).await?;
    let whole = present.version.saturating_sub(RECENT);
    let before = records::read::<DocumentsVersion>(store, keys::DOCUMENTS_WHOLE).await?;
    let was = before.as_ref().map_or(0, |before| before.record);
    if whole <= was {
        return Ok(0);
    }
    let useless = useless(store, whole).await?;
    let value = records::to_json(keys::DOCUMENTS_WHOLE, &whole)?;
    let mut expect = before.map_or(Expect::Absent, |before| Expect::At(before.revision));
    for batch in useless.chunks(BATCH) {
        let mut txn = Txn::new()
            .expect(keys::DOCUMENTS_WHOLE, expect)
            .put(keys::DOCUMENTS_WHOLE, value.clone());
        txn.deletes = batch.to_vec();
        match store.commit(txn).await? {
            Outcome::Committed { revision } => expect = Expect::At(revision),
            // Another pruning is under way.
            Outcome::Conflict => return Ok(0),
        }
    }
    Ok(useless.len())
}

/// The keys of versions that no state needs, of those before `whole` and those that generations
/// name.
async fn useless(store: &dyn Store, whole: DocumentsVersion) -> Result<Vec<String>, StoreError> {
    let needed = needed(store).await?;
    let mut useless = Vec::new();
    let mut of_one: Vec<Kept> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let prefix = keys::ALL_DOCUMENT_VERSIONS;
        let page = store.range(prefix, after.as_deref(), PAGE).await?;
        for entry in &page.entries {
            let Some((document, version)) = keys::versioned_document(&entry.key) else {
                continue;
            };
            let same = of_one
                .first()
                .and_then(|first| keys::versioned_document(&first.key))
                .is_none_or(|(of, _)| of == document);
            if !same {
                useless.extend(useless_of_one(&of_one, whole, &needed));
                of_one.clear();
            }
            let record: DocumentRecord = records::from_json(&entry.key, &entry.held)?;
            of_one.push(Kept {
                key: entry.key.clone(),
                version,
                deleted: record.document.is_none(),
            });
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            break;
        }
    }
    useless.extend(useless_of_one(&of_one, whole, &needed));
    Ok(useless)
}

/// Of one document's versions, oldest first.
fn useless_of_one(
    versions: &[Kept],
    whole: DocumentsVersion,
    needed: &BTreeSet<DocumentsVersion>,
) -> Vec<String> {
    let mut goes = Vec::new();
    let mut first = true;
    for (place, kept) in versions.iter().enumerate() {
        let next = versions.get(place + 1).map(|next| next.version);
        // It stands for the states up to the next one.
        let unneeded = next
            .is_some_and(|next| next <= whole && needed.range(kept.version..next).next().is_none());
        // A deletion with nothing before it says no more than no entry at all.
        let says_nothing = first && kept.deleted && kept.version <= whole;
        if unneeded || says_nothing {
            goes.push(kept.key.clone());
        } else {
            first = false;
        }
    }
    goes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(versions: &[Kept], state: DocumentsVersion) -> Option<&Kept> {
        let newest = versions.iter().rev().find(|kept| kept.version <= state);
        newest.filter(|kept| !kept.deleted)
    }

    proptest! {
        /// Whatever goes: a state that is needed reads the same afterwards.
        #[test]
        fn needed_states_read_the_same(
            changes in prop::collection::btree_map(0..60u64, any::<bool>(), 0..12),
            whole in 0..60u64,
            needed in prop::collection::btree_set(0..60u64, 0..4),
        ) {
            let versions: Vec<Kept> = changes
                .into_iter()
                .map(|(version, deleted)| Kept {
                    key: keys::document_version("site", "a", version),
                    version,
                    deleted,
                })
                .collect();
            let goes: BTreeSet<String> = useless_of_one(&versions, whole, &needed).into_iter().collect();
            let left: Vec<Kept> = versions
                .iter()
                .filter(|kept| !goes.contains(&kept.key))
                .cloned()
                .collect();
            for state in needed.iter().copied().chain(whole..=60) {
                prop_assert_eq!(at(&versions, state), at(&left, state), "state {}", state);
            }
            // What is old and named by nothing goes.
            for (place, kept) in left.iter().enumerate() {
                let until = left.get(place + 1).map_or(61, |next| next.version);
                prop_assert!(
                    until > whole || needed.range(kept.version..until).next().is_some(),
                    "{:?} stays", kept
                );
            }
        }
    }
}
