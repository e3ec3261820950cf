//! What a plan was made of: its push goes through only as long as that has not changed.

use std::collections::BTreeMap;

use tonic::Status;
use voipfleet_controller_core::precondition::{PlannedContent, Precondition, SiteState, Staging};
use voipfleet_controller_core::proposal::{Proposal, ProposedNode};
use voipfleet_policy::{Batch, OnFailure, Rollout};
use voipfleet_proto::v1;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::Digest;

use super::fields::{invalid, parse};
use crate::limits::MAX_NODES_PER_SITE;

pub(super) fn digest(held: Option<Held>) -> Vec<u8> {
    held.map(|held| held.digest.as_bytes().to_vec())
        .unwrap_or_default()
}

/// What a plan was made of, for voipctl to send back with the push.
pub(super) fn of_proposal(proposal: &Proposal) -> v1::PlanBasis {
    let content = &proposal.precondition.content;
    let node = |(name, node): (&NodeName, &ProposedNode)| {
        let confirmed = node.state.confirmed;
        v1::BasisNode {
            node: name.to_string(),
            wanted: node.content.digest.as_bytes().to_vec(),
            confirmed: digest(confirmed),
            generation: confirmed.map_or(0, |held| held.generation),
        }
    };
    let current = proposal.current.as_ref();
    v1::PlanBasis {
        site: proposal.site.to_string(),
        documents: content.documents,
        generation: current.map_or(0, |current| current.generation.number),
        nodes: proposal.nodes.iter().map(node).collect(),
        staging: Some(staging_on_the_wire(&content.staging)),
    }
}

fn staging_on_the_wire(staging: &Staging) -> v1::BasisStaging {
    let rollout = &staging.rollout;
    let (batch_nodes, batch_percent) = match rollout.batch {
        Batch::Count(count) => (count, 0),
        Batch::Percent(percent) => (0, u32::from(percent)),
    };
    v1::BasisStaging {
        observe: staging.observe,
        canary: rollout.canary,
        batch_nodes,
        batch_percent,
        max_failures: rollout.max_failures,
        pause_ms: rollout.pause_ms,
        roll_back: rollout.on_failure == OnFailure::Rollback,
        confirm_within_ms: rollout.confirm_within_ms,
    }
}

fn staging(staging: &v1::BasisStaging) -> Result<Staging, Status> {
    let batch = match (staging.batch_nodes, staging.batch_percent) {
        (0, percent) => Batch::Percent(u8::try_from(percent).map_err(invalid)?),
        (count, _) => Batch::Count(count),
    };
    Ok(Staging {
        observe: staging.observe,
        rollout: Rollout {
            canary: staging.canary,
            batch,
            max_failures: staging.max_failures,
            pause_ms: staging.pause_ms,
            on_failure: if staging.roll_back {
                OnFailure::Rollback
            } else {
                OnFailure::Halt
            },
            confirm_within_ms: staging.confirm_within_ms,
        },
    })
}

/// A plan's precondition as voipctl sends it back.
pub(super) fn precondition(basis: v1::PlanBasis) -> Result<Precondition, Status> {
    if basis.nodes.len() > MAX_NODES_PER_SITE {
        return Err(invalid(format!(
            "a plan of more than {MAX_NODES_PER_SITE} nodes"
        )));
    }
    let of_plan = basis.staging.as_ref();
    let of_plan = of_plan.ok_or_else(|| invalid("the plan has no staging; plan again"))?;
    let mut nodes = BTreeMap::new();
    let mut confirmed = BTreeMap::new();
    for node in basis.nodes {
        let name: NodeName = parse(&node.node)?;
        if !node.confirmed.is_empty() {
            let held = Held {
                generation: node.generation,
                digest: Digest::try_from(node.confirmed.as_slice()).map_err(invalid)?,
            };
            confirmed.insert(name.clone(), held);
        }
        let wanted = Digest::try_from(node.wanted.as_slice()).map_err(invalid)?;
        nodes.insert(name, wanted);
    }
    Ok(Precondition {
        content: PlannedContent {
            documents: basis.documents,
            nodes,
            staging: staging(of_plan)?,
        },
        state: Some(SiteState {
            generation: (basis.generation != 0).then_some(basis.generation),
            confirmed,
        }),
    })
}
