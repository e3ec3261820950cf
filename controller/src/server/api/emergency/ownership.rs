//! Whose addresses a block would hit.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::identifiers::SiteName;

use super::protected::{self, Owner, Resolved, Served};
use super::records::written;
use crate::server::api::{EmergencyApi, failed};
use crate::site_inputs::{self, Present};

/// Owners that a refusal names; it counts the others.
const NAMED: usize = 5;

/// The owners of an address.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// `tenant acme: offices (203.0.113.0/24)`, with the sites.
    owners: BTreeMap<String, BTreeSet<SiteName>>,
    kinds: BTreeSet<Owner>,
}

impl Hits {
    fn add(&mut self, site: &SiteName, owned: &Served) {
        let text = format!("{} ({})", owned.origin, written(&owned.net));
        self.owners.entry(text).or_default().insert(site.clone());
        self.kinds.insert(owned.owner);
    }

    /// A refusal that names the owners.
    pub(super) fn refusal(&self, net: &IpNet) -> Option<Status> {
        if self.owners.is_empty() {
            return None;
        }
        let named = self.owners.iter().take(NAMED).map(|(owner, sites)| {
            let sites: Vec<_> = sites.iter().take(NAMED).map(SiteName::as_str).collect();
            format!("{owner} in {}", sites.join(", "))
        });
        let mut text = named.collect::<Vec<_>>().join("; ");
        let more = self.owners.len().saturating_sub(NAMED);
        if more > 0 {
            text = format!("{text}; and {more} more");
        }
        let message = format!("{} belongs to {text}", written(net));
        Some(
            Refusal::new(Reason::ProtectedAddress, message)
                .hint("pass --force to block it anyway")
                .fact("name", written(net))
                .into(),
        )
    }

    /// What a forced block does not reach.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.kinds.contains(&Owner::Admins) {
            notes.push(
                "SSH of admins still passes: every node keeps it open above all else; take the \
                 address out of the site's admins to close it"
                    .to_owned(),
            );
        }
        if self.kinds.contains(&Owner::Cluster) {
            notes.push(
                "it is a member of the cluster: the other nodes take nothing from it until it is \
                 unblocked"
                    .to_owned(),
            );
        }
        notes
    }
}

impl EmergencyApi {
    /// The owners of `net` in each of these sites. A site without a document has none.
    pub(super) async fn whose(
        &self,
        sites: &BTreeSet<SiteName>,
        net: &IpNet,
    ) -> Result<Hits, Status> {
        let store = self.store.as_ref();
        let stored = self.documents.read().await.map_err(failed)?;
        let present = Present::from(stored);
        let mut resolved = Resolved::new();
        let mut hits = Hits::default();
        for site in sites {
            // Documents that were not pushed give nobody a claim to be spared; before the first
            // push they are all that is known.
            let served = present.confirmed(store, site).await.map_err(failed)?;
            let documents = served.unwrap_or_else(|| Arc::clone(&present.documents));
            let Some(document) = documents.sites.get(site) else {
                continue;
            };
            let nodes = site_inputs::nodes(store, site).await.map_err(failed)?;
            for host in protected::hosts(document, &documents) {
                if let Entry::Vacant(entry) = resolved.entry(host) {
                    let value = site_inputs::resolved(store, entry.key()).await;
                    entry.insert(value.map_err(failed)?.elements);
                }
            }
            let nodes = site_inputs::inputs(&nodes, self.clock.now_ms());
            for one in protected::touched(document, &documents, &nodes, &resolved, *net) {
                hits.add(site, &one);
            }
        }
        Ok(hits)
    }
}
