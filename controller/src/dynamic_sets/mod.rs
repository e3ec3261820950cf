//! Dynamic sets: addresses that change between pushes. Cluster members, what operators block, allow
//! and open, resolved names and feeds become one value for each site, which the sessions bring to
//! its nodes. Names are resolved and feeds fetched here, once for every node.

mod bogons;
pub mod dns_names;
mod exemption_log;
mod expiry;
pub mod feeds;
mod members;
mod recompute;
mod references;
mod snapshot;
mod sources;
mod subscriptions;
mod upkeep;

pub use references::Used;
pub use snapshot::SetsSnapshot;
pub use sources::{SourceOptions, Sources};
pub use subscriptions::Subscriptions;
