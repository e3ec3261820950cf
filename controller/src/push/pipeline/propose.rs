//! The impure edge of a push proposal: reads everything that it is made of, once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use voipfleet_compiler::{Compiled, Membership, PendingAddress, Standing};
use voipfleet_controller_core::precondition::LastChanges;
use voipfleet_controller_core::proposal::{Current, Inputs, NodeState, Proposal, Want, propose};
use voipfleet_controller_core::rollout::state_machine::Presence;
use voipfleet_policy::{Documents, Rollout};
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::{DynamicSets, Mode, Ruleset};

use super::Pipeline;
use crate::clock;
use crate::fleet::Fleet;
use crate::limits::MAX_GENERATIONS;
use crate::push::stored_content::generation;
use crate::push::{Compiler, PushError, PushRequest, RequestedContent};
use crate::records::{
    self, Content, GenerationRecord, NodeId, OutcomeRecord, QueueRecord, Read, RolloutRecord,
};
use crate::rollout::{absent, is_refusal};
use crate::rulesets::Packed;
use crate::site_inputs::{SiteNode, Snapshot, Targets};
use crate::store::{Store, StoreError, keys};

/// A proposal with what it takes to commit it.
#[derive(Debug)]
pub struct Proposed {
    pub request: PushRequest,
    pub proposal: Proposal,
    /// The documents that it is made of.
    pub documents: Arc<Documents>,
    /// The site's nodes, as they last reported.
    pub hosts: BTreeMap<NodeName, SiteNode>,
    /// What the site's dynamic sets hold now.
    pub dynamic: DynamicSets,
    /// Addresses that nodes report and that would be no members of the cluster after it.
    pub pending: Vec<PendingAddress>,
    pub(super) heads: Heads,
    /// The compiled rulesets as they will be stored; none: they were handed over to a commit.
    pub(super) packed: Option<Packed>,
}

/// The records that a push replaces or depends on, as they were read: a commit expects that they
/// are still the same.
///
/// Documents and nodes are not among them. The documents of a proposal are one numbered state,
/// and a change of documents or nodes after that is one of the next push.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    pub(super) targets: Option<Targets>,
    pub(super) generation: Option<Read<GenerationRecord>>,
    pub(super) rollout: Option<Read<RolloutRecord>>,
    pub(super) queue: Option<Read<QueueRecord>>,
    /// The generation whose content is wanted back.
    pub(super) earlier: Option<Read<GenerationRecord>>,
}

/// What the compiler made of a site, in canonical and in stored form.
struct Rulesets {
    compiled: BTreeMap<NodeName, (Ruleset, Content)>,
    packed: Packed,
    warnings: Vec<String>,
    dynamic: DynamicSets,
}

impl Heads {
    pub(super) async fn read(store: &dyn Store, request: &PushRequest) -> Result<Self, PushError> {
        let site = &request.site;
        let targets = Targets::read(store, site).await?;
        let generation = match &targets {
            Some(targets) => {
                let key = keys::generation(site, targets.record().generation);
                let read = records::read(store, &key).await?;
                let why = "it is missing, and the site is at it";
                Some(read.ok_or(StoreError::Corrupt { key, why })?)
            }
            None => None,
        };
        let rollout = records::read(store, &keys::rollout(site)).await?;
        let queue = records::read(store, &keys::queue(site)).await?;
        let newest = generation.as_ref().map(|read| &read.record);
        let earlier = earlier(store, request, newest).await?;
        Ok(Self {
            targets,
            generation,
            rollout,
            queue,
            earlier,
        })
    }

    /// Why a push without a place in the queue would be refused now; none: it would start.
    pub(super) fn blocked(&self, site: &SiteName) -> Option<PushError> {
        let rollout = self.rollout.as_ref();
        rollout
            .and_then(|read| busy(site, &read.record))
            .or_else(|| {
                let queue = self.queue.as_ref();
                let waiting = queue.map_or(0, |read| read.record.waiting.len());
                let site = site.clone();
                (waiting > 0).then_some(PushError::Waiting { site, waiting })
            })
    }
}

/// One rollout of a site at a time.
pub(super) fn busy(site: &SiteName, rollout: &RolloutRecord) -> Option<PushError> {
    (!rollout.state.has_ended()).then(|| PushError::Busy {
        site: site.clone(),
        generation: rollout.generation,
        by: rollout.by.clone(),
        state: rollout.state.as_str(),
        since: clock::show(rollout.started_ms),
    })
}

impl Proposed {
    /// The generation whose content is wanted back; none: the documents are wanted.
    pub fn earlier(&self) -> Option<&GenerationRecord> {
        self.heads.earlier.as_ref().map(|read| &read.record)
    }

    /// Why the push would be refused now, or would have to wait; none: it would start.
    pub fn blocked(&self) -> Option<PushError> {
        self.heads.blocked(&self.request.site)
    }
}

impl Pipeline {
    /// What a push would store. Nothing is written, and nothing that it is made of is read a
    /// second time: what is checked here is what [`Pipeline::commit`] stores.
    pub async fn propose(&self, request: &PushRequest) -> Result<Proposed, PushError> {
        let store = self.store.as_ref();
        let heads = Heads::read(store, request).await?;
        let want = match &heads.earlier {
            Some(earlier) => Want::Rollback(earlier.record.clone()),
            None => Want::Documents,
        };
        let sources = request.sources.clone();
        let snapshot = self.compiler.snapshot(&request.site, sources).await?;
        let rulesets = compile(&self.compiler, &snapshot, &want).await?;
        // Last, since nodes move on while a site compiles.
        let nodes = observe(&self.fleet, &snapshot);
        let policy = snapshot.documents.sites.get(&request.site);
        let inputs = Inputs {
            site: request.site.clone(),
            at_ms: self.clock.now_ms(),
            by: request.by.clone(),
            confirm_within_ms: request.confirm_within_ms,
            documents: snapshot.version,
            changed_documents: changed_documents(&snapshot, &heads),
            rollout: policy.map_or_else(Rollout::at_once, |policy| policy.rollout.clone()),
            observe: policy.is_some_and(|policy| policy.mode == Mode::Observe),
            current: current(store, &request.site, &heads, &nodes).await?,
            nodes,
            compiled: rulesets.compiled,
            warnings: rulesets.warnings,
        };
        let proposal = propose(inputs, want);
        check(request, &proposal, &heads, snapshot.changed_by.clone())?;
        Ok(Proposed {
            pending: pending(&snapshot, self.clock.now_ms()),
            request: request.clone(),
            proposal,
            documents: snapshot.documents,
            hosts: snapshot.nodes,
            dynamic: rulesets.dynamic,
            heads,
            packed: Some(rulesets.packed),
        })
    }
}

/// Documents of the site that were changed since its generation was made; none: not known.
fn changed_documents(snapshot: &Snapshot, heads: &Heads) -> Option<Vec<String>> {
    let since = match &heads.generation {
        Some(read) => read.record.documents?,
        None => 0,
    };
    Some(
        snapshot
            .stored
            .as_ref()?
            .changed_since(&snapshot.site, since),
    )
}

/// Addresses that would be no members of the cluster once all nodes have the push.
fn pending(snapshot: &Snapshot, now_ms: u64) -> Vec<PendingAddress> {
    let Some(site) = snapshot.documents.sites.get(&snapshot.site) else {
        return Vec::new();
    };
    let mut nodes = snapshot.inputs(now_ms);
    for node in &mut nodes {
        node.standing = Standing::Member;
    }
    Membership::of(&site.cluster, &nodes).pending
}

/// Refuses a push whose confirmed plan no longer holds.
fn check(
    request: &PushRequest,
    proposal: &Proposal,
    heads: &Heads,
    documents_by: Option<String>,
) -> Result<(), PushError> {
    let Some(precondition) = &request.precondition else {
        return Ok(());
    };
    let generation = heads.generation.as_ref();
    let last = LastChanges {
        documents_by,
        pushed_by: generation.map(|read| read.record.by.clone()),
    };
    let violations = precondition.violations(&proposal.precondition, &last);
    if violations.is_empty() {
        return Ok(());
    }
    Err(PushError::Stale {
        site: request.site.clone(),
        violations,
    })
}

/// The generation whose content is wanted back; none: the documents are wanted.
async fn earlier(
    store: &dyn Store,
    request: &PushRequest,
    newest: Option<&GenerationRecord>,
) -> Result<Option<Read<GenerationRecord>>, PushError> {
    let site = &request.site;
    let number = match (request.content, newest) {
        (RequestedContent::Documents, _) => return Ok(None),
        (_, None) => return Err(PushError::NothingBefore(site.clone())),
        (RequestedContent::Generation(number), _) => number,
        (RequestedContent::LastGood, Some(newest)) => last_good(store, site, newest).await?,
    };
    generation(store, site, number).await.map(Some)
}

/// The last generation before the newest that has other content and that nodes applied.
async fn last_good(
    store: &dyn Store,
    site: &SiteName,
    newest: &GenerationRecord,
) -> Result<Generation, PushError> {
    let entries = store.all(&keys::generations(site), MAX_GENERATIONS).await?;
    for entry in entries.into_iter().rev() {
        let record: GenerationRecord = records::load(store, &entry).await?;
        if record.number >= newest.number || record.nodes == newest.nodes {
            continue;
        }
        let key = keys::outcome(site, record.number);
        let outcome: Option<Read<OutcomeRecord>> = records::read(store, &key).await?;
        if outcome.is_some_and(|read| read.record.is_good()) {
            return Ok(record.number);
        }
    }
    Err(PushError::NothingBefore(site.clone()))
}

/// Compiles the nodes whose rulesets are wanted from the documents. Where an earlier generation
/// knows all nodes, the documents need not compile.
async fn compile(
    compiler: &Compiler,
    snapshot: &Snapshot,
    want: &Want,
) -> Result<Rulesets, PushError> {
    let site = &snapshot.site;
    let needed: BTreeSet<NodeName> = snapshot
        .nodes
        .keys()
        .filter(|name| want.needs_compile(name))
        .cloned()
        .collect();
    let mut packed = Packed::new(site.clone());
    let documents = *want == Want::Documents;
    if needed.is_empty() && !documents {
        return Ok(Rulesets {
            compiled: BTreeMap::new(),
            packed,
            warnings: Vec::new(),
            dynamic: compiler.dynamic_sets(snapshot).await?,
        });
    }
    let (dynamic, output) = compiler.compile(snapshot).await?;
    // Encoding takes a while where sets are long: off the async threads.
    let packing = tokio::task::spawn_blocking(move || {
        let Compiled {
            mut rulesets,
            warnings,
            ..
        } = output;
        rulesets.retain(|name, _| needed.contains(name));
        let pack = |(name, ruleset): (NodeName, Ruleset)| {
            let content = packed.add(&ruleset);
            (name, (ruleset, content))
        };
        Rulesets {
            compiled: rulesets.into_iter().map(pack).collect(),
            packed,
            // The warnings are about all nodes, and a rollback compiles only late ones.
            warnings: if documents { warnings } else { Vec::new() },
            dynamic,
        }
    });
    packing.await.map_err(|_| PushError::Broken(site.clone()))
}

/// Every node of a site, as the fleet sees it at this moment.
fn observe(fleet: &Fleet, snapshot: &Snapshot) -> BTreeMap<NodeName, NodeState> {
    let now = Instant::now();
    let nodes = snapshot.nodes.iter();
    nodes
        .map(|(name, node)| {
            (
                name.clone(),
                node_state(fleet, &snapshot.site, name, node, now),
            )
        })
        .collect()
}

fn node_state(
    fleet: &Fleet,
    site: &SiteName,
    name: &NodeName,
    node: &SiteNode,
    now: Instant,
) -> NodeState {
    let id = NodeId {
        site: site.clone(),
        node: name.clone(),
    };
    let view = fleet.view(&id);
    // As it reports now, or as it last reported.
    let confirmed = view.as_ref().map_or(node.confirmed, |view| view.confirmed);
    let presence = match &view {
        Some(_) => Presence::Connected,
        None => absent(fleet.may_be_back_until(&id, confirmed.is_some()), now),
    };
    let offered = view.as_ref().and_then(|view| view.offered.as_ref());
    let refused = offered.filter(|offered| {
        let answer = offered.answer.as_ref();
        answer.is_some_and(|answer| is_refusal(answer.state()))
    });
    let status = view.as_ref().and_then(|view| view.status.as_ref());
    NodeState {
        roles: node.roles.clone(),
        enrolled_ms: node.enrolled_ms,
        confirmed,
        presence,
        refused: refused.map(|offered| (offered.held, offered.nonce)),
        error: status
            .map(|status| status.error.clone())
            .unwrap_or_default(),
    }
}

/// What the site is at, with the generations that its nodes should run or have confirmed.
pub(super) async fn current(
    store: &dyn Store,
    site: &SiteName,
    heads: &Heads,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> Result<Option<Current>, StoreError> {
    let (Some(targets), Some(newest)) = (&heads.targets, &heads.generation) else {
        return Ok(None);
    };
    let confirmed = nodes.values().filter_map(|node| node.confirmed);
    let mut named: BTreeSet<Generation> = confirmed.map(|held| held.generation).collect();
    named.extend(targets.record().wanted());
    let mut earlier = BTreeMap::new();
    for number in named {
        let read: Option<Read<GenerationRecord>> =
            records::read(store, &keys::generation(site, number)).await?;
        earlier.extend(read.map(|read| (number, read.record)));
    }
    Ok(Some(Current {
        targets: targets.record().clone(),
        generation: newest.record.clone(),
        earlier,
    }))
}
