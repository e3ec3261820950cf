//! Documents as people write them.

mod document;

pub use document::*;
