//! What the end-to-end suites stand on: real nodes in network namespaces, real processes,
//! real packets.

pub mod boot;
pub mod calls;
pub mod exec;
pub mod fleet_sim;
pub mod lab;
