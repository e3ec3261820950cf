//! Pushes and rollouts of the largest site that there may be, over a store that enforces the
//! limits of a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use voipfleet_controller_core::proposal::{Inputs, NodeState, Want, propose};
use voipfleet_controller_core::rollout::state_machine::{NodeReport, Observation, Presence};
use voipfleet_policy::{Batch, OnFailure, Rollout};
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::ruleset::{Mode, Ruleset};

use super::super::propose::current;
use super::*;
use crate::clock;
use crate::fleet::Fleet;
use crate::limits::MAX_NODES_PER_SITE;
use crate::push::{PushRequest, Pushes};
use crate::records::{self, Phase, QueueRecord, Queued, Read, RolloutState};
use crate::rollout::persist;
use crate::rulesets::Packed;
use crate::store::memory::{Counts, Memory};
use crate::store::{Limits, Store};

fn site() -> SiteName {
    "site-a".parse().unwrap()
}

/// A connected node of each name, and a ruleset for it that differs with `ssh_port`.
fn site_inputs(ssh_port: u16, packed: &mut Packed) -> Inputs {
    let mut nodes = BTreeMap::new();
    let mut compiled = BTreeMap::new();
    for at in 0..MAX_NODES_PER_SITE {
        let name: NodeName = format!("node-{at}").parse().unwrap();
        let ruleset = Ruleset {
            site: site(),
            node: name.clone(),
            mode: Mode::Enforce,
            admins: Vec::new(),
            ssh_ports: vec![ssh_port],
            sets: Vec::new(),
            chains: Vec::new(),
            probes: Vec::new(),
            without_ipv6: false,
        };
        let content = packed.add(&ruleset);
        compiled.insert(name.clone(), (ruleset, content));
        let state = NodeState {
            roles: BTreeSet::new(),
            enrolled_ms: 0,
            confirmed: None,
            presence: Presence::Connected,
            refused: None,
            error: String::new(),
        };
        nodes.insert(name, state);
    }
    Inputs {
        site: site(),
        at_ms: 1000,
        by: "ada".to_owned(),
        confirm_within_ms: None,
        documents: 1,
        changed_documents: None,
        rollout: Rollout {
            canary: 1,
            batch: Batch::Count(5000),
            max_failures: 0,
            pause_ms: 0,
            on_failure: OnFailure::Rollback,
            ..Rollout::default()
        },
        observe: false,
        current: None,
        nodes,
        compiled,
        warnings: Vec::new(),
    }
}

/// The newest state of the site's rollout.
async fn rollout(store: &dyn Store) -> Read<RolloutRecord> {
    let read = records::read(store, &keys::rollout(site())).await;
    read.unwrap().unwrap()
}

/// Proposes a push of new content for every node and commits it; returns what it proposed.
async fn push(pushes: &Pushes, store: &dyn Store, ssh_port: u16) -> Proposal {
    let request = PushRequest::new(site(), "ada");
    let heads = Heads::read(store, &request).await.unwrap();
    let mut packed = Packed::new(site());
    let mut inputs = site_inputs(ssh_port, &mut packed);
    for (name, state) in &mut inputs.nodes {
        let newest = heads.generation.as_ref();
        state.confirmed = newest.and_then(|read| read.record.held(name));
    }
    inputs.current = current(store, &site(), &heads, &inputs.nodes)
        .await
        .unwrap();
    let mut proposed = Proposed {
        hosts: std::collections::BTreeMap::new(),
        dynamic: voipfleet_ruleset::ruleset::DynamicSets::new("site-a".parse().unwrap()),
        request,
        proposal: propose(inputs, Want::Documents),
        documents: Arc::default(),
        pending: Vec::new(),
        heads,
        packed: Some(packed),
    };
    let started = pushes.pipeline.commit(&mut proposed).await.unwrap();
    assert!(matches!(started, Some(StartedPush::Rollout(_))));
    proposed.proposal
}

/// Steps the rollout until it ends. `report` is what nodes at work report.
async fn run(store: &dyn Store, report: impl Fn(&RolloutRecord) -> NodeReport) -> RolloutRecord {
    for step in 0..100 {
        let read = rollout(store).await;
        if read.record.state.has_ended() {
            return read.record;
        }
        let observed = read.record.nodes.iter().map(|(name, progress)| {
            let report = if progress.phase.is_working() {
                report(&read.record)
            } else {
                NodeReport::Silent
            };
            let presence = Presence::Connected;
            (name.clone(), Observation { presence, report })
        });
        let observed = observed.collect();
        let mut next = read.record.clone();
        let back = next.newest() + 1;
        assert!(
            next.advance(&observed, 2000 + step, back),
            "{:?}",
            next.state
        );
        let written = persist(store, &site(), &read, &next, 2000 + step).await;
        assert!(written.unwrap().is_some());
    }
    panic!("the rollout does not end");
}

/// Pushes that wait, each with the plan of every node that was confirmed.
async fn enqueue(store: &dyn Store, proposal: &Proposal, waiting: u64) {
    let queue = QueueRecord {
        last_ticket: waiting,
        waiting: (1..=waiting)
            .map(|ticket| Queued {
                ticket,
                by: "ben".to_owned(),
                key_hash: String::new(),
                at_ms: 0,
                confirm_within_ms: None,
                planned: Some(proposal.precondition.content.clone()),
            })
            .collect(),
        ended: Vec::new(),
    };
    let key = keys::queue(site());
    let mut tx = Transaction::new(store);
    tx.expect(key.clone(), Expect::Absent);
    tx.put_large_json(&key, &key, &queue).unwrap();
    assert!(tx.commit().await.unwrap().is_some());
}

fn assert_within_limits(what: &str, counts: Counts) {
    println!("{what}: {counts:?}");
    assert!(counts.operations <= Limits::STANDARD.operations);
    assert!(counts.bytes <= Limits::STANDARD.bytes);
}

#[tokio::test]
async fn rollouts_of_the_largest_site_fit_into_transactions() {
    let memory = Memory::default();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let (clock, stop) = (clock::system(), CancellationToken::new());
    let fleet = Fleet::new(Arc::clone(&store), clock::system(), None, stop);
    let pushes = Pushes::new(Arc::clone(&store), clock, fleet);
    let store = store.as_ref();

    push(&pushes, store, 22).await;
    assert_within_limits("commit of the first push", memory.last_commit());
    assert_within_limits("first push", memory.take_counts());
    let ended = run(store, |_| NodeReport::Runs(0)).await;
    assert_eq!(ended.state, RolloutState::Done);
    assert_eq!(
        ended.count(|phase| phase == Phase::Applied),
        MAX_NODES_PER_SITE
    );
    assert_within_limits("rollout of the first push", memory.take_counts());

    let proposal = push(&pushes, store, 2222).await;
    assert_within_limits("commit of the second push", memory.last_commit());
    assert_within_limits("second push", memory.take_counts());
    enqueue(store, &proposal, 3).await;
    memory.take_counts();
    // Every node of the second batch fails, and the rollout goes back.
    let ended = run(store, |record| match record.released {
        _ if record.goes_back() => NodeReport::Runs(0),
        0 | 1 => NodeReport::Runs(0),
        _ => NodeReport::Refused(Phase::Failed, "iptables-restore: line 7 failed".to_owned()),
    })
    .await;
    assert_eq!(ended.state, RolloutState::RolledBack);
    assert_within_limits("rollout that goes back", memory.take_counts());

    // Nothing of what was replaced on the way is left.
    for owner in [
        keys::rollout(site()),
        keys::current(site()),
        keys::queue(site()),
    ] {
        let held = store.get(&owner).await.unwrap().unwrap();
        let parts = crate::store::parts::Parts::of(&owner, &held).unwrap();
        let parts = parts.map_or(0, |parts| parts.keys().len());
        println!("{owner}: {parts} parts");
        assert_eq!(memory.count(&keys::parts(&owner)), parts, "{owner}");
    }
}
