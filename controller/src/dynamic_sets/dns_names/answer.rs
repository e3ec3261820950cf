//! What an answer makes of what was known of a name.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::bogons::{Space, objection};
use crate::records::{ResolvedRecord, Seen};

/// The most addresses of a name.
pub const MAX_ADDRESSES: usize = 64;
/// How long an address stays that good answers leave out, milliseconds: a carrier that gives
/// out some of its addresses at a time must not be cut between two answers.
pub const GRACE_MS: u64 = 3600 * 1000;

/// A resolver's answer for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of its IPv4 addresses.
    pub v4: Heard,
    /// Of its IPv6 addresses.
    pub v6: Heard,
}

/// A resolver's answer for one address family of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It has these; perhaps none.
    Addresses {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// The TTL, seconds; none: not given.
        ttl_s: Option<u32>,
    },
    /// No answer: why.
    Failed(String),
}

/// What an operator would want to know about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first good answer, or addresses came or went.
    Changed {
        /// New ones, ascending.
        added: Vec<IpAddr>,
        /// Those that had been left out for long enough, ascending.
        removed: Vec<IpAddr>,
    },
    /// The first answer that is not good.
    Failing,
    /// The first good one after that, with the same addresses.
    Recovered,
}

/// Takes an answer into what is known. Nothing is ever lost by an answer that is not good.
pub(super) fn take(record: &mut ResolvedRecord, now_ms: u64, answer: Answer) -> Option<Event> {
    let before: Vec<IpAddr> = record.addresses.keys().copied().collect();
    let was_failing = record.failing_since_ms.is_some();

    let mut problems = Problems::default();
    let v4 = problems.good("IPv4", answer.v4);
    let v6 = problems.good("IPv6", answer.v6);
    let families = [(true, &v4), (false, &v6)];
    let heard = || families.iter().filter_map(|(_, good)| good.as_ref());
    let (refused, good): (Vec<IpAddr>, Vec<IpAddr>) = heard()
        .flat_map(|good| good.addresses.iter().copied())
        .partition(|address| no_peer(*address));
    record.refused = refused;
    record.refused.truncate(MAX_ADDRESSES);
    if good.is_empty() {
        record.error = problems.of_all(&record.refused);
    } else {
        record.ttl_s = heard().filter_map(|good| good.ttl_s).min().unwrap_or(0);
        record.beyond = admit(record, now_ms, &good);
        for (is_v4, _) in families.iter().filter(|(_, good)| good.is_some()) {
            leave(record, now_ms, *is_v4, &good);
        }
        record.error = problems.of_one();
    }
    // A family that fails and has nothing to lose is no reason to worry: many name servers
    // never answer for IPv6.
    let stale = |is_v4: bool, good: bool| {
        !good && record.addresses.keys().any(|held| held.is_ipv4() == is_v4)
    };
    let failing = good.is_empty() || stale(true, v4.is_some()) || stale(false, v6.is_some());
    if failing {
        record.failing_since_ms.get_or_insert(now_ms);
    } else {
        record.failing_since_ms = None;
        record.resolved_ms = now_ms;
    }

    let after: Vec<IpAddr> = record.addresses.keys().copied().collect();
    if before != after {
        let not_in = |of: &[IpAddr], other: &[IpAddr]| {
            let missing = of.iter().filter(|one| !other.contains(one));
            missing.copied().collect::<Vec<_>>()
        };
        return Some(Event::Changed {
            added: not_in(&after, &before),
            removed: not_in(&before, &after),
        });
    }
    match (was_failing, failing) {
        (false, true) => Some(Event::Failing),
        (true, false) => Some(Event::Recovered),
        _ => None,
    }
}

/// Whether no peer can have an address. Private ones may well be a carrier's, over a private
/// line.
fn no_peer(address: IpAddr) -> bool {
    objection(&IpNet::from(address)) == Some(Space::Bogon)
}

/// Takes the addresses of a good answer; the number that did not fit.
fn admit(record: &mut ResolvedRecord, now_ms: u64, good: &[IpAddr]) -> u32 {
    let mut beyond = 0;
    // Those that are held keep their places.
    let (held, mut new): (Vec<IpAddr>, Vec<IpAddr>) = good
        .iter()
        .partition(|address| record.addresses.contains_key(address));
    for address in held {
        record.addresses.entry(address).and_modify(|seen| {
            seen.last_ms = now_ms;
            seen.missing_since_ms = None;
        });
    }
    new.sort_unstable();
    new.dedup();
    for address in new {
        if record.addresses.len() >= MAX_ADDRESSES && !give_way(record, good) {
            beyond += 1;
            continue;
        }
        let seen = Seen {
            first_ms: now_ms,
            last_ms: now_ms,
            missing_since_ms: None,
        };
        record.addresses.insert(address, seen);
    }
    beyond
}

/// Removes the address that was left out for longest; false: the answer has them all.
fn give_way(record: &mut ResolvedRecord, good: &[IpAddr]) -> bool {
    let longest = record
        .addresses
        .iter()
        .filter(|(address, _)| !good.contains(address))
        .min_by_key(|(_, seen)| seen.last_ms)
        .map(|(address, _)| *address);
    longest.is_some_and(|address| record.addresses.remove(&address).is_some())
}

/// Lets the addresses of a family go that a good answer left out for long enough.
fn leave(record: &mut ResolvedRecord, now_ms: u64, is_v4: bool, good: &[IpAddr]) {
    record.addresses.retain(|address, seen| {
        if address.is_ipv4() != is_v4 || good.contains(address) {
            return true;
        }
        let since = *seen.missing_since_ms.get_or_insert(now_ms);
        now_ms.saturating_sub(since) < GRACE_MS
    });
}

struct Good {
    addresses: Vec<IpAddr>,
    ttl_s: Option<u32>,
}

#[derive(Default)]
struct Problems(Vec<(&'static str, String)>);

impl Problems {
    fn good(&mut self, family: &'static str, heard: Heard) -> Option<Good> {
        match heard {
            Heard::Addresses { addresses, ttl_s } => Some(Good { addresses, ttl_s }),
            Heard::Failed(error) => {
                self.0.push((family, error));
                None
            }
        }
    }

    /// No good address came at all.
    fn of_all(self, refused: &[IpAddr]) -> String {
        if let Some(first) = refused.first() {
            return format!("it stands for {first}, which no peer can have");
        }
        let mut problems = self.0.into_iter();
        match (problems.next(), problems.next()) {
            (None, _) => "it has no address".to_owned(),
            (Some((_, one)), Some((_, other))) if one != other => format!("{one}; {other}"),
            (Some((_, one)), _) => one,
        }
    }

    /// Good addresses came.
    fn of_one(self) -> String {
        match self.0.into_iter().next() {
            None => String::new(),
            Some((family, error)) => format!("no answer for its {family} addresses: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
