//! The task that owns the kernel: one thread; nothing else in the agent changes rules.
//!
//! [`Reconciler`] is the loop. Its parts own their state: `Node` (what runs, and what to go back
//! to), `Drift` with `Repair` and `DriftRecords`, `Flows`, `HeldSets` and `Report`.

mod act;
mod contention;
mod drift_check;
mod drift_records;
mod dynamic_sets;
mod flows;
mod interfaces;
mod look_pace;
mod looks;
mod node;
mod offers;
mod outcome;
mod probes;
mod quick_look;
mod repair;
mod status;
mod task;
mod trial;
mod warnings;

pub use task::{Inventory, Reconciler, Settings};
