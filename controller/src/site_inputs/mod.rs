//! What a site's rules are made of, read from the store: documents, nodes, targets, and the members
//! of its dynamic sets.

mod nodes;
mod served;
mod set_values;
mod snapshot;
mod targets;

pub(crate) use nodes::{Reported, counts_until, held, inputs, nodes};
pub use nodes::{SiteNode, read_addresses};
pub(crate) use served::Present;
pub use set_values::read;
pub(crate) use set_values::{LeftOut, gather, lost, resolved};
pub use snapshot::{InputsError, Snapshot};
pub use targets::{Targets, current, target};
