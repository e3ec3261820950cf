//! The layers of the workspace, checked on its source: imports go one way.
//!
//! Production code only: whatever is under `#[cfg(test)]` may import as it likes.
//! `rules` holds the tables, `workspace` applies them to this workspace.

pub mod circles;
mod imports;
pub mod modules;
pub mod packages;
pub mod rules;
pub mod workspace;
