//! Errors in log lines.

pub use voipfleet_protocol::errors::chain;
