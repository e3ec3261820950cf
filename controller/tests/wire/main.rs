//! A real controller on loopback, with real TLS: what agents, operators and strangers may do.
//!
//! The modules are under `cfg(test)` so that clippy takes their helpers for what they are.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod concurrent_operators;
#[cfg(test)]
mod dynamic_sets;
#[cfg(test)]
mod emergency;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod failpoints;
#[cfg(test)]
mod installation;
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
mod push;
#[cfg(test)]
mod queue;
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
mod trial;
