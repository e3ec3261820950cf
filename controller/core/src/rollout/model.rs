//! Rollouts against a model of nodes that connect, leave, apply, refuse and stay silent.

use std::collections::BTreeMap;

use proptest::prelude::*;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

use super::record::{NodeProgress, Phase, RolloutRecord, RolloutState, Stages};
use super::state_machine::{ANSWER_MS, NodeReport, Observation, Presence};

const OLD: Generation = 4;
pub(super) const NEW: Generation = 5;
const BACK: Generation = 6;

/// A machine with an agent.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) connected: bool,
    pub(super) runs: Generation,
    /// The last refusal, of which generation.
    pub(super) refused: Option<Generation>,
    /// A confirmation that is on its way: a halt does not catch it.
    pub(super) confirmed: Option<Generation>,
}

#[derive(Debug, Clone)]
enum Step {
    Connect(usize),
    Leave(usize),
    Takes(usize),
    Refuses(usize),
    /// It applied it, and the report is on its way.
    TakesUnheard(usize),
    Time(u64),
    Pause,
    Resume,
    Abort(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0_usize..7;
    let step = prop_oneof![
        2 => node.clone().prop_map(Step::Connect),
        2 => node.clone().prop_map(Step::Leave),
        6 => node.clone().prop_map(Step::Takes),
        2 => node.clone().prop_map(Step::Refuses),
        1 => node.prop_map(Step::TakesUnheard),
        2 => (1_u64..90_000).prop_map(Step::Time),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Abort),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..80)
}

pub(super) struct World {
    pub(super) record: RolloutRecord,
    pub(super) machines: BTreeMap<NodeName, Machine>,
    pub(super) now_ms: u64,
}

pub(super) fn name(at: usize) -> NodeName {
    format!("n{at}").parse().unwrap()
}

impl World {
    pub(super) fn new(size: usize, connected: &[bool], stages: Stages) -> Self {
        let machines: BTreeMap<NodeName, Machine> = (0..size)
            .map(|at| {
                let machine = Machine {
                    connected: connected[at],
                    runs: OLD,
                    refused: None,
                    confirmed: None,
                };
                (name(at), machine)
            })
            .collect();
        let names: Vec<NodeName> = machines.keys().cloned().collect();
        let (first, rest) = names.split_at(stages.canary.min(size));
        let mut order = vec![first.to_vec()];
        order.extend(rest.chunks(stages.batch).map(<[NodeName]>::to_vec));
        order.retain(|batch| !batch.is_empty());
        let step = NodeProgress {
            before: Some(OLD),
            unchanged: false,
            phase: Phase::Waiting,
            at_ms: 0,
            refused_before: None,
            error: String::new(),
            flows_cut: 0,
            began_ms: None,
            forward: None,
        };
        let record = RolloutRecord {
            number: 1,
            generation: NEW,
            back: None,
            state: RolloutState::Running,
            reason: String::new(),
            by: "ada".to_owned(),
            started_ms: 0,
            ended_ms: None,
            ticket: None,
            stages,
            order,
            released: 0,
            pause_left_ms: None,
            held: None,
            forward_tally: None,
            nodes: names.into_iter().map(|name| (name, step.clone())).collect(),
        };
        Self {
            record,
            machines,
            now_ms: 0,
        }
    }

    fn observed(&self) -> BTreeMap<NodeName, Observation> {
        let goal = self.record.goal();
        self.machines
            .iter()
            .map(|(name, machine)| {
                let report = if machine.runs == goal {
                    NodeReport::Runs(0)
                } else if machine.refused == Some(goal) {
                    NodeReport::Refused(Phase::RolledBack, "refused".to_owned())
                } else {
                    NodeReport::Silent
                };
                let seen = if machine.connected {
                    Observation {
                        presence: Presence::Connected,
                        report,
                    }
                } else {
                    Observation {
                        presence: Presence::Offline,
                        report: NodeReport::Silent,
                    }
                };
                (name.clone(), seen)
            })
            .collect()
    }

    fn target(&self, name: &NodeName) -> Generation {
        let targets = self.record.targets();
        let target = targets.of(name).unwrap_or_default();
        assert_eq!(Some(target), self.record.target(&self.record.nodes[name]));
        target
    }

    /// The controller, until it has nothing more to decide. Whatever it decides, the rules hold.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.record.clone();
            let observed = self.observed();
            if !self.record.advance(&observed, self.now_ms, BACK) {
                return;
            }
            self.holds(&before);
        }
        panic!("it does not come to rest: {:?}", self.record);
    }

    fn holds(&self, before: &RolloutRecord) {
        let record = &self.record;
        if matches!(record.state, RolloutState::Running | RolloutState::Paused) {
            assert!(
                record.working() <= record.limit(),
                "too many at work: {record:?}"
            );
        }
        let released = |record: &RolloutRecord| {
            record.count(|place| !matches!(place, Phase::Waiting | Phase::Offline { .. }))
        };
        if before.failures() > record.stages.max_failures && before.state == RolloutState::Running {
            assert!(
                record.state != RolloutState::Running,
                "past its limit: {record:?}"
            );
            assert!(released(record) <= released(before).max(record.nodes.len()));
        }
        // Only the canary is given other rules before a node of it has applied them.
        let taken = |record: &RolloutRecord| record.count(|place| place == Phase::Applied) > 0;
        if record.stages.canary > 0 && record.back.is_none() && !taken(before) {
            for (name, step) in &record.nodes {
                let was = before.nodes[name].phase.is_working();
                if step.phase.is_working() && !step.unchanged && !was && !taken(record) {
                    assert!(record.order[0].contains(name), "{name}: {record:?}");
                }
            }
            let open = |place| matches!(place, Phase::Waiting | Phase::Offline { .. });
            let done = record.state == RolloutState::Done;
            assert!(
                !done || taken(record) || record.count(open) == 0,
                "{record:?}"
            );
        }
        let mut placed = record.order.concat();
        placed.sort();
        assert!(placed.iter().eq(record.nodes.keys()), "{record:?}");
        for (name, step) in &record.nodes {
            let target = record.target(step).unwrap_or_default();
            assert!([OLD, NEW, BACK].contains(&target), "{name} {target}");
            // No node goes back by number: only a new generation rolls back.
            if step.phase == Phase::Applied && record.back.is_none() {
                assert_eq!(target, NEW);
            }
            // Untouched nodes of a rollout that was stopped keep what they have.
            let untouched = matches!(step.phase, Phase::Waiting | Phase::Offline { .. });
            let stopped = matches!(record.state, RolloutState::Halted | RolloutState::Aborted);
            if untouched && stopped {
                assert_eq!(target, OLD, "{name}");
            }
        }
    }

    /// What an agent does with what it is offered.
    fn answer(&mut self, at: usize, takes: bool, heard: bool) {
        let name = name(at);
        let Some(machine) = self.machines.get(&name) else {
            return;
        };
        let target = self.target(&name);
        if !machine.connected || machine.runs >= target || machine.refused == Some(target) {
            return;
        }
        let machine = self.machines.get_mut(&name).unwrap();
        if !takes {
            machine.refused = Some(target);
        } else if heard {
            machine.runs = target;
        } else {
            machine.confirmed = Some(target);
            machine.connected = false;
        }
    }

    /// Nodes that are there take what they are given, for long enough.
    fn go_on(&mut self, size: usize) {
        for _ in 0..40 {
            self.settle();
            for at in 0..size {
                self.answer(at, true, true);
            }
            self.settle();
            self.pass(11_000);
            self.settle();
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.record.tick(ms);
    }

    fn connect(&mut self, at: usize) {
        if let Some(machine) = self.machines.get_mut(&name(at)) {
            machine.connected = true;
            if let Some(confirmed) = machine.confirmed.take() {
                machine.runs = machine.runs.max(confirmed);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Connect(at) => self.connect(*at),
            Step::Leave(at) => {
                if let Some(machine) = self.machines.get_mut(&name(*at)) {
                    machine.connected = false;
                }
            }
            Step::Takes(at) => self.answer(*at, true, true),
            Step::Refuses(at) => self.answer(*at, false, true),
            Step::TakesUnheard(at) => self.answer(*at, true, false),
            Step::Time(ms) => self.pass(*ms),
            Step::Pause => drop(self.record.pause("ben")),
            Step::Resume => drop(self.record.resume()),
            Step::Abort(back) => {
                drop(self.record.abort("ben", self.now_ms, back.then_some(BACK)));
            }
            Step::Restart => {
                let text = serde_json::to_string(&self.record).unwrap();
                self.record = serde_json::from_str(&text).unwrap();
            }
        }
    }
}

fn stages() -> impl Strategy<Value = Stages> {
    (0_usize..3, 1_usize..4, 0_usize..3, 0_u64..2, any::<bool>()).prop_map(
        |(canary, batch, max_failures, pause, roll_back)| Stages {
            canary,
            batch,
            max_failures,
            pause_ms: pause * 10_000,
            roll_back,
            confirm_within_ms: 30_000,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever nodes and operators do: never more at work than may be, never past the limit of
    /// failures, nothing but what a node ran, the new generation or the way back; and once
    /// nodes answer, it ends, with every node where it should be.
    #[test]
    fn a_rollout_keeps_its_invariants_and_ends(
        size in 0_usize..7,
        connected in prop::collection::vec(any::<bool>(), 7),
        stages in stages(),
        steps in steps(),
    ) {
        let mut world = World::new(size, &connected, stages);
        world.settle();
        for step in &steps {
            world.take(step);
            world.settle();
        }
        // From here on it is not held, and connected nodes answer.
        drop(world.record.resume());
        world.go_on(size);
        if !world.record.state.has_ended() {
            // Its reason is that it waits for a canary; a node that connects is enough.
            prop_assert!(world.record.stages.canary > 0 && world.record.working() == 0);
            prop_assert!(world.record.reason.contains("canary"), "{:?}", world.record);
            for at in 0..size {
                world.connect(at);
            }
            world.go_on(size);
        }
        prop_assert!(world.record.state.has_ended(), "{:?}", world.record);
        // No node is forgotten: one that reconnects gets, or has, what it should run.
        for at in 0..size {
            world.connect(at);
        }
        world.settle();
        for at in 0..size {
            world.answer(at, true, true);
        }
        world.settle();
        for (name, machine) in &world.machines {
            let target = world.target(name);
            prop_assert!(
                machine.runs == target || machine.refused == Some(target),
                "{} runs {} and should run {}: {:?}", name, machine.runs, target, world.record
            );
        }
    }

    /// Where all nodes answer well it ends with all of them on it.
    #[test]
    fn a_good_generation_reaches_every_node(size in 1_usize..7, stages in stages()) {
        let mut world = World::new(size, &[true; 7], stages);
        let mut most = 0;
        for _ in 0..40 {
            world.settle();
            most = most.max(world.record.working());
            for at in 0..size {
                world.answer(at, true, true);
            }
            world.pass(11_000);
        }
        prop_assert_eq!(world.record.state, RolloutState::Done);
        prop_assert!(most <= world.record.stages.batch.max(world.record.stages.canary));
        prop_assert!(world.machines.values().all(|machine| machine.runs == NEW));
    }

    /// A canary that fails leaves all other nodes untouched.
    #[test]
    fn a_failed_canary_halts_the_rollout(size in 2_usize..7, silent in any::<bool>()) {
        let stages = Stages {
            canary: 1,
            batch: 3,
            max_failures: 0,
            pause_ms: 0,
            roll_back: false,
            confirm_within_ms: 30_000,
        };
        let mut world = World::new(size, &[true; 7], stages);
        world.settle();
        if silent {
            world.pass(30_000 + ANSWER_MS);
        } else {
            world.answer(0, false, true);
        }
        world.settle();
        prop_assert_eq!(world.record.state, RolloutState::Halted);
        let untouched = world.record.count(|place| place == Phase::Waiting);
        prop_assert_eq!(untouched, size - 1);
        prop_assert!(world.machines.keys().all(|name| world.target(name) == OLD));
    }
}

fn staged(pause_ms: u64) -> Stages {
    Stages {
        canary: 1,
        batch: 2,
        max_failures: 1,
        pause_ms,
        roll_back: false,
        confirm_within_ms: 30_000,
    }
}

/// The next node that is there takes the place of a canary that is not.
#[test]
fn a_canary_that_is_offline_is_replaced() {
    let mut world = World::new(5, &[false, false, true, true, true, true, true], staged(0));
    world.settle();
    assert_eq!(world.record.order[0], [name(2)]);
    assert_eq!(world.record.working(), 1);
    // It fails, and that is within the limit: it is still the turn of a canary.
    world.answer(2, false, true);
    world.settle();
    assert_eq!(world.record.order[0], [name(2), name(3)]);
    assert_eq!(world.record.working(), 1);
    world.go_on(5);
    assert_eq!(world.record.state, RolloutState::Done);
    assert_eq!((world.target(&name(0)), world.record.failures()), (NEW, 1));
}

/// Without a connected node it waits, gives the reason, and can be ended.
#[test]
fn a_rollout_without_a_canary_waits() {
    let mut world = World::new(3, &[false; 7], staged(0));
    world.go_on(3);
    assert_eq!(world.record.state, RolloutState::Running);
    let why = &world.record.reason;
    assert!(why.contains("waits for a canary: n0 is offline"), "{why}");
    let mut ended = world.record.clone();
    ended.abort("ben", world.now_ms, None).unwrap();
    assert!(
        ended
            .targets()
            .nodes
            .values()
            .all(|target| *target == Some(OLD))
    );
    for at in [2, 1] {
        world.connect(at);
        world.settle();
        assert_eq!(world.record.working(), 1);
    }
    assert_eq!(world.record.order[0], [name(2)]);
    world.go_on(3);
    assert_eq!(world.record.state, RolloutState::Done);
    assert_eq!(world.record.reason, "");
}

/// After a batch of offline nodes there is nothing to watch for.
#[test]
fn no_pause_follows_a_batch_of_offline_nodes() {
    let connected = [true, false, false, true, true, true, true];
    let mut world = World::new(5, &connected, staged(10_000));
    world.settle();
    world.answer(0, true, true);
    world.settle();
    assert_eq!(world.record.released, 1);
    world.pass(10_000);
    world.settle();
    assert_eq!((world.record.released, world.record.working()), (3, 2));
}

/// How it ends on nodes that were offline is known when they are back.
#[test]
fn nodes_that_reconnect_after_the_end_count() {
    let mut world = World::new(
        3,
        &[false; 7],
        Stages {
            canary: 0,
            batch: 3,
            ..staged(0)
        },
    );
    world.settle();
    assert_eq!(world.record.state, RolloutState::Done);
    let good = |world: &World| world.record.outcome(0).is_good();
    assert!(!good(&world), "no node has it");
    world.connect(0);
    world.answer(0, true, true);
    world.settle();
    assert!(good(&world));
    world.connect(1);
    world.answer(1, false, true);
    world.settle();
    assert!(!good(&world), "a node refused it");
    let outcome = world.record.outcome(0);
    assert_eq!(
        (outcome.applied, outcome.failed, outcome.untouched),
        (1, 1, 1)
    );
}

/// Figures are those of the way forward, and nodes that do not go back are named.
#[test]
fn figures_of_a_rolled_back_rollout_are_of_the_way_forward() {
    let stages = Stages {
        max_failures: 0,
        roll_back: true,
        batch: 1,
        ..staged(0)
    };
    let mut world = World::new(4, &[true; 7], stages);
    world.settle();
    world.answer(0, true, true);
    world.settle();
    world.answer(1, false, true);
    world.settle();
    assert_eq!(world.record.state, RolloutState::RollingBack);
    let figures = |world: &World| {
        let outcome = world.record.outcome(0);
        (outcome.applied, outcome.failed, outcome.untouched)
    };
    assert_eq!(figures(&world), (1, 1, 2));
    world.answer(2, false, true);
    world.go_on(4);
    assert_eq!(world.record.state, RolloutState::RolledBack);
    assert_eq!((figures(&world), world.record.failed()), ((1, 1, 2), 1));
    assert_eq!(world.record.not_back(), ["n2 (refused)"]);
    let why = &world.record.reason;
    assert!(why.contains("n1: refused; 1 failed"), "{why}");
    assert!(why.ends_with("; did not go back: n2 (refused)"), "{why}");
}

/// One that comes from a backup does nothing by itself, however long that lasts.
#[test]
fn a_held_rollout_neither_fails_nor_goes_back() {
    let stages = Stages {
        max_failures: 0,
        roll_back: true,
        ..staged(0)
    };
    let mut world = World::new(3, &[true; 7], stages);
    world.settle();
    assert_eq!(world.record.working(), 1);
    assert!(world.record.hold("site-a"));
    let text = serde_json::to_string(&world.record).unwrap();
    world.record = serde_json::from_str(&text).unwrap();
    let held = world.record.clone();
    world.pass(3_600_000);
    world.settle();
    assert_eq!(
        (&world.record, world.record.wakes_after_ms()),
        (&held, None)
    );
    assert_eq!(held.state, RolloutState::Paused);
    // Ended it leaves nodes as they are.
    let mut ended = held.clone();
    ended.abort("ben", world.now_ms, None).unwrap();
    assert_eq!((ended.state, ended.held), (RolloutState::Aborted, None));
    // Who was at work has its time again.
    world.record.resume().unwrap();
    world.settle();
    assert_eq!(world.record.state, RolloutState::Running);
    world.answer(0, false, true);
    world.settle();
    assert_eq!(world.record.state, RolloutState::RollingBack);

    // On its way back it is held as well, and there is only one way on.
    let targets = world.record.targets();
    assert!(world.record.hold("site-a"));
    let held = world.record.clone();
    assert_eq!((held.targets(), held.goal()), (targets, BACK));
    world.pass(3_600_000);
    world.settle();
    assert_eq!(world.record, held);
    assert!(world.record.abort("ben", world.now_ms, None).is_err());
    world.record.resume().unwrap();
    world.go_on(3);
    assert_eq!(world.record.state, RolloutState::RolledBack);
    assert!(world.machines.values().all(|machine| machine.runs == BACK));
    assert!(!world.record.hold("site-a"));
}
