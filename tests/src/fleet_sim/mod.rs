//! A fleet without machines: nodes that enrol and speak the agent's protocol over mutual TLS with
//! a real controller process, and have no kernel. For figures of fleets that are larger than a
//! lab.

mod agent;
mod installation;

pub use agent::{Connected, Node};
pub use installation::{Installation, Reading};
