//! Live sets: addresses that change between pushes. Cluster members, what operators block, allow
//! and open, resolved names and feeds become one value for each site, which the sessions bring to
//! its nodes.

mod expiry;
mod follow;
mod hub;
mod inputs;
mod value;

pub use hub::Live;
pub(crate) use inputs::resolved;
pub use inputs::{MAX_EXCEPTIONS, read};
pub use value::SiteLive;
