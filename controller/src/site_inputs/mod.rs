//! What a site's rules are made of, read from the store: documents, nodes, targets, and the members
//! of its dynamic sets.

mod nodes;
mod set_values;
mod snapshot;
mod targets;

pub use nodes::{MAX_NODES, SiteNode, read_addresses};
pub(crate) use nodes::{held, inputs, nodes};
pub(crate) use set_values::{LeftOut, gather, resolved};
pub use set_values::{MAX_EXCEPTIONS, read};
pub use snapshot::{InputsError, Snapshot};
pub use targets::{Targets, current, target};
