//! Single cases over the model's nodes.

use super::model::{NEW, World, name};
use super::record::{RolloutState, Stages};
use super::state_machine::ANSWER_MS;

/// A canary of one, then `batch` at a time.
fn after_a_canary(batch: usize, max_failures: usize) -> Stages {
    Stages {
        canary: 1,
        batch,
        max_failures,
        pause_ms: 0,
        roll_back: false,
        confirm_within_ms: 30_000,
    }
}

/// How long the controller was away is no node's fault.
#[test]
fn nodes_at_work_get_their_time_again_after_a_restart() {
    let mut world = World::new(3, &[true; 7], after_a_canary(3, 0));
    world.settle();
    world.pass(30_000);
    assert!(world.record.rearm(40_000));
    world.pass(40_000 + 30_000 + ANSWER_MS - 1);
    world.settle();
    assert_eq!(world.record.state, RolloutState::Running);
    world.pass(1);
    world.settle();
    assert_eq!(world.record.state, RolloutState::Halted);
    assert!(!world.record.rearm(40_000), "no node is at work");
}

/// A clock that is set, or that of another machine, ends no trial and no pause.
#[test]
fn a_wall_clock_that_jumps_fails_no_node() {
    let stages = Stages {
        pause_ms: 10_000,
        ..after_a_canary(1, 0)
    };
    let mut world = World::new(3, &[true; 7], stages);
    world.settle();
    world.now_ms += 24 * 3_600_000;
    world.settle();
    assert_eq!(
        (world.record.state, world.record.working()),
        (RolloutState::Running, 1)
    );
    world.machines.get_mut(&name(0)).unwrap().runs = NEW;
    world.settle();
    world.now_ms += 24 * 3_600_000;
    world.settle();
    assert_eq!(world.record.released, 1, "the pause lasts");
    // What was left of it is left after a restart.
    world.pass(9_000);
    let text = serde_json::to_string(&world.record).unwrap();
    world.record = serde_json::from_str(&text).unwrap();
    world.now_ms = 0;
    assert_eq!(world.record.wakes_after_ms(), Some(1_000));
    world.pass(1_000);
    world.settle();
    assert_eq!(world.record.released, 2);
}

/// The only node that changes fails, and that is allowed: those that take the number only have
/// nothing to wait for.
#[test]
fn a_failed_canary_that_was_the_only_change_does_not_block() {
    let stages = after_a_canary(2, 1);
    let mut world = World::new(3, &[true; 7], stages);
    for at in 1..3 {
        world.record.nodes.get_mut(&name(at)).unwrap().unchanged = true;
    }
    world.settle();
    world.machines.get_mut(&name(0)).unwrap().refused = Some(NEW);
    world.settle();
    assert_eq!(world.record.released, 2);
    for at in 1..3 {
        world.machines.get_mut(&name(at)).unwrap().runs = NEW;
    }
    world.settle();
    assert_eq!(world.record.state, RolloutState::Done);
}

/// A rollout that goes back remembers which nodes it had reached, and why it failed.
#[test]
fn way_back_remembers_untouched_nodes_and_the_cause() {
    let stages = Stages {
        roll_back: true,
        ..after_a_canary(1, 0)
    };
    let mut world = World::new(3, &[true; 7], stages);
    world.now_ms = 1_000;
    world.settle();
    world.now_ms = 1_250;
    world.machines.get_mut(&name(0)).unwrap().refused = Some(NEW);
    world.settle();
    assert_eq!(world.record.state, RolloutState::RollingBack);
    for machine in world.machines.values_mut() {
        machine.runs = world.record.goal();
    }
    world.settle();
    assert_eq!(world.record.state, RolloutState::RolledBack);
    let forward = |at| world.record.nodes[&name(at)].forward.clone().unwrap();
    let failed = forward(0);
    assert_eq!((failed.error.as_str(), failed.took_ms), ("refused", 250));
    assert!(!failed.is_untouched());
    assert!(forward(1).is_untouched() && forward(2).is_untouched());
    let (outcome, back) = (
        world.record.outcome(0),
        world.record.back_outcome(0).unwrap(),
    );
    assert_eq!(
        (outcome.applied, outcome.failed, outcome.untouched),
        (0, 1, 2)
    );
    assert_eq!((back.applied, back.failed, back.untouched), (3, 0, 0));
    assert!(back.is_good() && !outcome.is_good());
}
