//! The gRPC services, and the listeners that they are served on.

pub mod answers;
pub mod api;
pub mod enrolment;
pub mod fleet_service;
pub mod listen;
pub(crate) mod rpc_status;
pub mod serve;
