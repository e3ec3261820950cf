//! Documents as people write them: read, checked with the place of every mistake, printed back.

mod address;
mod address_expansion;
mod address_space;
pub mod catalogue;
mod check;
mod cluster;
mod decode;
mod diagnostic;
mod document;
mod documents;
mod feed;
mod field_changes;
mod json_schema;
mod list_line;
mod schema;
mod source;
mod storage_format;
mod to_yaml;
mod traffic;
mod yaml;
mod yaml_writer;

#[cfg(test)]
mod tests;

pub use voipfleet_ruleset::identifiers::DocumentKind as Kind;

pub use address::{InvalidNetwork, parse_network};
pub use address_expansion::{AddressSource, Addresses, Expansion, MissingDocument};
pub use address_space::{AddressSpace, is_no_source, is_world};
pub use check::{Checked, check};
pub use cluster::{Cluster, ClusterOverride, ConflictingRoles, NodeCluster, Trust};
pub use diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Severity};
pub use document::*;
pub use feed::{Feed, FeedFile, FeedSource, FeedUrl, InvalidFeed};
pub use field_changes::{Difference, FieldChange, differences};
pub use json_schema::json_schema;
pub use list_line::networks_of_line;
pub use source::{MAX_SOURCE_BYTES, Source, list_sources, read, refuse_length};
pub use traffic::{TestPacket, Traffic, Transport};
pub use yaml::{MAX_DEPTH, MAX_NODES};
