//! Compiling a site as it is in the store, or as it would be.

use std::sync::Arc;

use tokio::sync::Semaphore;
use voipfleet_compiler::{Compiled, compile};
use voipfleet_policy::Source;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::DynamicSets;

use super::PushError;
use crate::clock::Clock;
use crate::documents::Cache;
use crate::site_inputs::{self, InputsError, SiteNode, Snapshot};
use crate::store::Store;

/// Compiles at the same time: each takes a processor.
const COMPILES: usize = 2;

#[derive(Debug, Clone)]
pub struct Compiler {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    documents: Cache,
    permits: Arc<Semaphore>,
}

impl Compiler {
    /// The present documents.
    pub(super) fn documents(&self) -> &Cache {
        &self.documents
    }

    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, documents: Cache) -> Self {
        Self {
            store,
            clock,
            documents,
            permits: Arc::new(Semaphore::new(COMPILES)),
        }
    }

    /// Reads a site, as it would be with `sources` stored too.
    pub(super) async fn snapshot(
        &self,
        site: &SiteName,
        sources: Vec<Source>,
    ) -> Result<Snapshot, InputsError> {
        Snapshot::read(self.store.as_ref(), &self.documents, site, sources).await
    }

    /// What the dynamic sets of a site hold now.
    pub(super) async fn dynamic_sets(&self, snapshot: &Snapshot) -> Result<DynamicSets, PushError> {
        let (site, documents) = (&snapshot.site, &snapshot.documents);
        let (store, now_ms) = (self.store.as_ref(), self.clock.now_ms());
        let nodes = snapshot.inputs(now_ms);
        Ok(site_inputs::read(store, site, documents, &nodes, now_ms).await?)
    }

    /// Reads a site and compiles it, with what its dynamic sets hold now.
    pub async fn compile_site(
        &self,
        site: &SiteName,
    ) -> Result<(DynamicSets, Compiled), PushError> {
        let snapshot = self.snapshot(site, Vec::new()).await?;
        self.compile(&snapshot).await
    }

    /// The same as if `node` were one of the site's nodes, or different from what it is.
    pub async fn compile_with(
        &self,
        site: &SiteName,
        name: NodeName,
        node: SiteNode,
    ) -> Result<(DynamicSets, Compiled), PushError> {
        let mut snapshot = self.snapshot(site, Vec::new()).await?;
        snapshot.nodes.insert(name, node);
        self.compile(&snapshot).await
    }

    pub(super) async fn compile(
        &self,
        snapshot: &Snapshot,
    ) -> Result<(DynamicSets, Compiled), PushError> {
        let site = snapshot.site.clone();
        let broken = || PushError::Broken(snapshot.site.clone());
        let _permit = self.permits.acquire().await.map_err(|_| broken())?;
        let (store, now_ms) = (self.store.as_ref(), self.clock.now_ms());
        let documents = Arc::clone(&snapshot.documents);
        let nodes = snapshot.inputs(now_ms);
        let dynamic = site_inputs::read(store, &site, &documents, &nodes, now_ms).await?;
        let compiling = tokio::task::spawn_blocking(move || {
            let compiled = compile(&site, &documents, &nodes, &dynamic);
            (dynamic, compiled)
        });
        let (dynamic, compiled) = compiling.await.map_err(|_| broken())?;
        let compiled = compiled.map_err(|source| PushError::Compile {
            site: snapshot.site.clone(),
            source,
        })?;
        Ok((dynamic, compiled))
    }
}
