//! Whether the log is as it was written.

use std::sync::Arc;

use voipfleet_protocol::audit::{Broken, Link, Walk};

use super::{anchor, head};
use crate::errors::chain;
use crate::store::{Store, StoreError, keys};

/// Records in one read.
const PAGE: usize = 1000;

/// Why a log is not as it was written, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It was changed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Walks the whole log, page by page; its last record.
pub async fn check(store: &dyn Store) -> Result<Link, CheckError> {
    let any = store.range(keys::ALL_AUDIT, None, 1).await?;
    // The end first: records that come meanwhile are of no interest.
    let end = head(store).await?;
    if end == Link::default() && !any.entries.is_empty() {
        return Err(Broken::NoEnd.into());
    }
    let from = anchor(store).await?;
    let mut walk = Walk::new(from);
    while walk.at().seq < end.seq {
        let after = keys::audit(walk.at().seq);
        let page = store.range(keys::ALL_AUDIT, Some(&after), PAGE).await?;
        if page.entries.is_empty() {
            let (found, known) = (walk.at().seq, end.seq);
            return Err(Broken::CutOff { found, known }.into());
        }
        for entry in &page.entries {
            let seq = keys::number(&entry.key).unwrap_or_default();
            walk.next(seq, &entry.held.value)?;
            if seq == end.seq && walk.at() != end {
                return Err(Broken::Rewritten(seq).into());
            }
        }
    }
    walk.end()?;
    Ok(walk.at())
}

/// Logs what is wrong. The controller runs all the same: a damaged log must
/// not stop the emergency block that comes next.
pub(super) async fn at_start(store: Arc<dyn Store>) {
    match check(store.as_ref()).await {
        Ok(last) => tracing::info!(records = last.seq, "audit log verified"),
        Err(CheckError::Broken(broken)) => tracing::error!(
            %broken,
            "THE AUDIT LOG WAS TAMPERED WITH; compare it with a backup: voipctl audit verify"
        ),
        Err(CheckError::Store(StoreError::Closed)) => {}
        Err(error) => {
            tracing::error!(error = %chain(&error), "audit log not verified");
        }
    }
}
