//! The agent of one node: applies its ruleset to the kernel, proves it, and keeps it.
//!
//! Imports go downwards only:
//!
//! ```text
//! commands
//! inventory
//! reconcile                        foreign_firewalls
//! enforcement   link
//!               mailbox
//! ledger   probe
//! kernel
//! host
//! failpoint
//! ```

pub mod cli;
pub mod commands;
pub mod enforcement;
pub mod failpoint;
pub mod foreign_firewalls;
pub mod host;
pub mod inventory;
pub mod kernel;
pub mod ledger;
pub mod link;
pub mod mailbox;
pub mod probe;
pub mod reconcile;
