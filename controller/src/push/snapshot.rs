//! What a compile stands on, read from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_compiler::{Compiled, InterfaceAddress, NodeInput, compile};
use voipfleet_policy::{self as policy, Diagnostic, Documents, Severity, Source};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::LiveSets;

use super::{PushError, Pushes};
use crate::documents::Cache;
use crate::fleet::held;
use crate::live;
use crate::records::{self, DocumentsVersion, NodeRecord, StatusRecord};
use crate::store::{Store, StoreError, keys};

/// The most nodes of a site.
pub const MAX_NODES: usize = 10_000;

/// A site's documents and nodes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The site.
    pub site: SiteName,
    /// Every document of the installation.
    pub documents: Arc<Documents>,
    /// Their state; with documents that are not stored, the one that these came on top of.
    pub version: DocumentsVersion,
    /// The site's nodes.
    pub nodes: BTreeMap<NodeName, SiteNode>,
}

/// A node of the site.
#[derive(Debug, Clone)]
pub struct SiteNode {
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Its addresses, as it last reported them.
    pub addresses: Vec<InterfaceAddress>,
    /// When it enrolled, Unix time.
    pub enrolled_ms: u64,
    /// What it last said to have confirmed.
    pub confirmed: Option<Held>,
}

/// The stored documents, with those of `sources` in their places.
fn with(stored: &Documents, sources: &[Source]) -> Result<Documents, PushError> {
    let checked = policy::check(sources, stored);
    let mut errors = checked.diagnostics.iter();
    if let Some(first) = errors.find(|found| found.severity == Severity::Error) {
        let Diagnostic { path, line, .. } = first;
        return Err(PushError::Sources(format!(
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
    ) -> Result<Self, PushError> {
        let stored = cache.read().await?;
        let version = stored.version.version;
        let mut documents = stored.documents;
        if !sources.is_empty() {
            let checking = tokio::task::spawn_blocking(move || with(&documents, &sources));
            let checked = checking
                .await
                .map_err(|_| PushError::Broken(site.clone()))?;
            documents = Arc::new(checked?);
        }
        if !documents.sites.contains_key(site) {
            return Err(PushError::UnknownSite(site.clone()));
        }
        Ok(Self {
            site: site.clone(),
            documents,
            version,
            nodes: nodes(store, site).await?,
        })
    }

    fn inputs(&self) -> Vec<NodeInput> {
        inputs(&self.nodes)
    }
}

/// A site's nodes as the compiler sees them.
pub(crate) fn inputs(nodes: &BTreeMap<NodeName, SiteNode>) -> Vec<NodeInput> {
    nodes
        .iter()
        .map(|(name, node)| NodeInput {
            name: name.clone(),
            roles: node.roles.clone(),
            addresses: node.addresses.clone(),
        })
        .collect()
}

/// A site's nodes.
pub(crate) async fn nodes(
    store: &dyn Store,
    site: &SiteName,
) -> Result<BTreeMap<NodeName, SiteNode>, StoreError> {
    let mut nodes = BTreeMap::new();
    for entry in store.all(&keys::nodes(site), MAX_NODES).await? {
        let record: NodeRecord = records::from_json(&entry.key, &entry.held)?;
        if let Some(name) = name(&entry.key) {
            let node = SiteNode {
                roles: record.roles,
                addresses: Vec::new(),
                enrolled_ms: record.enrolled_ms,
                confirmed: None,
            };
            nodes.insert(name, node);
        }
    }
    for entry in store.all(&keys::statuses(site), MAX_NODES).await? {
        let record: StatusRecord = records::from_protobuf(&entry.key, &entry.held)?;
        if let Some(node) = name(&entry.key).and_then(|name| nodes.get_mut(&name)) {
            node.addresses = record
                .facts
                .as_ref()
                .map(|facts| read_addresses(&facts.addresses))
                .unwrap_or_default();
            node.confirmed = record
                .status
                .as_ref()
                .and_then(|status| held(status.confirmed_generation, &status.confirmed_digest));
        }
    }
    Ok(nodes)
}

fn name(key: &str) -> Option<NodeName> {
    keys::site_and_node(key).and_then(|(_, node)| node.parse().ok())
}

/// Addresses from the wire; what is no address is left out.
pub fn read_addresses(addresses: &[pb::InterfaceAddress]) -> Vec<InterfaceAddress> {
    addresses
        .iter()
        .filter_map(|address| {
            let ip: IpAddr = match address.address.len() {
                4 => <[u8; 4]>::try_from(address.address.as_slice()).ok()?.into(),
                _ => <[u8; 16]>::try_from(address.address.as_slice())
                    .ok()?
                    .into(),
            };
            let prefix = u8::try_from(address.prefix_length).ok()?;
            Some(InterfaceAddress {
                interface: address.interface.clone(),
                net: IpNet::new(ip, prefix).ok()?,
            })
        })
        .collect()
}

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
        let live = live::read(store, site, &snapshot.documents, &nodes, now_ms).await?;
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
