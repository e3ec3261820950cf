use proptest::prelude::*;
use voipfleet_ruleset::ruleset::{Digest, Mode};

use super::*;
use crate::precondition::LastChanges;

const LIMIT_MS: u64 = 30_000;

fn name(at: usize) -> NodeName {
    format!("n{at}").parse().unwrap()
}

fn content(text: &str) -> Content {
    Content {
        digest: Digest::of(text.as_bytes()),
        size: text.len() as u64,
    }
}

fn held(generation: Generation, text: &str) -> Held {
    Held {
        generation,
        digest: content(text).digest,
    }
}

fn ruleset(node: &NodeName) -> Ruleset {
    Ruleset {
        site: "site-a".parse().unwrap(),
        node: node.clone(),
        mode: Mode::Enforce,
        admins: Vec::new(),
        ssh_ports: Vec::new(),
        sets: Vec::new(),
        chains: Vec::new(),
        probes: Vec::new(),
        without_ipv6: false,
    }
}

fn record(number: Generation, nodes: &[(usize, &str)]) -> GenerationRecord {
    GenerationRecord {
        number,
        at_ms: 100,
        by: "ada".to_owned(),
        confirm_within_ms: LIMIT_MS,
        observe: false,
        documents: Some(4),
        cause: Cause::Push,
        dynamic: BTreeSet::new(),
        changes: GenerationChanges::default(),
        joined: BTreeMap::new(),
        nodes: nodes
            .iter()
            .map(|(at, text)| (name(*at), content(text)))
            .collect(),
    }
}

fn current(generation: GenerationRecord) -> Current {
    Current {
        targets: TargetRecord::everywhere(generation.number),
        earlier: [(generation.number, generation.clone())].into(),
        generation,
    }
}

/// Connected nodes, each with the content that the documents give it and what it has confirmed.
fn inputs(current: Option<Current>, nodes: &[(usize, &str, Option<Held>)]) -> Inputs {
    Inputs {
        site: "site-a".parse().unwrap(),
        at_ms: 1000,
        by: "ben".to_owned(),
        confirm_within_ms: None,
        documents: 5,
        changed_documents: Some(vec!["Tenant/acme".to_owned()]),
        rollout: Rollout {
            canary: 1,
            batch: Batch::Count(2),
            ..Rollout::default()
        },
        observe: false,
        current,
        nodes: nodes
            .iter()
            .map(|(at, _, confirmed)| {
                let state = NodeState {
                    roles: BTreeSet::from(["sip".parse().unwrap()]),
                    enrolled_ms: 50,
                    confirmed: *confirmed,
                    presence: Presence::Connected,
                    refused: None,
                    error: String::new(),
                };
                (name(*at), state)
            })
            .collect(),
        compiled: nodes
            .iter()
            .map(|(at, text, _)| (name(*at), (ruleset(&name(*at)), content(text))))
            .collect(),
        warnings: Vec::new(),
    }
}

fn numbered(
    before: Option<GenerationRecord>,
    nodes: &[(usize, &str, Option<Held>)],
) -> (bool, Generation) {
    let proposal = propose(inputs(before.map(current), nodes), Want::Documents);
    (proposal.changed, proposal.generation.number)
}

fn start() -> RolloutStart {
    RolloutStart {
        number: 1,
        ticket: None,
        at_ms: 1000,
    }
}

#[test]
fn the_same_content_is_no_new_generation() {
    let before = || Some(record(4, &[(0, "x"), (1, "y")]));
    let same = [(0, "x", Some(held(3, "w"))), (1, "y", None)];
    assert_eq!(numbered(before(), &same), (false, 4));
    assert_eq!(numbered(None, &same[1..]), (true, 1));
    assert_eq!(
        numbered(before(), &[(0, "z", None), (1, "y", None)]),
        (true, 5)
    );
    assert_eq!(numbered(before(), &[(0, "x", None)]), (true, 5));
}

#[test]
fn a_confirmed_number_is_not_reused() {
    let before = || Some(record(4, &[(0, "x")]));
    let numbered_with = |before, held| numbered(before, &[(0, "x", Some(held))]);
    assert_eq!(numbered_with(before(), held(9, "x")), (true, 10));
    assert_eq!(numbered_with(before(), held(4, "q")), (true, 5));
    assert_eq!(numbered_with(None, held(9, "x")), (true, 10));
}

#[test]
fn bogus_confirmed_generation_does_not_advance_the_counter() {
    let before = || Some(record(4, &[(0, "x")]));
    for bogus in [u64::MAX, u64::MAX - 1, 5 + MAX_GENERATIONS_AHEAD] {
        let confirmed = Some(held(bogus, "x"));
        assert_eq!(numbered(before(), &[(0, "x", confirmed)]), (false, 4));
        assert_eq!(numbered(before(), &[(0, "y", confirmed)]), (true, 5));
        assert_eq!(
            numbered(None, &[(0, "x", Some(held(u64::MAX, "x")))]),
            (true, 1)
        );
    }
}

#[test]
fn a_node_that_enrolled_again_makes_a_new_generation() {
    let mut inputs = inputs(Some(current(record(4, &[(0, "x")]))), &[(0, "x", None)]);
    inputs.nodes.get_mut(&name(0)).unwrap().enrolled_ms = 101;
    let proposal = propose(inputs, Want::Documents);
    assert!(proposal.changed);
}

#[test]
fn unchanged_rules_of_newer_documents_update_the_generation_in_place() {
    let before = current(record(4, &[(0, "x")]));
    let confirmed = Some(held(4, "x"));
    let proposal = propose(
        inputs(Some(before), &[(0, "x", confirmed)]),
        Want::Documents,
    );
    assert!(!proposal.changed && proposal.is_settled());
    assert_eq!(proposal.generation.documents, Some(5));
    assert!(proposal.stores_generation());
}

/// The generation is not confirmed everywhere: it is rolled out again under its number.
#[test]
fn an_unconfirmed_generation_is_offered_again() {
    let earlier = record(3, &[(0, "w"), (1, "y")]);
    let mut before = current(record(4, &[(0, "x"), (1, "y")]));
    before.earlier.insert(3, earlier);
    let nodes = [(0, "x", Some(held(3, "w"))), (1, "y", Some(held(4, "y")))];
    let mut inputs = inputs(Some(before), &nodes);
    let refused = Some((held(4, "x"), 77));
    inputs.nodes.get_mut(&name(0)).unwrap().refused = refused;
    let proposal = propose(inputs, Want::Documents);
    assert!(!proposal.changed && !proposal.is_settled());
    let rollout = proposal.rollout(&start());
    let progress = &rollout.nodes[&name(0)];
    assert_eq!(
        (progress.before, progress.refused_before),
        (Some(3), Some(77))
    );
    assert!(progress.phase.is_working());
    assert_eq!(rollout.nodes[&name(1)].phase, Phase::Applied);
}

/// A rollback takes the content of an earlier generation, and compiles nodes that it lacks.
#[test]
fn a_rollback_is_a_proposal_of_earlier_content() {
    let earlier = record(3, &[(0, "old"), (9, "gone")]);
    let want = Want::Rollback(earlier);
    assert!(!want.needs_compile(&name(0)) && want.needs_compile(&name(1)));
    let before = current(record(4, &[(0, "x"), (1, "y")]));
    let proposal = propose(
        inputs(Some(before), &[(0, "x", None), (1, "y", None)]),
        want,
    );
    assert_eq!(proposal.rollback_to, Some(3));
    assert_eq!(proposal.generation.cause, Cause::Rollback { to: 3 });
    assert_eq!(proposal.generation.number, 5);
    let contents = [(name(0), content("old")), (name(1), content("y"))];
    assert_eq!(proposal.generation.nodes, contents.into());
    // Of the documents that the earlier generation was made of.
    assert_eq!(proposal.generation.documents, Some(4));
    assert_eq!(proposal.precondition.content.documents, 5);
    assert_eq!(proposal.compiled.len(), 1);
    assert!(proposal.warnings[0].starts_with("n1 enrolled after generation 3"));
}

fn node() -> impl Strategy<Value = (usize, Option<(u64, usize)>, usize)> {
    (
        0_usize..3,
        prop::option::of((1_u64..8, 0_usize..3)),
        0_usize..3,
    )
}

proptest! {
    /// Whatever plan and push are made of: what the precondition shows, what the generation holds
    /// and what the rollout goes through are the same nodes with the same digests.
    #[test]
    fn what_a_plan_shows_is_what_a_push_stores(
        nodes in prop::collection::vec(node(), 0..8),
        stored in prop::option::of(prop::collection::vec(0_usize..3, 0..8)),
        rollback in any::<bool>(),
        canary in 0_u32..3,
        batch in 1_u32..4,
    ) {
        let words = ["x", "y", "z"];
        let wanted: Vec<(usize, &str, Option<Held>)> = nodes
            .iter()
            .enumerate()
            .map(|(at, (wanted, confirmed, _))| {
                let confirmed = confirmed.map(|(number, text)| held(number, words[text]));
                (at, words[*wanted], confirmed)
            })
            .collect();
        let stored: Option<Vec<(usize, &str)>> = stored.map(|stored| {
            stored.iter().enumerate().map(|(at, text)| (at, words[*text])).collect()
        });
        let before = stored.as_deref().map(|stored| current(record(4, stored)));
        let mut inputs = inputs(before, &wanted);
        inputs.rollout.canary = canary;
        inputs.rollout.batch = Batch::Count(batch);
        for (at, (_, _, presence)) in nodes.iter().enumerate() {
            let presence = [Presence::Connected, Presence::Returning(500), Presence::Offline][*presence];
            inputs.nodes.get_mut(&name(at)).unwrap().presence = presence;
        }
        let want = match &stored {
            Some(stored) if rollback => Want::Rollback(record(3, &stored[..stored.len() / 2])),
            _ => Want::Documents,
        };
        let again = propose(inputs.clone(), want.clone());
        let proposal = propose(inputs.clone(), want);
        // A dry run, a plan and a push of the same inputs are one value.
        prop_assert_eq!(&proposal.generation, &again.generation);
        prop_assert!(proposal.precondition.violations(&again.precondition, &LastChanges::default()).is_empty());
        let shown = &proposal.precondition.content.nodes;
        let stored: BTreeMap<NodeName, Digest> = proposal.generation.nodes.iter()
            .map(|(name, content)| (name.clone(), content.digest))
            .collect();
        prop_assert_eq!(shown, &stored);
        prop_assert_eq!(shown.keys().collect::<Vec<_>>(), proposal.nodes.keys().collect::<Vec<_>>());
        for (name, node) in &proposal.nodes {
            prop_assert_eq!(shown[name], node.content.digest);
            // The confirmed state that was compared is the one that is stored.
            let confirmed = proposal.precondition.state.as_ref().unwrap().confirmed.get(name);
            prop_assert_eq!(confirmed.copied(), node.state.confirmed);
        }
        let rollout = proposal.rollout(&start());
        prop_assert_eq!(rollout.generation, proposal.generation.number);
        for (name, progress) in &rollout.nodes {
            prop_assert_eq!(progress.unchanged, proposal.nodes[name].is_unchanged());
        }
        // The batches of the plan, except that connected nodes may replace an offline canary.
        if inputs.nodes.values().all(NodeState::is_connected) {
            prop_assert_eq!(&rollout.order, &proposal.batches.batches);
        }
        let mut placed = rollout.order.concat();
        placed.sort();
        prop_assert!(placed.iter().eq(proposal.nodes.keys()));
    }
}

/// The generation before is pruned first: what differs from it is kept with the generation.
#[test]
fn generation_keeps_what_it_changed() {
    let before = record(7, &[(0, "old"), (1, "same"), (3, "gone")]);
    let nodes = [
        (0, "new", Some(held(7, "old"))),
        (1, "same", Some(held(7, "same"))),
        (2, "added", None),
    ];
    let proposal = propose(inputs(Some(current(before)), &nodes), Want::Documents);
    let changes = &proposal.generation.changes;
    assert_eq!(changes.changed, [name(0)].into());
    assert_eq!(changes.added, [name(2)].into());
    assert_eq!(changes.removed, [name(3)].into());
    assert_eq!(changes.documents, ["Tenant/acme"]);
    assert_eq!(changes.document_count, Some(1));
}
