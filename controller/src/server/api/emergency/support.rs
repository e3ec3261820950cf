//! Whether what a node runs has a place for what is decided.

use tonic::Status;
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::ruleset::{DynamicSetName, Mode};

use crate::fleet::View;
use crate::records::{self, GenerationRecord, NodeId};
use crate::server::api::{EmergencyApi, failed};
use crate::site_inputs::current;
use crate::store::keys;

impl EmergencyApi {
    /// Whether the rules that a node confirmed refer to a dynamic set.
    pub(super) async fn has_place(
        &self,
        id: &NodeId,
        view: &View,
        source: &DynamicSetName,
    ) -> bool {
        let Some(confirmed) = view.confirmed else {
            return false;
        };
        let key = keys::generation(&id.site, confirmed.generation);
        match records::read::<GenerationRecord>(self.store.as_ref(), &key).await {
            Ok(Some(read)) => read.record.dynamic.contains(source),
            // Pushed long ago, or by another controller: wait for the node's own report.
            Ok(None) => true,
            Err(error) => {
                failed(error);
                true
            }
        }
    }

    /// Whether the last push of a site only observes; before the first, the document's word.
    pub(super) async fn observes(&self, site: &SiteName) -> Result<bool, Status> {
        let store = self.store.as_ref();
        if let Some(generation) = current(store, site).await.map_err(failed)? {
            return Ok(generation.observe);
        }
        let stored = self.documents.read().await.map_err(failed)?;
        let document = stored.documents.sites.get(site);
        Ok(document.is_some_and(|site| site.mode == Mode::Observe))
    }
}
