//! What the controller and the agents must agree on. Pure: no files, no sockets, no clock.

pub mod identity;
pub mod names;
pub mod policy;
pub mod role;
pub mod ruleset;
pub mod session;
