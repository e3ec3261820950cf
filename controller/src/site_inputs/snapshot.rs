//! The input of a compile, read from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use voipfleet_compiler::NodeInput;
use voipfleet_policy::{self as policy, Diagnostic, Documents, Severity, Source};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use super::nodes::{SiteNode, inputs, nodes};
use crate::documents::{Cache, Stored};
use crate::records::DocumentsVersion;
use crate::store::{Store, StoreError};

/// Why a site cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// No document of the site.
    #[error("there is no site {0}")]
    UnknownSite(SiteName),
    /// Documents given to a dry run that would not be stored.
    #[error("the given documents have errors, the first in {0}")]
    Sources(String),
    /// The checker's thread panicked.
    #[error("the documents of site {0} could not be checked")]
    Broken(SiteName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A site's documents and nodes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The site.
    pub site: SiteName,
    /// Every document of the installation.
    pub documents: Arc<Documents>,
    /// The stored documents, with their last changes; none where those of a generation are asked for.
    pub stored: Option<Stored>,
    /// Their state; with documents that are not stored, the one that these came on top of.
    pub version: DocumentsVersion,
    /// The operator who changed the documents last; none: unknown.
    pub changed_by: Option<String>,
    /// The site's nodes.
    pub nodes: BTreeMap<NodeName, SiteNode>,
}

/// The stored documents, with those of `sources` in their places.
fn with(stored: &Documents, sources: &[Source]) -> Result<Documents, InputsError> {
    let checked = policy::check(sources, stored);
    let mut errors = checked.diagnostics.iter();
    if let Some(first) = errors.find(|found| found.severity == Severity::Error) {
        let Diagnostic { path, line, .. } = first;
        return Err(InputsError::Sources(format!(
            "{path}:{line}: {}",
            first.message
        )));
    }
    let mut all = stored.clone();
    all.extend(checked.documents);
    Ok(all)
}

impl Snapshot {
    /// Reads a site, as it would be with `sources` stored too. Parsing long lists takes a while:
    /// it is done off the async threads.
    pub async fn read(
        store: &dyn Store,
        cache: &Cache,
        site: &SiteName,
        sources: Vec<Source>,
    ) -> Result<Self, InputsError> {
        let stored = cache.read().await?;
        let version = stored.version.version;
        let changed_by = Some(stored.version.by.clone()).filter(|by| !by.is_empty());
        let mut documents = Arc::clone(&stored.documents);
        if !sources.is_empty() {
            let checking = tokio::task::spawn_blocking(move || with(&documents, &sources));
            let checked = checking
                .await
                .map_err(|_| InputsError::Broken(site.clone()))?;
            documents = Arc::new(checked?);
        }
        if !documents.sites.contains_key(site) {
            return Err(InputsError::UnknownSite(site.clone()));
        }
        Ok(Self {
            site: site.clone(),
            documents,
            stored: Some(stored),
            version,
            changed_by,
            nodes: nodes(store, site).await?,
        })
    }

    /// Its nodes as the compiler sees them at `now_ms`, Unix time.
    pub fn inputs(&self, now_ms: u64) -> Vec<NodeInput> {
        inputs(&self.nodes, now_ms)
    }
}
