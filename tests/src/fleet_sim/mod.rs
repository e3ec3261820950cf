//! A fleet without machines: fake agents that speak the agent's protocol over mutual TLS with
//! a real controller process, and have no kernel. For figures of fleets that are larger than a
//! lab.

mod installation;

pub use installation::{Installation, Reading};
