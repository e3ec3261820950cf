//! voipctl against a controller on loopback: what an operator sees, and what the controller
//! receives.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod connection;
#[cfg(test)]
mod console;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod drift;
#[cfg(test)]
mod emergency;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod help;
#[cfg(test)]
mod history;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod push;
#[cfg(test)]
mod render;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod status;
#[cfg(test)]
mod token;
#[cfg(test)]
mod workspace;
