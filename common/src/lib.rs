//! What the controller and the agents must agree on. Pure: no files, no sockets, no clock.

pub mod audit;
pub mod catalogue;
pub mod compile;
pub mod drift;
pub mod flows;
pub mod identity;
pub mod iptables;
pub mod names;
pub mod plan;
pub mod policy;
pub mod role;
pub mod ruleset;
pub mod session;
pub mod simulate;
