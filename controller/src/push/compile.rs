//! Compiling a site as it is in the store, or as it would be.

use voipfleet_compiler::{Compiled, compile};
use voipfleet_policy::Source;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::LiveSets;

use super::{PushError, Pushes};
use crate::site_inputs::{self, SiteNode, Snapshot};

impl Pushes {
    /// Reads a site and compiles it.
    pub async fn compile(&self, site: &SiteName) -> Result<(Snapshot, Compiled), PushError> {
        self.compile_as_if(site, Vec::new()).await
    }

    /// The same as if `sources` were stored.
    pub(super) async fn compile_as_if(
        &self,
        site: &SiteName,
        sources: Vec<Source>,
    ) -> Result<(Snapshot, Compiled), PushError> {
        let snapshot = Snapshot::read(self.store.as_ref(), &self.documents, site, sources).await?;
        let (snapshot, _, compiled) = self.compile_snapshot(site, snapshot).await?;
        Ok((snapshot, compiled))
    }

    /// The same as if `node` were one of the site's nodes, or another than it is.
    pub async fn compile_with(
        &self,
        site: &SiteName,
        name: NodeName,
        node: SiteNode,
    ) -> Result<(LiveSets, Compiled), PushError> {
        let mut snapshot =
            Snapshot::read(self.store.as_ref(), &self.documents, site, Vec::new()).await?;
        snapshot.nodes.insert(name, node);
        let (_, live, compiled) = self.compile_snapshot(site, snapshot).await?;
        Ok((live, compiled))
    }

    /// Reads a site and compiles it, with what its live sources hold now.
    pub async fn compile_live(&self, site: &SiteName) -> Result<(LiveSets, Compiled), PushError> {
        let snapshot =
            Snapshot::read(self.store.as_ref(), &self.documents, site, Vec::new()).await?;
        let (_, live, compiled) = self.compile_snapshot(site, snapshot).await?;
        Ok((live, compiled))
    }

    async fn compile_snapshot(
        &self,
        site: &SiteName,
        snapshot: Snapshot,
    ) -> Result<(Snapshot, LiveSets, Compiled), PushError> {
        let broken = || PushError::Broken(site.clone());
        let _turn = self.compiles.acquire().await.map_err(|_| broken())?;
        let (store, now_ms) = (self.store.as_ref(), self.clock.now_ms());
        let nodes = snapshot.inputs();
        let live = site_inputs::read(store, site, &snapshot.documents, &nodes, now_ms).await?;
        let (snapshot, live, compiled) = tokio::task::spawn_blocking(move || {
            let compiled = compile(&snapshot.site, &snapshot.documents, &nodes, &live);
            (snapshot, live, compiled)
        })
        .await
        .map_err(|_| broken())?;
        let compiled = compiled.map_err(|source| PushError::Compile {
            site: site.clone(),
            source,
        })?;
        Ok((snapshot, live, compiled))
    }
}
