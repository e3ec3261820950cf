//! The rollout of a generation to a site's nodes: its record, and the state machine over it.

pub mod batches;
mod canary;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod model;
mod record;
pub mod state_machine;
mod summary;
mod transition;

pub use record::{NodeStep, OutcomeRecord, Place, RolloutRecord, RolloutState, Stages, Tally};
pub use transition::{Transition, released};
