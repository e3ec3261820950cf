//! The task that owns the kernel: one thread, which nothing else may change the rules beside.

mod contention;
mod drift_check;
mod drift_records;
mod dynamic_sets;
mod fallback_mode;
mod flows;
mod offers;
mod probes;
mod status;
mod task;
mod trial;

pub use task::{Inventory, Reconciler, Settings};
