//! Names are resolved and lists fetched, from real servers on loopback.
//!
//! The modules are under `cfg(test)` so that clippy takes their helpers for what they are.

#[cfg(test)]
mod dns;
#[cfg(test)]
mod feeds;
#[cfg(test)]
mod fetch;
#[cfg(test)]
mod names;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod web;
