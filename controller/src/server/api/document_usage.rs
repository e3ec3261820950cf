//! Which documents the sites use, for operators whose rights are of a part.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use voipfleet_protocol::identity::rights::{Use, Uses};

use super::Api;
use crate::records::DocumentsVersion;

/// What was read last, and of which state of the documents.
#[derive(Debug, Default)]
pub struct UsesCache(Mutex<Option<(DocumentsVersion, Arc<Uses>)>>);

impl Api {
    /// As the documents stand now.
    pub(super) async fn uses(&self) -> Result<Arc<Uses>, Status> {
        let stored = self.read_documents().await?;
        let version = stored.version.version;
        {
            let cache = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, uses)) = cache.as_ref().filter(|(of, _)| *of == version) {
                return Ok(Arc::clone(uses));
            }
        }
        let mut uses = Uses::new();
        for site in stored.documents.sites.values() {
            uses.insert(site.name.clone(), Use::new(site.needs()));
        }
        let uses = Arc::new(uses);
        let mut cache = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = Some((version, Arc::clone(&uses)));
        Ok(uses)
    }
}
