//! Documents as people write them: read, checked with the place of every mistake, printed back.

pub(crate) mod address;
mod breadth;
pub mod catalogue;
mod check;
mod decode;
mod diagnostic;
mod document;
mod documents;
mod exposure;
mod feed;
mod fields;
mod json_schema;
mod print;
mod schema;
mod source;
mod stored;
mod tree;
mod yaml;

#[cfg(test)]
mod tests;

pub use voipfleet_ruleset::identifiers::DocumentKind as Kind;

pub use address::{InvalidNetwork, is_no_source, is_world, parse_network};
pub use breadth::Breadth;
pub use check::{Checked, check};
pub use diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Severity};
pub use document::*;
pub use feed::{Feed, FeedFile, FeedSource, FeedUrl, InvalidFeed};
pub use fields::{Difference, FieldChange, differences};
pub use json_schema::json_schema;
pub use source::{MAX_SOURCE_BYTES, Source, read, refuse_length};
pub use yaml::{MAX_DEPTH, MAX_NODES};
