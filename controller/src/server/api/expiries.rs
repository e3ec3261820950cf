//! Certificates that end soon, as far as the caller may know of them.

use std::sync::Arc;

use tonic::Status;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Caller, failed};
use crate::clock::Clock;
use crate::pki::{Authority, ServerCertificate};
use crate::records::{self, NodeRecord, OperatorRecord};
use crate::store::{Store, StoreError, every, keys};

/// How long before its end a certificate is shown: renewing nodes and operators takes people.
const AHEAD_MS: u64 = 60 * 24 * 3_600_000;
/// The most that one answer names.
const MOST: usize = 100;

/// What ends.
#[derive(Debug, Clone)]
pub(super) struct Expiries {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authority: Arc<Authority>,
    pub(super) certificate: Arc<ServerCertificate>,
}

impl Expiries {
    /// Adds them to the sites of a status.
    pub(super) async fn fill(
        &self,
        caller: &Caller,
        answer: &mut v1::StatusResponse,
    ) -> Result<(), Status> {
        for site in &mut answer.sites {
            if let Ok(name) = site.site.parse() {
                site.expiries = self.of_site(caller, &name).await?;
            }
        }
        Ok(())
    }

    /// Those that concern a site, the first first.
    pub(super) async fn of_site(
        &self,
        caller: &Caller,
        site: &SiteName,
    ) -> Result<Vec<v1::Expiry>, Status> {
        let mut all = vec![expiry("your certificate", caller.certificate_expires_ms)];
        if caller.sight.whole_site(site) {
            all.push(expiry("server certificate", self.certificate.expires_ms()));
            all.push(expiry("CA certificate", self.authority.expires_ms()));
            all.extend(self.nodes(site).await.map_err(failed)?);
        }
        if caller.sight.is_all() {
            all.extend(self.operators(caller).await.map_err(failed)?);
        }
        let soon_ms = self.clock.now_ms().saturating_add(AHEAD_MS);
        all.retain(|one| one.at_ms > 0 && one.at_ms < soon_ms);
        all.sort_by(|a, b| (a.at_ms, &a.what).cmp(&(b.at_ms, &b.what)));
        all.truncate(MOST);
        Ok(all)
    }

    async fn nodes(&self, site: &SiteName) -> Result<Vec<v1::Expiry>, StoreError> {
        let mut nodes = Vec::new();
        for entry in every(self.store.as_ref(), &keys::nodes(site)).await? {
            let record: NodeRecord = records::from_json(&entry.key, &entry.held)?;
            if let Some((site, node)) = keys::site_and_node(&entry.key) {
                nodes.push(expiry(format!("node {site}/{node}"), record.expires_ms));
            }
        }
        Ok(nodes)
    }

    /// The others than the caller, by their newest certificates.
    async fn operators(&self, caller: &Caller) -> Result<Vec<v1::Expiry>, StoreError> {
        let mut operators = Vec::new();
        for entry in every(self.store.as_ref(), keys::ALL_OPERATORS).await? {
            let record: OperatorRecord = records::from_json(&entry.key, &entry.held)?;
            let name = entry.key.strip_prefix(keys::ALL_OPERATORS);
            let name = name.filter(|name| *name != caller.name.as_str());
            if let (Some(name), Some(last)) = (name, record.keys.last()) {
                operators.push(expiry(format!("operator {name}"), last.expires_ms));
            }
        }
        Ok(operators)
    }
}

fn expiry(what: impl Into<String>, at_ms: u64) -> v1::Expiry {
    let what = what.into();
    v1::Expiry { what, at_ms }
}
