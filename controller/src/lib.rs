//! Holds one firewall policy per VoipNow site and pushes it to the agents.

pub mod api;
pub mod audit;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod documents;
pub mod enrol;
pub mod errors;
pub mod failpoint;
pub mod fleet;
pub mod listen;
pub mod live;
pub mod pki;
pub mod push;
pub mod records;
pub mod rollout;
pub mod run;
pub mod settings;

pub use voipfleet_store as store;
