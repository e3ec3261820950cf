//! What the controller decides, as pure functions: no store, clock, network or async runtime.

pub mod generation;
pub mod limits;
pub mod precondition;
pub mod proposal;
pub mod queue;
pub mod rollout;
pub mod target;

/// Counts the states of the documents: grows by one with every change, 0 before the first.
pub type DocumentsVersion = u64;
