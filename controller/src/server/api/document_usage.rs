//! Which documents the sites use, for operators whose rights are of a part.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use voipfleet_protocol::identity::rights::{Use, Uses};

use super::failed;
use crate::documents::Cache;
use crate::records::DocumentsVersion;

/// The uses of one state of the documents.
type OfState = (DocumentsVersion, Arc<Uses>);

/// Which documents the sites use. Clones share one cache.
#[derive(Debug, Clone, Default)]
pub(super) struct DocumentUsage {
    /// As read last, with the state of the documents.
    last: Arc<Mutex<Option<OfState>>>,
}

impl DocumentUsage {
    /// As of the present documents.
    pub(super) async fn read(&self, documents: &Cache) -> Result<Arc<Uses>, Status> {
        let stored = documents.read().await.map_err(failed)?;
        let version = stored.version.version;
        {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, uses)) = last.as_ref().filter(|(of, _)| *of == version) {
                return Ok(Arc::clone(uses));
            }
        }
        let mut uses = Uses::new();
        for site in stored.documents.sites.values() {
            uses.insert(site.name.clone(), Use::new(site.needs()));
        }
        let uses = Arc::new(uses);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((version, Arc::clone(&uses)));
        Ok(uses)
    }
}
