//! Which documents the sites use, for operators whose rights are of a part.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use voipfleet_policy::Document;
use voipfleet_protocol::identity::rights::{Use, Uses};

use super::{Api, failed};
use crate::documents::MAX_DOCUMENTS;
use crate::records;
use crate::store::{Revision, keys};

/// What was read last, and of which revision of the documents.
#[derive(Debug, Default)]
pub struct UsesCache(Mutex<Option<(Revision, Arc<Uses>)>>);

impl Api {
    /// As the documents stand now.
    pub(super) async fn uses(&self) -> Result<Arc<Uses>, Status> {
        // The version first: what is read after it is at least as new.
        let version = self.store.get(keys::DOCUMENTS).await.map_err(failed)?;
        let revision = version.map_or(0, |held| held.revision);
        {
            let cache = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, uses)) = cache.as_ref().filter(|(of, _)| *of == revision) {
                return Ok(Arc::clone(uses));
            }
        }
        let prefix = keys::document("site", "");
        let entries = self.store.all(&prefix, MAX_DOCUMENTS).await;
        let mut uses = Uses::new();
        for entry in entries.map_err(failed)? {
            let document = records::from_json(&entry.key, &entry.held).map_err(failed)?;
            if let Document::Site(site) = document {
                uses.insert(site.name.clone(), Use::new(site.needs()));
            }
        }
        let uses = Arc::new(uses);
        let mut cache = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = Some((revision, Arc::clone(&uses)));
        Ok(uses)
    }
}
