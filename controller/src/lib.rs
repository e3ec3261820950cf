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
pub mod operations;
pub mod pki;
pub mod push;
pub mod rollout;
pub mod rulesets;
pub mod run;
pub mod server;
pub mod settings;
pub mod site_inputs;
mod site_tasks;

pub use voipfleet_controller_core::limits;
pub use voipfleet_store as store;
pub use voipfleet_store::records;
