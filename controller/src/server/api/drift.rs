//! Drift records, newest first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::server::rpc_status::unknown_site;
use tonic::Status;
use voipfleet_proto::v1::{DriftRecord, DriftRequest, DriftResponse, NodeDrift};
use voipfleet_ruleset::identifiers::SiteName;

use super::fields::parse;
use super::{FleetApi, failed};
use crate::records;
use crate::store::keys;

/// Records in an answer by default.
const DEFAULT_LIMIT: usize = 1000;
/// The most records in an answer.
const MAX_LIMIT: usize = 10_000;
/// Records that are read at once.
const PAGE: usize = 1000;

impl FleetApi {
    /// The newest records of a site, or of all.
    pub(super) async fn drift(&self, request: &DriftRequest) -> Result<DriftResponse, Status> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit => usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        let prefix = match request.site.as_str() {
            "" => keys::ALL_DRIFT.to_owned(),
            site => {
                let site: SiteName = parse(site)?;
                self.require_site(&site).await?;
                keys::site_drift(site)
            }
        };
        // By time, newest first; never more than asked for.
        let mut newest: BTreeMap<(Reverse<u64>, String), NodeDrift> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(&prefix, after.as_deref(), PAGE).await;
            let page = page.map_err(failed)?;
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let record: DriftRecord =
                    records::from_protobuf(&entry.key, &entry.held).map_err(failed)?;
                let Some((site, node)) = keys::site_and_node(&entry.key) else {
                    continue;
                };
                let found = NodeDrift {
                    site: site.to_owned(),
                    node: node.to_owned(),
                    record: None,
                };
                let at = Reverse(record.at_ms);
                let found = NodeDrift {
                    record: Some(record),
                    ..found
                };
                newest.insert((at, entry.key), found);
                if newest.len() > limit {
                    newest.pop_last();
                }
            }
            if !page.more {
                break;
            }
        }
        Ok(DriftResponse {
            records: newest.into_values().collect(),
            sums: Vec::new(),
        })
    }

    /// A site that is not there has no drift: an empty answer would look like a clean one.
    async fn require_site(&self, site: &SiteName) -> Result<(), Status> {
        let stored = self.documents.read().await.map_err(failed)?;
        let nodes = self.store.range(&keys::nodes(site), None, 1).await;
        if stored.documents.sites.contains_key(site) || !nodes.map_err(failed)?.entries.is_empty() {
            return Ok(());
        }
        Err(unknown_site(site))
    }
}
