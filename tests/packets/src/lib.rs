//! Real packets: what reaches a node from where, by sockets in network namespaces.

mod icmp;
mod plan;
mod probe;
mod serve;
mod table;

pub use plan::{Kind, Outcome, Probe, Reach, Seen, read_plan};
pub use probe::enter;
pub use probe::run;
pub use serve::serve;
pub use table::table;
