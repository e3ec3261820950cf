//! The protocol between controller, agents and operators as decisions without I/O: sessions,
//! identities, rights, the audit chain.

pub mod audit;
pub mod errors;
pub mod identity;
pub mod limits;
pub mod session;
