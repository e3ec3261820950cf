//! One file for each subcommand.

pub mod apply;
pub mod audit;
pub mod backup;
pub mod catalogue;
mod cluster;
pub mod completions;
pub mod context;
pub mod delete;
pub mod diff;
pub mod drift;
pub mod emergency;
pub mod export;
pub mod feeds;
pub mod get;
pub mod history;
pub mod names;
pub mod nodes;
pub mod operator;
pub mod plan;
pub mod push;
pub mod render;
pub mod rollback;
pub mod rollout;
pub mod schema;
pub mod show;
pub mod status;
pub mod token;
