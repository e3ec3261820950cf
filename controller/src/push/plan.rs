//! What a push would change: a proposal, compared with what the nodes have confirmed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use voipfleet_compiler::plan::{
    Changes, ClosedListeners, ListeningNode, NodeChange, Owners, missing_features,
};
use voipfleet_compiler::{Dropped, PendingAddress};
use voipfleet_controller_core::proposal::ProposedNode;
use voipfleet_policy::{Document, Documents, FieldChange, Kind, Site, differences};
use voipfleet_ruleset::identifiers::{ListName, NodeName, SiteName};
use voipfleet_ruleset::ruleset::{DynamicSets, Ruleset};

use super::planned_sources::{self, PlannedSource};
use super::stored_content::{documents_of, named_ruleset, stored_ruleset};
use super::{Pipeline, Proposed, PushError, PushRequest};
use crate::clock::Clock;
use crate::documents::documents_at;
use crate::records::GenerationRecord;
use crate::site_inputs::{self, SiteNode};
use crate::store::{Store, StoreError};

/// Renders proposals.
#[derive(Debug, Clone)]
pub struct Planner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    pipeline: Pipeline,
}

/// A proposal with what it changes.
#[derive(Debug)]
pub struct Plan {
    pub proposed: Proposed,
    /// How what each node runs compares with what it would run.
    pub compared: BTreeMap<NodeName, Compared>,
    /// The state of the documents that the site's generation was made of; none: unknown.
    pub documents_at: Option<u64>,
    /// Documents of the site that differ from those.
    pub documents: Vec<DocumentDifference>,
    /// What changes on the nodes.
    pub changes: Changes,
    /// DNS names and feeds that the rules would use.
    pub sources: Vec<PlannedSource>,
    /// What fetched lists would lose, because the site would serve it.
    pub exemptions: BTreeMap<ListName, Vec<Dropped>>,
    /// The proposal's and the plan's own.
    pub warnings: Vec<String>,
    /// Addresses that nodes report and that would be no members of the cluster.
    pub pending: Vec<PendingAddress>,
}

/// A document that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentDifference {
    pub kind: Kind,
    pub name: String,
    /// It was there before.
    pub before: bool,
    /// It is there now.
    pub after: bool,
    pub fields: Vec<FieldChange>,
}

/// How what a node runs compares with what it would run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    Unchanged,
    Changed,
    /// It runs nothing yet.
    First,
    /// The store does not hold what it runs.
    Unknown,
}

impl Planner {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, pipeline: Pipeline) -> Self {
        Self {
            store,
            clock,
            pipeline,
        }
    }

    /// What a push would change now. `operator` is the address that the operator calls from.
    pub async fn plan(
        &self,
        request: &PushRequest,
        operator: Option<IpAddr>,
    ) -> Result<Plan, PushError> {
        let proposed = self.pipeline.propose(request).await?;
        let wanted = self.wanted(&proposed).await?;
        let running = self.running(&proposed).await?;
        let compared = running.iter();
        let compared = compared.map(|(name, running)| (name.clone(), running.compared()));
        let compared: BTreeMap<NodeName, Compared> = compared.collect();
        let current = proposed.proposal.current.as_ref();
        let current = current.map(|current| &current.generation);
        let (documents_at, before) = self.documents_before(current, &proposed).await?;
        let after = self.documents_after(&proposed).await?;
        let mut warnings = proposed.proposal.warnings.clone();
        warnings.extend(together(&proposed));
        let exemptions = site_inputs::lost(self.store.as_ref(), &request.site, &after).await?;
        let pending = proposed.pending.clone();
        let sources = self.sources(&wanted, &running).await?;
        warnings.extend(sources.iter().filter_map(PlannedSource::warning));
        let comparison = Comparison {
            site: request.site.clone(),
            operator,
            wanted,
            running,
            before,
            after,
            hosts: proposed.hosts.clone(),
            dynamic: proposed.dynamic.clone(),
            rollback: proposed.proposal.rollback_to.is_some(),
            now: self.clock.now_ms() / 1000,
        };
        let comparing = tokio::task::spawn_blocking(move || comparison.run());
        let broken = |_| PushError::Broken(request.site.clone());
        let (documents, changes, found) = comparing.await.map_err(broken)?;
        warnings.extend(found);
        Ok(Plan {
            proposed,
            compared,
            documents_at,
            documents,
            changes,
            sources,
            exemptions,
            warnings,
            pending,
        })
    }

    /// The proposed rulesets: those that were compiled for it, and those that are stored.
    async fn wanted(&self, proposed: &Proposed) -> Result<BTreeMap<NodeName, Ruleset>, PushError> {
        let proposal = &proposed.proposal;
        let mut wanted = proposal.compiled.clone();
        for (name, node) in &proposal.nodes {
            if !wanted.contains_key(name) {
                let ruleset = named_ruleset(self.store.as_ref(), &node.content.digest).await?;
                wanted.insert(name.clone(), ruleset);
            }
        }
        Ok(wanted)
    }

    /// What each node runs, as far as it is another ruleset than the proposed one.
    async fn running(
        &self,
        proposed: &Proposed,
    ) -> Result<BTreeMap<NodeName, Running>, StoreError> {
        let mut running = BTreeMap::new();
        for (name, node) in &proposed.proposal.nodes {
            running.insert(name.clone(), self.node_running(name, node).await?);
        }
        Ok(running)
    }

    async fn node_running(
        &self,
        name: &NodeName,
        node: &ProposedNode,
    ) -> Result<Running, StoreError> {
        let Some(held) = node.state.confirmed else {
            return Ok(Running::Nothing);
        };
        if node.is_unchanged() {
            return Ok(Running::Same);
        }
        let ruleset = stored_ruleset(self.store.as_ref(), &held.digest).await?;
        // Another host had the name, or the node reports a ruleset of another one.
        let own = ruleset.filter(|ruleset| ruleset.node == *name);
        Ok(own.map_or(Running::Unknown, |ruleset| {
            Running::Other(Box::new(ruleset))
        }))
    }

    /// The DNS names and feeds that the wanted rulesets use.
    async fn sources(
        &self,
        wanted: &BTreeMap<NodeName, Ruleset>,
        running: &BTreeMap<NodeName, Running>,
    ) -> Result<Vec<PlannedSource>, StoreError> {
        let mut used = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (name, ruleset) in wanted {
            used.extend(ruleset.dynamic_names());
            match running.get(name) {
                Some(Running::Same) => known.extend(ruleset.dynamic_names()),
                Some(Running::Other(before)) => known.extend(before.dynamic_names()),
                Some(Running::Nothing | Running::Unknown) | None => {}
            }
        }
        planned_sources::read(self.store.as_ref(), used, &known).await
    }

    /// The documents that the site's generation was made of, with their state; else those that
    /// are stored.
    async fn documents_before(
        &self,
        current: Option<&GenerationRecord>,
        proposed: &Proposed,
    ) -> Result<(Option<u64>, Documents), StoreError> {
        let store = self.store.as_ref();
        if let Some(current) = current
            && let Some(documents) = documents_of(store, current).await?
        {
            return Ok((current.documents, documents));
        }
        let version = proposed.proposal.precondition.content.documents;
        let stored = documents_at(store, version).await?;
        Ok((None, stored.unwrap_or_default()))
    }

    /// The documents that the proposed rulesets are made of.
    async fn documents_after(&self, proposed: &Proposed) -> Result<Arc<Documents>, StoreError> {
        let documents = match proposed.earlier() {
            Some(earlier) => documents_of(self.store.as_ref(), earlier).await?,
            None => None,
        };
        Ok(documents.map_or_else(|| Arc::clone(&proposed.documents), Arc::new))
    }
}

/// Warnings about roles all of whose nodes change at the same time, though there are batches.
fn together(proposed: &Proposed) -> Vec<String> {
    let batches = &proposed.proposal.batches;
    if batches.batches.len() <= 1 {
        return Vec::new();
    }
    let warning = |role: &voipfleet_ruleset::role::Role| {
        format!(
            "every {} node that changes does so in the same batch; a smaller rollout.batch leaves \
             some as they are meanwhile",
            role.code()
        )
    };
    batches.together.iter().map(warning).collect()
}

/// What a node runs.
enum Running {
    Nothing,
    Same,
    Other(Box<Ruleset>),
    Unknown,
}

impl Running {
    fn compared(&self) -> Compared {
        match self {
            Running::Same => Compared::Unchanged,
            Running::Other(_) => Compared::Changed,
            Running::Nothing => Compared::First,
            Running::Unknown => Compared::Unknown,
        }
    }
}

/// Compares rulesets and documents: it takes a while, off the async threads.
struct Comparison {
    site: SiteName,
    operator: Option<IpAddr>,
    wanted: BTreeMap<NodeName, Ruleset>,
    running: BTreeMap<NodeName, Running>,
    before: Documents,
    after: Arc<Documents>,
    hosts: BTreeMap<NodeName, SiteNode>,
    dynamic: DynamicSets,
    rollback: bool,
    /// Unix time, seconds.
    now: u64,
}

impl Comparison {
    /// Documents, rules and access that change, and warnings about them.
    fn run(self) -> (Vec<DocumentDifference>, Changes, Vec<String>) {
        let site = &self.site;
        let owners = |documents: &Documents| {
            let site = documents.sites.get(site);
            site.map(|site| Owners::of(site, documents))
                .unwrap_or_default()
        };
        let pairs: Vec<NodeChange<'_>> = self
            .wanted
            .iter()
            .filter_map(|(node, after)| {
                let before = match self.running.get(node) {
                    Some(Running::Other(before)) => Some(before.as_ref()),
                    Some(Running::Nothing) => None,
                    Some(Running::Same | Running::Unknown) | None => return None,
                };
                Some(NodeChange {
                    node,
                    before,
                    after,
                })
            })
            .collect();
        let (before, after) = (owners(&self.before), owners(&self.after));
        let changes = Changes::of(&pairs, &before, &after);
        let mut warnings: Vec<String> = Vec::new();
        warnings.extend(changes.warnings(&pairs, self.operator, self.now));
        warnings.extend(self.hosts_warnings(&pairs));
        if self.rollback {
            // A rollback changes no document.
            warnings.push(format!(
                "documents stay as they are, and the next push brings back what they say: \
                 correct them before you push {site} again"
            ));
            return (Vec::new(), changes, warnings);
        }
        let documents = document_differences(site, &self.before, &self.after);
        (documents, changes, warnings)
    }
}

impl Comparison {
    /// What the machines themselves would make of it: kernels that refuse it, and daemons that it
    /// closes.
    fn hosts_warnings(&self, pairs: &[NodeChange<'_>]) -> Vec<String> {
        let features = pairs.iter().filter_map(|change| {
            let host = self.hosts.get(change.node)?;
            Some((change.node, change.after, host.missing_features.as_slice()))
        });
        let mut warnings = missing_features(features);
        let mut closed = ClosedListeners::default();
        for change in pairs {
            let Some(host) = self.hosts.get(change.node) else {
                continue;
            };
            if host.listeners.is_empty() {
                continue;
            }
            let (before, after) = (
                change.before.map(|one| self.filled(one)),
                self.filled(change.after),
            );
            closed.add(&ListeningNode {
                node: change.node,
                before: before.as_deref(),
                after: &after,
                listeners: &host.listeners,
            });
        }
        warnings.extend(closed.warnings());
        warnings
    }

    /// A ruleset with what its dynamic sets hold; one that is not known holds nothing.
    fn filled<'r>(&self, ruleset: &'r Ruleset) -> Cow<'r, Ruleset> {
        let known = self.dynamic.only(&ruleset.dynamic_names());
        let filled = ruleset.with_dynamic(&known);
        filled.map_or(Cow::Borrowed(ruleset), Cow::Owned)
    }
}

/// The documents of a site that differ, by kind and name.
pub(crate) fn document_differences(
    site: &SiteName,
    before: &Documents,
    after: &Documents,
) -> Vec<DocumentDifference> {
    let needs = |documents: &Documents| documents.sites.get(site).map(Site::needs);
    let mut needed = needs(before).unwrap_or_default();
    needed.extend(needs(after).unwrap_or_default());
    let mut all = Vec::new();
    for (kind, name) in needed {
        let of = |documents: &Documents| -> Option<Document> { documents.get(kind, &name) };
        let (old, new) = (of(before), of(after));
        let fields = differences(old.as_ref(), new.as_ref());
        if old != new {
            all.push(DocumentDifference {
                kind,
                name,
                before: old.is_some(),
                after: new.is_some(),
                fields,
            });
        }
    }
    all
}
