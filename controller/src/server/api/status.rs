//! The state of every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::server::rpc_status::unknown_site;
use tokio::sync::watch;
use tonic::Status;
use voipfleet_controller_core::proposal::MAX_GENERATIONS_AHEAD;
use voipfleet_proto::v1::{
    ClusterReport, DriftState, NodeReport, NodeState, NodeStatus, PendingAddress, SiteStatus,
    StatusRequest, StatusResponse, SyncState,
};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::Mode;

use super::cut_off_names;
use super::emergency::{open_site, open_sites};
use super::failed;
use super::fields::parse;
use crate::clock::Clock;
use crate::documents::{Cache, Stored};
use crate::fleet::{Fleet, View, is_guarded};
use crate::records::{self, GenerationRecord, MembersRecord, NodeId, NodeRecord, StatusRecord};
use crate::site_inputs::{Targets, held};
use crate::store::{Health, Store, StoreError, every, keys};

/// Documents that were changed since the last push and are named.
const UNPUSHED_NAMED: usize = 5;

/// Everything known about a node.
struct Known {
    record: NodeRecord,
    stored: StatusRecord,
    view: Option<View>,
}

/// Nodes: their state, their drift, and deleting them.
#[derive(Debug, Clone)]
pub(super) struct FleetApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Fleet,
    pub(super) documents: Cache,
    pub(super) health: watch::Receiver<Health>,
}

impl FleetApi {
    /// The status of a site, or of all.
    pub(super) async fn status(&self, request: &StatusRequest) -> Result<StatusResponse, Status> {
        let only: Option<SiteName> = match request.site.as_str() {
            "" => None,
            site => Some(parse(site)?),
        };
        let documents = self.documents.read().await.map_err(failed)?;
        let modes = modes(&documents);
        let mut nodes = self.nodes(only.as_ref()).await.map_err(failed)?;
        let mut sites: BTreeSet<SiteName> = modes.keys().cloned().collect();
        sites.extend(nodes.keys().cloned());
        if let Some(only) = only {
            if !sites.contains(&only) {
                return Err(unknown_site(&only));
            }
            sites = BTreeSet::from([only]);
        }
        let mut answer = StatusResponse {
            store_error: self.health.borrow().reason().unwrap_or_default(),
            ..StatusResponse::default()
        };
        let open = open_sites(self.store.as_ref(), self.clock.now_ms());
        let open: BTreeMap<SiteName, _> = open.await?.into_iter().collect();
        for site in sites {
            let targets = Targets::read(self.store.as_ref(), &site).await;
            let targets = targets.map_err(failed)?;
            let generation = targets.as_ref().and_then(Targets::newest);
            let known = nodes.remove(&site).unwrap_or_default();
            let now_ms = self.clock.now_ms();
            let unpushed = unpushed(&documents, &site, generation.as_deref());
            let cluster = cluster(self.store.as_ref(), &site).await.map_err(failed)?;
            answer.sites.push(SiteStatus {
                cluster,
                generation: generation
                    .as_ref()
                    .map_or(0, |generation| generation.number),
                mode: mode(generation.as_deref(), modes.get(&site).copied()).to_owned(),
                nodes: known
                    .into_iter()
                    .map(|(name, known)| report(&site, &name, known, targets.as_ref(), now_ms))
                    .collect(),
                unpushed: unpushed
                    .as_ref()
                    .map(|names| u32::try_from(names.len()).unwrap_or(u32::MAX)),
                unpushed_documents: unpushed
                    .into_iter()
                    .flatten()
                    .take(UNPUSHED_NAMED)
                    .collect(),
                open: open
                    .get(&site)
                    .map(|record| open_site(&site, record.clone())),
                site: site.to_string(),
                expiries: Vec::new(),
            });
        }
        let stored = self.documents.read().await.map_err(failed)?;
        for site in &mut answer.sites {
            cut_off_names::name(&stored.documents, site);
        }
        if request.compare {
            self.compare(&mut answer).await?;
        }
        Ok(answer)
    }

    async fn nodes(
        &self,
        only: Option<&SiteName>,
    ) -> Result<BTreeMap<SiteName, BTreeMap<NodeName, Known>>, StoreError> {
        let (node_prefix, status_prefix) = match only {
            Some(site) => (keys::nodes(site), keys::statuses(site)),
            None => (keys::ALL_NODES.to_owned(), keys::ALL_STATUS.to_owned()),
        };
        let mut nodes: BTreeMap<SiteName, BTreeMap<NodeName, Known>> = BTreeMap::new();
        for entry in every(self.store.as_ref(), &node_prefix).await? {
            let record: NodeRecord = records::from_json(&entry.key, &entry.held)?;
            let Some(id) = id(&entry.key) else { continue };
            let view = self.fleet.view(&id);
            let stored = StatusRecord::default();
            nodes.entry(id.site).or_default().insert(
                id.node,
                Known {
                    record,
                    stored,
                    view,
                },
            );
        }
        for entry in every(self.store.as_ref(), &status_prefix).await? {
            let stored: StatusRecord = records::from_protobuf(&entry.key, &entry.held)?;
            let known = id(&entry.key).and_then(|id| nodes.get_mut(&id.site)?.get_mut(&id.node));
            if let Some(known) = known {
                known.stored = stored;
            }
        }
        Ok(nodes)
    }
}

fn modes(stored: &Stored) -> BTreeMap<SiteName, Mode> {
    let sites = stored.documents.sites.iter();
    sites
        .map(|(name, site)| (name.clone(), site.mode))
        .collect()
}

/// Documents of a site that were changed since its generation was made: a push would bring them
/// to the nodes. None: the site was never pushed, or it is not known what its generation was made of.
fn unpushed(
    documents: &Stored,
    site: &SiteName,
    generation: Option<&GenerationRecord>,
) -> Option<Vec<String>> {
    let since = generation?.documents?;
    Some(documents.changed_since(site, since))
}

/// Addresses of one answer that are no members'.
const SHOWN_PENDING: usize = 200;

/// Who is a member of a site's cluster, as of the last change; none: it was never pushed.
async fn cluster(store: &dyn Store, site: &SiteName) -> Result<Option<ClusterReport>, StoreError> {
    let read = records::read::<MembersRecord>(store, &keys::members(site)).await?;
    Ok(read.map(|read| {
        let record = read.record;
        let hidden = record.pending.len().saturating_sub(SHOWN_PENDING) as u64;
        let pending = record.pending.into_iter().take(SHOWN_PENDING);
        ClusterReport {
            members: record.members.len() as u64,
            changes: record.changes,
            pending: pending
                .map(|one| PendingAddress {
                    node: one.node.to_string(),
                    interface: one.interface,
                    address: one.address.to_string(),
                    reason: one.reason,
                })
                .collect(),
            more_pending: record.more_pending + hidden,
        }
    }))
}

/// The mode of the last push; before the first, the document's. A site that has nodes and no document has
/// none.
fn mode(generation: Option<&GenerationRecord>, document: Option<Mode>) -> &'static str {
    let pushed = generation.map(|generation| {
        if generation.observe {
            Mode::Observe
        } else {
            Mode::Enforce
        }
    });
    match pushed.or(document) {
        Some(Mode::Enforce) => "enforce",
        Some(Mode::Observe) => "observe",
        None => "",
    }
}

fn id(key: &str) -> Option<NodeId> {
    let (site, node) = keys::site_and_node(key)?;
    Some(NodeId {
        site: site.parse().ok()?,
        node: node.parse().ok()?,
    })
}

/// A node's state in one word, and what the controller itself has to say about it.
struct Judgement {
    state: SyncState,
    error: Option<String>,
}

fn report(
    site: &SiteName,
    name: &NodeName,
    known: Known,
    targets: Option<&Targets>,
    now_ms: u64,
) -> NodeReport {
    let status = match &known.view {
        Some(view) if view.status.is_some() => view.status.clone(),
        _ => known.stored.status.clone(),
    };
    let confirmed = match &known.view {
        Some(view) => view.confirmed,
        None => status
            .as_ref()
            .and_then(|status| held(status.confirmed_generation, &status.confirmed_digest)),
    };
    let judgement = judge(site, name, &known, targets, confirmed);
    let judgement = with_defects(site, name, &known, status.as_ref(), now_ms, judgement);
    assemble(
        name,
        known,
        status.unwrap_or_default(),
        confirmed,
        judgement,
        now_ms,
    )
}

/// What makes a node's state an error, whatever it runs: another machine has its identity, or the
/// interface of the cluster is not there.
fn with_defects(
    site: &SiteName,
    name: &NodeName,
    known: &Known,
    status: Option<&NodeStatus>,
    now_ms: u64,
    judgement: Judgement,
) -> Judgement {
    let mut defects = Vec::new();
    let duplicate = match &known.view {
        Some(view) => view.duplicate.as_ref(),
        None => known.stored.duplicate.as_ref(),
    };
    if let Some(other) = duplicate.filter(|_| is_guarded(duplicate, now_ms)) {
        let peer = other
            .peer
            .rsplit_once(':')
            .map_or("", |(address, _)| address);
        defects.push(format!(
            "another machine, at {peer}, has the identity of this node and is refused; enrol it \
             under a name of its own"
        ));
    }
    let missing = status.map_or(&[][..], |status| &status.missing_interfaces);
    if !missing.is_empty() && known.view.is_some() {
        defects.push(format!(
            "there is no interface {} on this machine: members of the cluster do not get in; if it \
             has another name now, write cluster: {{nodes: {{{name}: {{interface: NAME}}}}}} and \
             push {site}",
            missing.join(", ")
        ));
    }
    if defects.is_empty() {
        return judgement;
    }
    let state = match judgement.state {
        SyncState::Offline => SyncState::Offline,
        _ => SyncState::Error,
    };
    let own = status
        .map(|status| status.error.clone())
        .unwrap_or_default();
    let known = judgement.error.unwrap_or(own);
    defects.extend(Some(known).filter(|known| !known.is_empty()));
    Judgement {
        state,
        error: Some(defects.join("; ")),
    }
}

/// Compares what a node runs with what it should run.
fn judge(
    site: &SiteName,
    name: &NodeName,
    known: &Known,
    targets: Option<&Targets>,
    confirmed: Option<Held>,
) -> Judgement {
    let newest = targets.and_then(Targets::newest);
    let target = targets
        .and_then(|targets| targets.of(name))
        .and_then(|generation| generation.held(name));
    let number = newest.as_ref().map_or(0, |newest| newest.number);
    let late = newest
        .filter(|newest| !newest.is_for(name, known.record.enrolled_ms))
        .map(|_| {
            let gets_it = match known.view {
                Some(_) => "gets it once no rollout is under way or halted",
                None => "gets it when it connects",
            };
            format!(
                "it enrolled after generation {number} was pushed, and {gets_it}; to give it the \
                 present documents: voipctl push {site}"
            )
        });
    let open = known.view.as_ref().and_then(|view| open(view, target));
    if let Some(why) = open {
        return Judgement {
            state: SyncState::Open,
            error: Some(why),
        };
    }
    let (state, error) = sync_state(known.view.as_ref(), target, confirmed, late);
    if state == SyncState::NotSent && confirmed.is_none() {
        let error =
            error.unwrap_or_else(|| format!("it has no ruleset yet; push: voipctl push {site}"));
        return Judgement {
            state: SyncState::Unprotected,
            error: Some(error),
        };
    }
    let behind = target.is_some_and(|target| target.generation < number);
    if behind && state == SyncState::Synced {
        return Judgement {
            state: SyncState::Stale,
            error: Some(format!(
                "generation {number} has not reached it yet; see: voipctl rollout status {site}"
            )),
        };
    }
    Judgement { state, error }
}

fn assemble(
    name: &NodeName,
    known: Known,
    status: NodeStatus,
    confirmed: Option<Held>,
    judgement: Judgement,
    now_ms: u64,
) -> NodeReport {
    let Known {
        record,
        stored,
        view,
    } = known;
    let connected = view.is_some();
    let clock_skew_ms = view.as_ref().and_then(|view| view.clock_skew_ms);
    let (facts, agent_version, peer) = match view {
        Some(view) => (
            view.facts.or(stored.facts),
            view.agent_version,
            view.peer.to_string(),
        ),
        None => (stored.facts, stored.agent_version, stored.peer),
    };
    NodeReport {
        node: name.to_string(),
        roles: record.roles.iter().map(ToString::to_string).collect(),
        state: judgement.state.into(),
        generation: confirmed.map_or(0, |held| held.generation),
        digest: confirmed
            .map(|held| held.digest.as_bytes().to_vec())
            .unwrap_or_default(),
        drift: match status.drift() {
            DriftState::Unspecified => DriftState::Unspecified,
            // There is nothing that it could differ from.
            DriftState::Clean if confirmed.is_none() => DriftState::Unspecified,
            known if connected => known,
            // It was so when the node was last heard of.
            _ => DriftState::Unknown,
        }
        .into(),
        // Keepalive proves an open connection.
        last_seen_ms: if connected {
            now_ms
        } else {
            stored.last_seen_ms
        },
        error: judgement.error.unwrap_or(status.error),
        drift_detail: status.drift_detail,
        facts,
        agent_version,
        connected,
        peer,
        enrolled_ms: record.enrolled_ms,
        certificate_expires_ms: record.expires_ms,
        flows_cut: status.flows_cut,
        differences: Vec::new(),
        sets: status.sets,
        clock_skew_ms,
    }
}

/// Why packets come in past the rules of a connected node that should have some.
fn open(view: &View, target: Option<Held>) -> Option<String> {
    target?;
    let status = view.status.as_ref()?;
    let why = Some(&status.open).filter(|why| !why.is_empty())?;
    Some(format!("open now: {why}"))
}

fn sync_state(
    view: Option<&View>,
    target: Option<Held>,
    confirmed: Option<Held>,
    late: Option<String>,
) -> (SyncState, Option<String>) {
    let Some(view) = view else {
        return (SyncState::Offline, late);
    };
    let Some(target) = target else {
        return (SyncState::NotSent, late);
    };
    if confirmed == Some(target) {
        // It runs what was compiled for the earlier node of its name, perhaps with other roles.
        return match late {
            Some(_) => (SyncState::Stale, late),
            None => (SyncState::Synced, None),
        };
    }
    if let Some(ahead) = confirmed.filter(|held| held.generation >= target.generation) {
        let generation = ahead.generation;
        let what = if generation <= target.generation.saturating_add(MAX_GENERATIONS_AHEAD) {
            "push the site"
        } else {
            "no push will reach that number: run voipfleet-agent teardown there, delete the node, and \
             enrol it again"
        };
        let error =
            format!("it runs generation {generation} of a push unknown to this controller; {what}");
        return (SyncState::Error, Some(error));
    }
    let Some(offered) = view
        .offered
        .as_ref()
        .filter(|offered| offered.held == target)
    else {
        return (SyncState::NotSent, late);
    };
    let refused = offered.answer.as_ref().is_some_and(|answer| {
        matches!(
            answer.state(),
            NodeState::Rejected | NodeState::Failed | NodeState::RolledBack
        )
    });
    if refused {
        (SyncState::Error, None)
    } else {
        (SyncState::Stale, late)
    }
}
