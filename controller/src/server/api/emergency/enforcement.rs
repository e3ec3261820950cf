//! Waiting for the nodes to enforce what was decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tonic::Status;
use voipfleet_proto::v1::{EnforcementState, NodeEnforcement, SiteEnforcement};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName, DynamicSets};

use crate::fleet::View;
use crate::records::{ExceptionKind, NodeId};
use crate::server::api::{EmergencyApi, failed};
use crate::store::{Revision, every, keys};

/// How long the nodes may take. It takes them a fraction of a second; one that is in the middle of
/// an apply may take longer.
const WAIT: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Debug, Clone)]
pub(super) enum Awaited {
    /// The block or allow of one address.
    Exception(ExceptionKind, IpNet),
    /// Whether the site is open.
    Open,
}

impl Awaited {
    fn source(&self) -> DynamicSetName {
        match self {
            Awaited::Exception(ExceptionKind::Block, _) => DynamicSetName::Block,
            Awaited::Exception(ExceptionKind::Allow, _) => DynamicSetName::Allow,
            Awaited::Open => DynamicSetName::Open,
        }
    }

    /// The part of dynamic sets that it is about.
    fn part(&self, sets: &DynamicSets) -> DynamicSet {
        let value = sets.get(&self.source()).cloned().unwrap_or_default();
        match self {
            Awaited::Open => value,
            Awaited::Exception(_, net) => DynamicSet {
                elements: value.elements.into_iter().filter(|e| e == net).collect(),
                expiring: value
                    .expiring
                    .into_iter()
                    .filter(|one| one.net == *net)
                    .collect(),
            },
        }
    }
}

/// The nodes of the sites that a decision is about.
pub(super) type Sites = BTreeMap<SiteName, BTreeSet<NodeName>>;

impl EmergencyApi {
    /// The nodes of these sites.
    pub(super) async fn nodes_of(&self, sites: &BTreeSet<SiteName>) -> Result<Sites, Status> {
        let mut nodes = Sites::new();
        for site in sites {
            let prefix = keys::nodes(site);
            let entries = every(self.store.as_ref(), &prefix).await.map_err(failed)?;
            let names = entries
                .iter()
                .filter_map(|entry| keys::site_and_node(&entry.key)?.1.parse().ok());
            nodes.insert(site.clone(), names.collect());
            // Computed from here on, if it was not yet.
            drop(self.fleet.dynamic_sets().subscribe(site));
        }
        Ok(nodes)
    }

    /// Waits until every connected node of `sites` enforces what was committed as `revision`, or
    /// has had its time; the state of each. `lifted`: something was removed.
    pub(super) async fn enforced(
        &self,
        sites: &Sites,
        awaited: &Awaited,
        revision: Revision,
        lifted: bool,
    ) -> Vec<SiteEnforcement> {
        let end = Instant::now() + WAIT;
        let mut events = self.fleet.events();
        let dynamic = self.fleet.dynamic_sets();
        let caught_up = tokio::time::timeout_at(end, dynamic.caught_up(revision)).await;
        loop {
            let mut answer = Vec::new();
            let mut waiting = false;
            for (site, nodes) in sites {
                let mut reports = Vec::with_capacity(nodes.len());
                for node in nodes {
                    let id = NodeId {
                        site: site.clone(),
                        node: node.clone(),
                    };
                    let report = match self.fleet.view(&id) {
                        None => report(node, EnforcementState::Offline, ""),
                        Some(view) => self.stands(&id, &view, awaited, lifted).await,
                    };
                    waiting |= report.state() == EnforcementState::Waiting;
                    reports.push(report);
                }
                answer.push(SiteEnforcement {
                    site: site.to_string(),
                    nodes: reports,
                    observe: false,
                });
            }
            if !waiting || caught_up.is_err() || Instant::now() >= end {
                return answer;
            }
            match tokio::time::timeout_at(end, events.recv()).await {
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {
                    // Many report at once: each round checks all of them.
                    while events.try_recv().is_ok() {}
                }
                // The next look is the last.
                Ok(Err(RecvError::Closed)) | Err(_) => tokio::time::sleep_until(end).await,
            }
        }
    }

    async fn stands(
        &self,
        id: &NodeId,
        view: &View,
        awaited: &Awaited,
        lifted: bool,
    ) -> NodeEnforcement {
        if !self.has_place(id, view, &awaited.source()).await {
            let state = if lifted {
                EnforcementState::Enforced
            } else {
                EnforcementState::NotPushed
            };
            return report(&id.node, state, "");
        }
        let dynamic = self.fleet.dynamic_sets();
        let wanted = dynamic.subscribe(&id.site).borrow().clone();
        let held = view
            .dynamic
            .and_then(|digest| dynamic.find(&id.site, &digest));
        let part = match (wanted, held) {
            (Some(wanted), Some(held)) => {
                let part = awaited.part(&wanted.sets);
                (part == awaited.part(&held.sets)).then_some(part)
            }
            _ => None,
        };
        let open = view.status.as_ref().map(|status| status.open.as_str());
        if let Some(part) = part {
            // The sets hold it, and no packet comes to the rules that name them.
            if let Some(why) = open.filter(|open| !open.is_empty() && !lifted) {
                let why = format!("this node is open now: {why}");
                return report(&id.node, EnforcementState::Waiting, &why);
            }
            let fleet_time_s = view.status.as_ref().map_or(0, |status| status.fleet_time_s);
            let mut ends = part.expiring.iter().map(|one| one.until.left(fleet_time_s));
            if ends.all(|left| left > 0) {
                return report(&id.node, EnforcementState::Enforced, "");
            }
            // It holds the sets, and left out of its kernel what has ended by its reckoning.
            let why = "it is over by this node's reckoning of the time, and not in its kernel";
            return report(&id.node, EnforcementState::Waiting, why);
        }
        let error = view
            .status
            .as_ref()
            .map(|status| status.dynamic_error.as_str());
        report(
            &id.node,
            EnforcementState::Waiting,
            error.unwrap_or_default(),
        )
    }
}

fn report(node: &NodeName, state: EnforcementState, error: &str) -> NodeEnforcement {
    NodeEnforcement {
        node: node.to_string(),
        state: state.into(),
        error: error.to_owned(),
    }
}
