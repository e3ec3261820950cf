//! Live sets: addresses that change between pushes. Cluster members, what operators block, allow
//! and open, resolved names and feeds become one value for each site, which the sessions bring to
//! its nodes. Names are resolved and feeds fetched here, once for every node.

mod expiry;
pub mod feeds;
mod follow;
mod hub;
mod inputs;
pub mod names;
mod sources;
mod space;
mod used;
mod value;

pub use hub::Live;
pub(crate) use inputs::resolved;
pub use inputs::{MAX_EXCEPTIONS, read};
pub use sources::{SourceOptions, Sources};
pub use used::Used;
pub use value::SiteLive;
