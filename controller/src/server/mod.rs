//! The gRPC services, and the listeners that they are served on.

pub mod api;
pub mod enrolment;
pub mod listen;
