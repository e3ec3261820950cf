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
mod way_back;

pub use record::{
    ForwardResult, NodeProgress, OutcomeRecord, Phase, RolloutRecord, RolloutState, Stages, Tally,
};
pub use transition::{Transition, released};
pub use way_back::{WayBack, content_source};
