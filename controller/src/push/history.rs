//! Earlier generations of a site, and how they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use voipfleet_compiler::plan::{Changes, NodeChange, Owners};
use voipfleet_policy::Documents;
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::Ruleset;

use super::plan::{DocumentDifference, Wanted, document_differences, with_contents};
use super::{PushError, Pushes};
use crate::records::{self, Content, GenerationRecord, NodeId, OutcomeRecord, Read, TargetRecord};
use crate::site_inputs::{InputsError, nodes};
use crate::store::{StoreError, keys};

/// The most generations of a site that are read: more than pruning leaves.
const MOST: usize = 10_000;

/// A site's generations.
#[derive(Debug, Clone)]
pub struct History {
    /// The newest; 0: none.
    pub current: Generation,
    /// Those that are kept, the oldest first.
    pub generations: Vec<GenerationRecord>,
    /// How the rollout of each ended, as far as it has and is known.
    pub outcomes: BTreeMap<Generation, OutcomeRecord>,
    /// What each of the site's nodes has confirmed.
    pub confirmed: BTreeMap<NodeName, Option<Held>>,
}

/// How two generations differ.
#[derive(Debug, Clone)]
pub struct GenerationDifference {
    /// Documents of the site that differ; none: it is not known what one of them was made of.
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
    compiled: Wanted,
}

impl Pushes {
    /// The generations of a site that are kept.
    pub async fn history(&self, site: &SiteName) -> Result<History, PushError> {
        let store = self.store.as_ref();
        let current: Option<Read<TargetRecord>> =
            records::read(store, &keys::current(site)).await?;
        let entries = store.all(&keys::generations(site), MOST).await?;
        let generations: Result<Vec<GenerationRecord>, StoreError> = entries
            .iter()
            .map(|entry| records::from_json(&entry.key, &entry.held))
            .collect();
        let generations = generations?;
        let mut outcomes = BTreeMap::new();
        for record in &generations {
            let key = keys::outcome(site, record.number);
            let read: Option<Read<OutcomeRecord>> = records::read(store, &key).await?;
            outcomes.extend(read.map(|read| (record.number, read.record)));
        }
        let stored = nodes(store, site).await?;
        let known = self
            .documents
            .read()
            .await?
            .documents
            .sites
            .contains_key(site);
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
            current: current.map_or(0, |current| current.record.generation),
            generations,
            outcomes,
            confirmed: confirmed.collect(),
        })
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
        let record = self.generation(site, number).await?;
        Ok(Side {
            documents: self.documents_of(&record).await?.map(Arc::new),
            contents: record.nodes,
            compiled: Wanted::new(),
        })
    }

    async fn side_now(&self, site: &SiteName) -> Result<Side, PushError> {
        let (snapshot, compiled) = self.compile(site).await?;
        let compiled = with_contents(site, compiled.rulesets).await?;
        let contents = compiled
            .iter()
            .map(|(name, (_, content))| (name.clone(), *content));
        Ok(Side {
            documents: Some(snapshot.documents),
            contents: contents.collect(),
            compiled,
        })
    }

    async fn ruleset(
        &self,
        side: &Side,
        name: &NodeName,
        content: &Content,
    ) -> Result<Ruleset, PushError> {
        if let Some((ruleset, _)) = side.compiled.get(name) {
            return Ok(ruleset.clone());
        }
        let missing = || StoreError::Corrupt {
            key: keys::ruleset(&content.digest),
            why: "it is missing, and a generation names it",
        };
        Ok(self.stored(&content.digest).await?.ok_or_else(missing)?)
    }
}
