//! States of the documents that are no longer needed.

use std::collections::BTreeSet;

use super::history::needed;
use super::{RECENT, version};
use crate::store::parts::{Owner, Parts};
use crate::store::{Pages, Store, StoreError, keys};

/// States in one read: each is a list of parts.
const PAGE: usize = 64;

/// Removes the states that neither a kept generation nor one of the last [`RECENT`] is, and the
/// parts that only they refer to; answers how many states were removed.
pub async fn prune(store: &dyn Store) -> Result<usize, StoreError> {
    let Some(mut owner) = Owner::read(store, keys::DOCUMENTS).await? else {
        return Ok(0);
    };
    let (present, _) = version(store).await?;
    let oldest = present.version.saturating_sub(RECENT);
    let mut useless = Vec::new();
    let mut used = BTreeSet::new();
    let mut needed_states = None;
    let mut pages = Pages::new(store, keys::ALL_DOCUMENTS_STATES, PAGE);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            let version = keys::number(&entry.key).unwrap_or_default();
            if version < oldest {
                let needed = match &needed_states {
                    Some(needed) => needed,
                    None => needed_states.insert(needed(store).await?),
                };
                if !needed.contains(&version) {
                    useless.push(entry.key);
                    continue;
                }
            }
            if let Some(parts) = Parts::of(&entry.key, &entry.held)? {
                used.extend(parts.keys());
            }
        }
    }
    if useless.is_empty() {
        return Ok(0);
    }
    if owner.delete(&useless).await? {
        owner.collect(&used).await?;
    }
    Ok(useless.len())
}
