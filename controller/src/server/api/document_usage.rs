//! Which documents the sites use, for operators whose rights are of a part.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use voipfleet_policy::Document;
use voipfleet_protocol::identity::rights::{Use, Uses};

use super::failed;
use crate::documents::MAX_DOCUMENTS;
use crate::records;
use crate::store::{Revision, Store, keys};

/// Which documents the sites use. Clones share one cache.
#[derive(Debug, Clone, Default)]
pub(super) struct DocumentUsage {
    /// As read last, with the revision of the documents.
    last: Arc<Mutex<Option<(Revision, Arc<Uses>)>>>,
}

impl DocumentUsage {
    /// As of the present documents.
    pub(super) async fn read(&self, store: &dyn Store) -> Result<Arc<Uses>, Status> {
        // The version first: what is read after it is at least as new.
        let version = store.get(keys::DOCUMENTS).await.map_err(failed)?;
        let revision = version.map_or(0, |held| held.revision);
        {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, uses)) = last.as_ref().filter(|(of, _)| *of == revision) {
                return Ok(Arc::clone(uses));
            }
        }
        let entries = store.all(&keys::document("site", ""), MAX_DOCUMENTS).await;
        let mut uses = Uses::new();
        for entry in entries.map_err(failed)? {
            let document = records::from_json(&entry.key, &entry.held).map_err(failed)?;
            if let Document::Site(site) = document {
                uses.insert(site.name.clone(), Use::new(site.needs()));
            }
        }
        let uses = Arc::new(uses);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((revision, Arc::clone(&uses)));
        Ok(uses)
    }
}
