//! What the nodes of a site should run, read from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::DynamicSetName;

use crate::records::{self, GenerationRecord, NodeId, Read, TargetRecord};
use crate::store::{Revision, Store, StoreError, keys};

/// A site's targets with the generations that they name.
#[derive(Debug, Clone)]
pub struct Targets {
    read: Read<TargetRecord>,
    generations: BTreeMap<Generation, Arc<GenerationRecord>>,
}

impl Targets {
    /// Reads them; none: the site was never pushed.
    pub async fn read(store: &dyn Store, site: &SiteName) -> Result<Option<Self>, StoreError> {
        let Some(read) = records::read::<TargetRecord>(store, &keys::current(site)).await? else {
            return Ok(None);
        };
        let mut generations = BTreeMap::new();
        for number in read.record.wanted() {
            let key = keys::generation(site, number);
            if let Some(generation) = records::read(store, &key).await? {
                generations.insert(number, Arc::new(generation.record));
            }
        }
        Ok(Some(Self { read, generations }))
    }

    /// The transaction that wrote them last.
    pub fn revision(&self) -> Revision {
        self.read.revision
    }

    /// Them, as they are stored.
    pub fn record(&self) -> &TargetRecord {
        &self.read.record
    }

    /// The site's newest generation.
    pub fn newest(&self) -> Option<Arc<GenerationRecord>> {
        self.generations.get(&self.read.record.generation).cloned()
    }

    /// The dynamic sets that some node's rules should refer to.
    pub fn dynamic(&self) -> BTreeSet<DynamicSetName> {
        let all = self.generations.values();
        all.flat_map(|generation| &generation.dynamic)
            .cloned()
            .collect()
    }

    /// What a node should run; none: nothing yet. The node need not be part of it.
    pub fn of(&self, node: &NodeName) -> Option<Arc<GenerationRecord>> {
        let number = self.read.record.of(node)?;
        self.generations.get(&number).cloned()
    }
}

/// A site's newest generation.
pub async fn current(
    store: &dyn Store,
    site: &SiteName,
) -> Result<Option<GenerationRecord>, StoreError> {
    let Some(target) = records::read::<TargetRecord>(store, &keys::current(site)).await? else {
        return Ok(None);
    };
    let key = keys::generation(site, target.record.generation);
    Ok(records::read(store, &key).await?.map(|read| read.record))
}

/// The generation that a node should run, with the transaction that wrote it.
pub async fn target(
    store: &dyn Store,
    id: &NodeId,
) -> Result<(Revision, Option<GenerationRecord>), StoreError> {
    let key = keys::current(&id.site);
    let Some(read) = records::read::<TargetRecord>(store, &key).await? else {
        return Ok((0, None));
    };
    let generation = match read.record.of(&id.node) {
        Some(number) => records::read(store, &keys::generation(&id.site, number)).await?,
        None => None,
    };
    Ok((read.revision, generation.map(|read| read.record)))
}
