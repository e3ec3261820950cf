//! Typed firewall rulesets: their canonical form, their text for iptables and ipset, what differs
//! from what a kernel holds, and what they do with packets. Pure: no files, no sockets, no clock.

pub mod drift;
pub mod flows;
pub mod foreign;
pub mod identifiers;
pub mod iptables;
pub mod kernel_feature;
pub mod protobuf;
pub mod role;
pub mod ruleset;
pub mod simulate;
