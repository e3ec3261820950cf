//! The agent of one node: applies its ruleset to the kernel, proves it, and keeps it.

pub mod boot;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod disk;
pub mod enroll;
pub mod errors;
pub mod facts;
pub mod failpoint;
pub mod fallback;
pub mod kernel;
pub mod ledger;
pub mod link;
pub mod live;
pub mod machine;
pub mod neighbours;
pub mod probe;
pub mod reconcile;
pub mod service;
pub mod state;
pub mod voipnow;
pub mod watch;
