//! Earlier generations of a site, and how they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use voipfleet_compiler::plan::{Changes, NodeChange, Owners};
use voipfleet_policy::Documents;
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::{Digest, Ruleset};

use super::plan::{DocumentDifference, document_differences};
use super::stored_content::{documents_of, generation, named_ruleset};
use super::{Compiler, PushError};
use crate::fleet::Fleet;
use crate::records::{self, Content, GenerationRecord, NodeId, OutcomeRecord, Read, TargetRecord};
use crate::site_inputs::{InputsError, nodes};
use crate::store::{Store, StoreError, keys};

/// The most generations of a site that are read: more than pruning leaves.
const MOST: usize = 10_000;

/// A site's generations.
#[derive(Debug, Clone)]
pub struct History {
    /// The newest; none: the site was never pushed.
    pub current: Option<Generation>,
    /// Those that are kept, the oldest first.
    pub generations: Vec<GenerationRecord>,
    /// How the rollout of each ended, as far as it has.
    pub outcomes: BTreeMap<Generation, OutcomeRecord>,
    /// What each of the site's nodes has confirmed.
    pub confirmed: BTreeMap<NodeName, Option<Held>>,
}

/// How two generations differ.
#[derive(Debug, Clone)]
pub struct GenerationDifference {
    /// Documents of the site that differ; none: the documents of one of them are unknown.
    pub documents: Option<Vec<DocumentDifference>>,
    /// Rules of nodes that are in both.
    pub changes: Changes,
    /// Nodes of the later one only.
    pub added: Vec<NodeName>,
    /// Nodes of the earlier one only.
    pub removed: Vec<NodeName>,
}

/// One side of a comparison.
struct Side {
    documents: Option<Arc<Documents>>,
    contents: BTreeMap<NodeName, Content>,
    /// Where they are not in the store.
    compiled: BTreeMap<NodeName, Ruleset>,
}

/// Reads generations that are kept.
#[derive(Debug, Clone)]
pub struct HistoryReader {
    store: Arc<dyn Store>,
    fleet: Fleet,
    compiler: Compiler,
}

impl HistoryReader {
    pub(super) fn new(store: Arc<dyn Store>, fleet: Fleet, compiler: Compiler) -> Self {
        Self {
            store,
            fleet,
            compiler,
        }
    }

    /// The generations of a site that are kept.
    pub async fn read(&self, site: &SiteName) -> Result<History, PushError> {
        let store = self.store.as_ref();
        let current: Option<Read<TargetRecord>> =
            records::read(store, &keys::current(site)).await?;
        let entries = store.all(&keys::generations(site), MOST).await?;
        let mut generations: Vec<GenerationRecord> = Vec::with_capacity(entries.len());
        for entry in entries {
            generations.push(records::load(store, &entry).await?);
        }
        let mut outcomes = BTreeMap::new();
        for record in &generations {
            let key = keys::outcome(site, record.number);
            let read: Option<Read<OutcomeRecord>> = records::read(store, &key).await?;
            outcomes.extend(read.map(|read| (record.number, read.record)));
        }
        let stored = nodes(store, site).await?;
        let present = self.compiler.documents().read().await?;
        let known = present.documents.sites.contains_key(site);
        if current.is_none() && !known {
            return Err(InputsError::UnknownSite(site.clone()).into());
        }
        let confirmed = stored.into_iter().map(|(name, node)| {
            let id = NodeId {
                site: site.clone(),
                node: name.clone(),
            };
            let view = self.fleet.view(&id);
            let held = view.map_or(node.confirmed, |view| view.confirmed);
            (name, held)
        });
        Ok(History {
            current: current.map(|current| current.record.generation),
            generations,
            outcomes,
            confirmed: confirmed.collect(),
        })
    }

    /// The documents that a generation was made of; none: unknown.
    pub async fn documents_of(
        &self,
        record: &GenerationRecord,
    ) -> Result<Option<Documents>, StoreError> {
        documents_of(self.store.as_ref(), record).await
    }

    /// How generation `from` differs from `to`, or from what a push would make now.
    pub async fn difference(
        &self,
        site: &SiteName,
        from: Generation,
        to: Option<Generation>,
    ) -> Result<GenerationDifference, PushError> {
        let before = self.side(site, from).await?;
        let after = match to {
            Some(to) => self.side(site, to).await?,
            None => self.side_now(site).await?,
        };
        let mut pairs: Vec<(NodeName, Ruleset, Ruleset)> = Vec::new();
        for (name, content) in &before.contents {
            let differs = after
                .contents
                .get(name)
                .filter(|other| other.digest != content.digest);
            if let Some(other) = differs {
                let old = self.ruleset(&before, name, content).await?;
                let new = self.ruleset(&after, name, other).await?;
                pairs.push((name.clone(), old, new));
            }
        }
        let names = |side: &Side| {
            side.contents
                .keys()
                .cloned()
                .collect::<BTreeSet<NodeName>>()
        };
        let (old, new) = (names(&before), names(&after));
        let own = site.clone();
        let comparing = tokio::task::spawn_blocking(move || {
            let owners = |documents: &Option<Arc<Documents>>| {
                let documents = documents.as_deref();
                let found = documents.and_then(|all| Some((all.sites.get(&own)?, all)));
                found
                    .map(|(site, all)| Owners::of(site, all))
                    .unwrap_or_default()
            };
            let nodes: Vec<NodeChange<'_>> = pairs
                .iter()
                .map(|(node, before, after)| NodeChange {
                    node,
                    before: Some(before),
                    after,
                })
                .collect();
            let changes = Changes::of(
                &nodes,
                &owners(&before.documents),
                &owners(&after.documents),
            );
            let documents = match (&before.documents, &after.documents) {
                (Some(before), Some(after)) => Some(document_differences(&own, before, after)),
                _ => None,
            };
            (changes, documents)
        });
        let broken = |_| PushError::Broken(site.clone());
        let (changes, documents) = comparing.await.map_err(broken)?;
        Ok(GenerationDifference {
            documents,
            changes,
            added: new.difference(&old).cloned().collect(),
            removed: old.difference(&new).cloned().collect(),
        })
    }

    async fn side(&self, site: &SiteName, number: Generation) -> Result<Side, PushError> {
        let store = self.store.as_ref();
        let record = generation(store, site, number).await?.record;
        Ok(Side {
            documents: documents_of(store, &record).await?.map(Arc::new),
            contents: record.nodes,
            compiled: BTreeMap::new(),
        })
    }

    async fn side_now(&self, site: &SiteName) -> Result<Side, PushError> {
        let snapshot = self.compiler.snapshot(site, Vec::new()).await?;
        let (_, compiled) = self.compiler.compile(&snapshot).await?;
        let encoding = tokio::task::spawn_blocking(move || {
            let content = |(name, ruleset): (NodeName, Ruleset)| {
                let encoded = ruleset.encode();
                let content = Content {
                    digest: Digest::of(&encoded),
                    size: encoded.len() as u64,
                };
                ((name.clone(), content), (name, ruleset))
            };
            compiled.rulesets.into_iter().map(content).unzip()
        });
        let (contents, compiled) = encoding
            .await
            .map_err(|_| PushError::Broken(site.clone()))?;
        Ok(Side {
            documents: Some(snapshot.documents),
            contents,
            compiled,
        })
    }

    async fn ruleset(
        &self,
        side: &Side,
        name: &NodeName,
        content: &Content,
    ) -> Result<Ruleset, PushError> {
        if let Some(ruleset) = side.compiled.get(name) {
            return Ok(ruleset.clone());
        }
        Ok(named_ruleset(self.store.as_ref(), &content.digest).await?)
    }
}
