//! What a DNS name stands for, as the controller last heard.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A DNS name and its addresses. What is known stays for as long as no better answer comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedRecord {
    /// Its addresses, those that are about to go among them; empty: it never had a good answer.
    pub addresses: BTreeMap<IpAddr, Seen>,
    /// The last good answer, Unix time; 0: none yet. Up to some minutes behind while every answer
    /// is the same.
    pub resolved_ms: u64,
    /// Since when there is no good answer, Unix time; none: the last one was good.
    pub failing_since_ms: Option<u64>,
    /// Why there is none; empty: the last one was good.
    pub error: String,
    /// Addresses of the last answer that were not taken, and are none of a peer: loopback,
    /// multicast and the like.
    pub refused: Vec<IpAddr>,
    /// Addresses of the last answer beyond the most that a name may have.
    pub beyond: u32,
    /// How long the last good answer was good for, seconds.
    pub ttl_s: u32,
    /// Since when an answer is awaited for the first time, Unix time; none: there was one, good or bad.
    pub asked_since_ms: Option<u64>,
    /// Since when nothing uses it, Unix time; none: something does.
    pub unused_since_ms: Option<u64>,
}

/// When a name had an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// First in an answer, Unix time.
    pub first_ms: u64,
    /// Last in an answer, Unix time. Up to some minutes behind while every answer is the same.
    pub last_ms: u64,
    /// Since when good answers leave it out, Unix time: it goes when that has lasted; none: the
    /// last good answer had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_since_ms: Option<u64>,
}
