//! Puts rulesets in force, and proves it: functions over a [`Kernel`] and a [`Ledger`], without
//! state of their own.
//!
//! [`Kernel`]: crate::kernel::Kernel
//! [`Ledger`]: crate::ledger::Ledger

pub mod apply;
pub mod dynamic_sets;
pub mod inspect;
pub mod kernel_state;
pub mod management_rules;
pub mod obstacles;
pub mod openness;
pub mod preflight;
pub mod read_back;
pub mod recovery;
mod repair_plan;
pub mod target;
pub mod write;
