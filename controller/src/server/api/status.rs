//! How every node stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::server::rpc_status::unknown_site;
use tonic::Status;
use voipfleet_controller_core::proposal::MAX_GENERATIONS_AHEAD;
use voipfleet_proto::v1::{
    DriftState, NodeReport, NodeState, SiteStatus, StatusRequest, StatusResponse, SyncState,
};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::Mode;

use super::convert::parse;
use super::emergency::{open_site, open_sites};
use super::failed;
use crate::clock::Clock;
use crate::documents::Cache;
use crate::fleet::{Fleet, View};
use crate::records::{self, GenerationRecord, NodeId, NodeRecord, StatusRecord};
use crate::site_inputs::{Targets, held};
use crate::store::{Store, StoreError, every, keys};

/// What is known of a node.
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
}

impl FleetApi {
    /// The status of a site, or of all.
    pub(super) async fn status(&self, request: &StatusRequest) -> Result<StatusResponse, Status> {
        let only: Option<SiteName> = match request.site.as_str() {
            "" => None,
            site => Some(parse(site)?),
        };
        let modes = self.modes().await?;
        let mut nodes = self.nodes(only.as_ref()).await.map_err(failed)?;
        let mut sites: BTreeSet<SiteName> = modes.keys().cloned().collect();
        sites.extend(nodes.keys().cloned());
        if let Some(only) = only {
            if !sites.contains(&only) {
                return Err(unknown_site(&only));
            }
            sites = BTreeSet::from([only]);
        }
        let mut answer = StatusResponse::default();
        let open = open_sites(self.store.as_ref(), self.clock.now_ms());
        let open: BTreeMap<SiteName, _> = open.await?.into_iter().collect();
        for site in sites {
            let targets = Targets::read(self.store.as_ref(), &site).await;
            let targets = targets.map_err(failed)?;
            let generation = targets.as_ref().and_then(Targets::newest);
            let known = nodes.remove(&site).unwrap_or_default();
            let now_ms = self.clock.now_ms();
            answer.sites.push(SiteStatus {
                generation: generation
                    .as_ref()
                    .map_or(0, |generation| generation.number),
                mode: mode(generation.as_deref(), modes.get(&site).copied()).to_owned(),
                nodes: known
                    .into_iter()
                    .map(|(name, known)| report(&site, &name, known, targets.as_ref(), now_ms))
                    .collect(),
                open: open
                    .get(&site)
                    .map(|record| open_site(&site, record.clone())),
                site: site.to_string(),
            });
        }
        if request.compare {
            self.compare(&mut answer).await?;
        }
        Ok(answer)
    }

    async fn modes(&self) -> Result<BTreeMap<SiteName, Mode>, Status> {
        let stored = self.documents.read().await.map_err(failed)?;
        let sites = stored.documents.sites.iter();
        Ok(sites
            .map(|(name, site)| (name.clone(), site.mode))
            .collect())
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

/// What the last push says; the document's word before the first. A site that has nodes and no
/// document has none.
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

fn report(
    site: &SiteName,
    name: &NodeName,
    known: Known,
    targets: Option<&Targets>,
    now_ms: u64,
) -> NodeReport {
    let Known {
        record,
        stored,
        view,
    } = known;
    let status = view
        .as_ref()
        .and_then(|view| view.status.clone())
        .or(stored.status);
    let confirmed = match &view {
        Some(view) => view.confirmed,
        None => status
            .as_ref()
            .and_then(|status| held(status.confirmed_generation, &status.confirmed_digest)),
    };
    let newest = targets.and_then(Targets::newest);
    let generation = targets.and_then(|targets| targets.of(name));
    let target = generation
        .as_ref()
        .and_then(|generation| generation.held(name));
    let number = newest.as_ref().map_or(0, |newest| newest.number);
    let behind = target.is_some_and(|target| target.generation < number);
    let late = newest
        .filter(|newest| newest.held(name).is_none() || newest.at_ms < record.enrolled_ms)
        .map(|generation| {
            let number = generation.number;
            format!(
                "it enrolled after generation {number} was pushed; push again: voipctl push {site}"
            )
        });
    let (mut state, mut error) = sync_state(view.as_ref(), target, confirmed, late);
    if behind && state == SyncState::Synced {
        state = SyncState::Stale;
        error = Some(format!(
            "generation {number} has not come to it; see how far it is: voipctl rollout status {site}"
        ));
    }
    let reported = status.as_ref().map(|s| s.error.clone()).unwrap_or_default();
    NodeReport {
        node: name.to_string(),
        roles: record.roles.iter().map(ToString::to_string).collect(),
        state: state.into(),
        generation: confirmed.map_or(0, |held| held.generation),
        digest: confirmed
            .map(|held| held.digest.as_bytes().to_vec())
            .unwrap_or_default(),
        drift: status
            .as_ref()
            .map_or(
                DriftState::Unspecified,
                voipfleet_proto::v1::NodeStatus::drift,
            )
            .into(),
        // An open connection is proved by keepalive.
        last_seen_ms: if view.is_some() {
            now_ms
        } else {
            stored.last_seen_ms
        },
        error: error.unwrap_or(reported),
        drift_detail: status
            .as_ref()
            .map(|status| status.drift_detail.clone())
            .unwrap_or_default(),
        facts: view
            .as_ref()
            .and_then(|view| view.facts.clone())
            .or(stored.facts),
        agent_version: view
            .as_ref()
            .map_or(stored.agent_version, |view| view.agent_version.clone()),
        connected: view.is_some(),
        peer: view
            .as_ref()
            .map_or(stored.peer, |view| view.peer.to_string()),
        enrolled_ms: record.enrolled_ms,
        certificate_expires_ms: record.expires_ms,
        flows_cut: status.as_ref().map_or(0, |status| status.flows_cut),
        differences: Vec::new(),
        sets: status.and_then(|status| status.sets),
    }
}

/// The one word for a node, and what the controller itself has to say about it.
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
        // What it runs was made for the node that had its name, perhaps with other roles.
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
            "no push can come to that number: run voipfleet-agent teardown there, delete the \
             node, and let it enrol again"
        };
        let error = format!(
            "it runs generation {generation} of a push that this controller does not know; {what}"
        );
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
