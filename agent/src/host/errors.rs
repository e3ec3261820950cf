//! Errors as one line of text.

pub use voipfleet_protocol::errors::chain;
