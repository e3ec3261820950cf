//! What a push would change, compared with what the nodes have confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use voipfleet_compiler::plan::{Changes, NodeChange, Owners};
use voipfleet_controller_core::precondition::{BasisStaging, PlanBasis};
use voipfleet_controller_core::rollout::batches::{Candidate, Ordered, order};
use voipfleet_policy::{Document, Documents, FieldChange, Kind, Site, Source, differences};
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Digest, Ruleset};

use super::commit::batch_size;
use super::prepare::{Before, compare, newest, staging};
use super::sources::{self, PlannedSource};
use super::{Order, PushError, Pushes, Want};
use crate::documents::documents_at;
use crate::records::{self, Content, GenerationRecord, NodeId};
use crate::rulesets;
use crate::site_inputs::Snapshot;
use crate::store::{StoreError, keys};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The site.
    pub site: SiteName,
    /// Documents as if they were stored.
    pub sources: Vec<Source>,
    /// What the documents say, or what an earlier generation held.
    pub want: Want,
    /// Where the operator speaks from; none: not known.
    pub operator: Option<IpAddr>,
}

/// What a push would do.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The number that it would have; where nothing changes, the site's own.
    pub generation: Generation,
    /// The earlier one whose content it would be; none: of the documents.
    pub to: Option<Generation>,
    /// The site's own; 0: none.
    pub current: Generation,
    /// Whether there would be a new generation.
    pub changed: bool,
    /// The state of the documents that the site's generation was made of; none: not known.
    pub documents_at: Option<u64>,
    /// Documents of the site that differ from those.
    pub documents: Vec<DocumentDifference>,
    /// What changes on the nodes.
    pub changes: Changes,
    /// Every node.
    pub nodes: BTreeMap<NodeName, PlannedNode>,
    /// The batches in which nodes would be given it, the canary first.
    pub steps: Vec<Vec<NodeName>>,
    /// DNS names and feeds that the rules would use.
    pub live: Vec<PlannedSource>,
    /// What an operator must not overlook.
    pub warnings: Vec<String>,
    /// What it all stands on.
    pub basis: PlanBasis,
}

/// A document that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentDifference {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// It was there before.
    pub before: bool,
    /// It is there now.
    pub after: bool,
    /// Its fields.
    pub fields: Vec<FieldChange>,
}

/// A node in a plan.
#[derive(Debug, Clone)]
pub struct PlannedNode {
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Whether its agent is there.
    pub connected: bool,
    /// What it has confirmed.
    pub confirmed: Option<Held>,
    /// What it would be given.
    pub wanted: Digest,
    /// How the two compare.
    pub compared: Compared,
    /// Its own words about the last try.
    pub error: String,
}

/// How what a node runs compares with what it would run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The same.
    Unchanged,
    /// Not the same.
    Changed,
    /// It runs nothing yet.
    First,
    /// The store does not hold what it runs.
    Unknown,
}

/// Rulesets of a site's nodes, each with its digest.
pub(crate) type Wanted = BTreeMap<NodeName, (Ruleset, Content)>;

impl Pushes {
    /// What a push would change now.
    pub async fn plan(&self, wish: Wish) -> Result<Planned, PushError> {
        let site = &wish.site;
        let before = self.before(site).await?;
        let foreseen = match wish.want {
            Want::Documents => self.forward(&wish).await?,
            Want::Earlier(to) => self.back(&wish, &before, to).await?,
        };
        let Foreseen {
            snapshot,
            wanted,
            documents: after_documents,
            mut warnings,
            to,
            observe,
        } = foreseen;
        let record = before.record;
        let contents: BTreeMap<NodeName, Content> = wanted
            .iter()
            .map(|(name, (_, content))| (name.clone(), *content))
            .collect();
        let confirmed = self.confirmed(&snapshot);
        let mut fresh = self.fresh(&unmade(&wish), &snapshot);
        fresh.observe = observe.unwrap_or(fresh.observe);
        let staging = BasisStaging::of(&staging(&snapshot), fresh.observe);
        let basis = PlanBasis::of(
            record.as_ref(),
            snapshot.version,
            &contents,
            &confirmed,
            staging,
        );
        let compared = compare(
            record.as_ref(),
            contents,
            &confirmed,
            newest(&snapshot),
            fresh,
        );
        let running = self.running(&wanted, &confirmed).await?;
        let documents_at = self.documents_before(record.as_ref(), &snapshot).await?;
        let nodes = self.nodes(&snapshot, &wanted, &confirmed, &running);
        let Ordered {
            batches: steps,
            together,
        } = steps(&snapshot, &nodes);
        if steps.len() > 1 {
            warnings.extend(together.iter().map(|role| {
                format!(
                    "every {} node that changes does so in the same batch; a smaller \
                     rollout.batch leaves some as they are meanwhile",
                    role.code()
                )
            }));
        }
        let live = self.live(&wanted, &running).await?;
        warnings.extend(live.iter().filter_map(PlannedSource::warning));
        let current = record.as_ref().map_or(0, |record| record.number);
        let (known, before_documents) = documents_at;
        let comparing = Comparing {
            site: wish.site,
            operator: wish.operator,
            wanted,
            running,
            before: before_documents,
            after: after_documents,
            back: to.is_some(),
            now: self.clock.now_ms() / 1000,
        };
        let comparing = tokio::task::spawn_blocking(move || comparing.run());
        let site = snapshot.site;
        let (documents, changes, told) = comparing.await.map_err(|_| PushError::Broken(site))?;
        warnings.extend(told);
        Ok(Planned {
            generation: compared.generation.number,
            to,
            current,
            steps,
            changed: compared.changed,
            documents_at: known,
            documents,
            changes,
            nodes,
            live,
            warnings,
            basis,
        })
    }

    /// The DNS names and feeds that the wanted rulesets use.
    async fn live(
        &self,
        wanted: &Wanted,
        running: &BTreeMap<NodeName, Running>,
    ) -> Result<Vec<PlannedSource>, PushError> {
        let mut used = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (name, (ruleset, _)) in wanted {
            used.extend(ruleset.live_names());
            match running.get(name) {
                Some(Running::Same) => known.extend(ruleset.live_names()),
                Some(Running::Other(before)) => known.extend(before.live_names()),
                Some(Running::Nothing | Running::Unknown) | None => {}
            }
        }
        Ok(sources::read(self.store.as_ref(), used, &known).await?)
    }

    /// A generation that is kept.
    pub(crate) async fn generation(
        &self,
        site: &SiteName,
        number: Generation,
    ) -> Result<GenerationRecord, PushError> {
        let key = keys::generation(site, number);
        let read = records::read(self.store.as_ref(), &key).await?;
        let unknown = || PushError::UnknownGeneration(site.clone(), number);
        read.map(|read| read.record).ok_or_else(unknown)
    }

    /// What the documents make of the site.
    async fn forward(&self, wish: &Wish) -> Result<Foreseen, PushError> {
        let site = &wish.site;
        let (snapshot, compiled) = self.compile_as_if(site, wish.sources.clone()).await?;
        Ok(Foreseen {
            wanted: with_contents(site, compiled.rulesets).await?,
            documents: snapshot.documents.clone(),
            warnings: compiled.warnings,
            snapshot,
            to: None,
            observe: None,
        })
    }

    /// What an earlier generation held, and for nodes that it does not know what the documents
    /// make of them. Where it knows all, the documents need not compile.
    async fn back(
        &self,
        wish: &Wish,
        before: &Before,
        to: Option<Generation>,
    ) -> Result<Foreseen, PushError> {
        let site = &wish.site;
        let earlier = self.earlier(before, site, to).await?;
        let store = self.store.as_ref();
        let mut snapshot = Snapshot::read(store, &self.documents, site, Vec::new()).await?;
        let mut wanted = Wanted::new();
        let unknown = |name: &NodeName| !earlier.nodes.contains_key(name);
        let mut warnings = Vec::new();
        let late: Vec<String> = snapshot
            .nodes
            .keys()
            .filter(|name| unknown(name))
            .map(ToString::to_string)
            .collect();
        if !late.is_empty() {
            let (of_now, mut compiled) = self.compile(site).await?;
            compiled.rulesets.retain(|name, _| unknown(name));
            wanted = with_contents(site, compiled.rulesets).await?;
            snapshot = of_now;
            warnings.push(format!(
                "{} enrolled after generation {}: compiled from the documents of now",
                late.join(", "),
                earlier.number
            ));
        }
        for (name, content) in &earlier.nodes {
            if snapshot.nodes.contains_key(name) {
                let ruleset = self.stored(&content.digest).await?;
                let key = keys::ruleset(&content.digest);
                let why = "it is missing, and a generation names it";
                let ruleset = ruleset.ok_or(StoreError::Corrupt { key, why })?;
                wanted.insert(name.clone(), (ruleset, *content));
            }
        }
        let documents = self.documents_of(&earlier).await?;
        Ok(Foreseen {
            documents: documents.map_or_else(|| snapshot.documents.clone(), Arc::new),
            snapshot,
            wanted,
            warnings,
            to: Some(earlier.number),
            observe: Some(earlier.observe),
        })
    }

    /// A stored ruleset.
    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Ruleset>, StoreError> {
        let Some(bytes) = rulesets::get(self.store.as_ref(), digest).await? else {
            return Ok(None);
        };
        let key = keys::ruleset(digest);
        let decoding = tokio::task::spawn_blocking(move || Ruleset::decode(&bytes));
        let decoded = decoding.await.map_err(|_| StoreError::Corrupt {
            key: key.clone(),
            why: "its reader failed",
        })?;
        decoded.map(Some).map_err(|error| StoreError::Value {
            key,
            source: error.into(),
        })
    }

    /// The documents that a generation was made of; none: not known.
    pub(crate) async fn documents_of(
        &self,
        record: &GenerationRecord,
    ) -> Result<Option<Documents>, StoreError> {
        // 0: it is of the time before states of the documents were counted.
        if record.documents == 0 {
            return Ok(None);
        }
        documents_at(self.store.as_ref(), record.documents).await
    }

    /// What each node runs, as far as it is another ruleset than the one that is wanted.
    async fn running(
        &self,
        wanted: &Wanted,
        confirmed: &BTreeMap<NodeName, Held>,
    ) -> Result<BTreeMap<NodeName, Running>, PushError> {
        let mut running = BTreeMap::new();
        for (name, (_, content)) in wanted {
            let runs = match confirmed.get(name) {
                None => Running::Nothing,
                Some(held) if held.digest == content.digest => Running::Same,
                Some(held) => match self.stored(&held.digest).await? {
                    // Another machine had the name, or the node says what it likes.
                    Some(ruleset) if ruleset.node == *name => Running::Other(Box::new(ruleset)),
                    _ => Running::Unknown,
                },
            };
            running.insert(name.clone(), runs);
        }
        Ok(running)
    }

    /// The documents that the site's generation was made of; else those that are stored.
    async fn documents_before(
        &self,
        record: Option<&GenerationRecord>,
        snapshot: &Snapshot,
    ) -> Result<(Option<u64>, Documents), PushError> {
        if let Some(record) = record
            && let Some(documents) = self.documents_of(record).await?
        {
            return Ok((Some(record.documents), documents));
        }
        let stored = documents_at(self.store.as_ref(), snapshot.version).await?;
        Ok((None, stored.unwrap_or_default()))
    }

    fn nodes(
        &self,
        snapshot: &Snapshot,
        wanted: &Wanted,
        confirmed: &BTreeMap<NodeName, Held>,
        running: &BTreeMap<NodeName, Running>,
    ) -> BTreeMap<NodeName, PlannedNode> {
        let node = |(name, (_, content)): (&NodeName, &(Ruleset, Content))| {
            let id = NodeId {
                site: snapshot.site.clone(),
                node: name.clone(),
            };
            let view = self.fleet.view(&id);
            let status = view.as_ref().and_then(|view| view.status.as_ref());
            let roles = snapshot.nodes.get(name).map(|node| node.roles.clone());
            let node = PlannedNode {
                roles: roles.unwrap_or_default(),
                connected: view.is_some(),
                confirmed: confirmed.get(name).copied(),
                wanted: content.digest,
                compared: match running.get(name) {
                    Some(Running::Same) => Compared::Unchanged,
                    Some(Running::Other(_)) => Compared::Changed,
                    Some(Running::Nothing) => Compared::First,
                    Some(Running::Unknown) | None => Compared::Unknown,
                },
                error: status
                    .map(|status| status.error.clone())
                    .unwrap_or_default(),
            };
            (name.clone(), node)
        };
        wanted.iter().map(node).collect()
    }
}

/// What nodes would be given.
struct Foreseen {
    snapshot: Snapshot,
    wanted: Wanted,
    documents: Arc<Documents>,
    warnings: Vec<String>,
    to: Option<Generation>,
    /// Of an earlier generation; none: as the document says.
    observe: Option<bool>,
}

/// What a plan is told from: a while's work, off the async threads.
struct Comparing {
    site: SiteName,
    operator: Option<IpAddr>,
    wanted: Wanted,
    running: BTreeMap<NodeName, Running>,
    before: Documents,
    after: Arc<Documents>,
    /// To what an earlier generation held.
    back: bool,
    /// Unix time, seconds.
    now: u64,
}

impl Comparing {
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
            .filter_map(|(node, (after, _))| {
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
        if self.back {
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

/// The batches of a rollout, as the site's document wants them now.
fn steps(snapshot: &Snapshot, nodes: &BTreeMap<NodeName, PlannedNode>) -> Ordered {
    let Some(policy) = snapshot.documents.sites.get(&snapshot.site) else {
        return Ordered::default();
    };
    let candidate = |(name, node): (&NodeName, &PlannedNode)| {
        let candidate = Candidate {
            roles: node.roles.clone(),
            connected: node.connected,
            unchanged: node.compared == Compared::Unchanged,
        };
        (name.clone(), candidate)
    };
    let candidates: BTreeMap<NodeName, Candidate> = nodes.iter().map(candidate).collect();
    let changing = candidates.values().filter(|node| !node.unchanged).count();
    let canary = usize::try_from(policy.rollout.canary).unwrap_or(usize::MAX);
    let batch = batch_size(policy.rollout.batch, changing);
    order(&candidates, canary, batch)
}

/// What a node runs.
enum Running {
    Nothing,
    Same,
    Other(Box<Ruleset>),
    Unknown,
}

/// The digest of each ruleset. It takes a while where sets are long: off the async threads.
pub(super) async fn with_contents(
    site: &SiteName,
    rulesets: BTreeMap<NodeName, Ruleset>,
) -> Result<Wanted, PushError> {
    let digesting = tokio::task::spawn_blocking(move || {
        let content = |(name, ruleset): (NodeName, Ruleset)| {
            let encoded = ruleset.encode();
            let content = Content {
                digest: Digest::of(&encoded),
                size: encoded.len() as u64,
            };
            (name, (ruleset, content))
        };
        rulesets.into_iter().map(content).collect()
    });
    digesting.await.map_err(|_| PushError::Broken(site.clone()))
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

/// An order that is never carried out.
fn unmade(wish: &Wish) -> Order {
    Order {
        site: wish.site.clone(),
        by: String::new(),
        confirm_within_ms: None,
        wait_offline: Duration::ZERO,
        dry_run: true,
        rehearse: false,
        sources: Vec::new(),
        basis: None,
        want: Want::Documents,
        ticket: 0,
    }
}
