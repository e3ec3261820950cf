//! Holds one firewall policy per VoipNow site and pushes it to the agents.

pub mod audit;
pub mod backup;
pub mod cli;
pub mod clock;
mod clock_watch;
pub mod documents;
pub mod dynamic_sets;
pub mod enrolment;
pub mod errors;
pub mod failpoint;
pub mod fleet;
mod log_limit;
mod open_files;
pub mod operations;
pub mod panics;
pub mod pki;
pub mod push;
pub mod rollout;
pub mod rulesets;
pub mod run;
pub mod server;
pub mod settings;
pub mod site_inputs;
mod site_tasks;
mod store_health;
mod systemd;

pub use voipfleet_controller_core::limits;
pub use voipfleet_store as store;
pub use voipfleet_store::records;
