//! A real controller on loopback, with real TLS: what agents, operators and strangers may do.
//!
//! The modules are under `cfg(test)` so that clippy takes their helpers for what they are.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod concurrent_operators;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod deny_lists;
#[cfg(test)]
mod drift;
#[cfg(test)]
mod dynamic_sets;
#[cfg(test)]
mod emergency;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod failpoints;
#[cfg(test)]
mod host_commands;
#[cfg(test)]
mod installation;
#[cfg(test)]
mod late_nodes;
#[cfg(test)]
mod log;
#[cfg(test)]
mod members;
#[cfg(test)]
mod operator_calls;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod plan_of_hosts;
#[cfg(test)]
mod process;
#[cfg(test)]
mod push;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod raw_http2;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod session;
#[cfg(test)]
mod staged_rollouts;
#[cfg(test)]
mod store_failure;
#[cfg(test)]
mod trial;
