//! Single cases of the model's world.

use super::model::{NEW, World, name};
use super::record::{RolloutState, Stages};

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
fn nodes_at_work_have_their_time_again_after_a_restart() {
    let stages = after_a_canary(3, 0);
    let mut world = World::new(3, &[true; 7], stages);
    world.settle();
    world.now_ms += 3_600_000;
    let started_ms = world.now_ms;
    // Said again with every look.
    for _ in 0..2 {
        world.record.take_over(started_ms, 40_000);
        world.settle();
        assert_eq!(world.record.state, RolloutState::Running);
        world.now_ms += 40_000 + 30_000;
    }
    world.record.take_over(started_ms, 40_000);
    world.settle();
    assert_eq!(world.record.state, RolloutState::Halted);
}

/// The only node that changes fails, and that is allowed: those that take the number only have
/// nothing to wait for.
#[test]
fn a_canary_that_was_the_only_change_holds_nobody_up() {
    let stages = after_a_canary(2, 1);
    let mut world = World::new(3, &[true; 7], stages);
    for at in 1..3 {
        world.record.nodes.get_mut(&name(at)).unwrap().had = true;
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
