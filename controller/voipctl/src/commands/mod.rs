//! One file for each subcommand.

pub mod apply;
pub mod catalogue;
pub mod completions;
pub mod context;
pub mod delete;
pub mod drift;
pub mod get;
pub mod nodes;
pub mod push;
pub mod render;
pub mod rollback;
pub mod rollout;
pub mod schema;
pub mod status;
pub mod token;
