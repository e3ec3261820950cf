//! What foreign tables do with one packet.

use std::net::IpAddr;

use super::{Action, ForeignChain, ForeignRule, ForeignTable, Hook, Sets};
use crate::ruleset::{ConnectionState, Family, Protocol};

/// Chains within chains that are followed.
const MAX_DEPTH: usize = 16;

/// A packet to or from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    pub hook: Hook,
    pub family: Family,
    /// `None` for an address of the node.
    pub source: Option<IpAddr>,
    /// `None` for an address of the node.
    pub destination: Option<IpAddr>,
    pub protocol: Protocol,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub state: ConnectionState,
}

/// What refuses a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused<'t> {
    /// The table.
    pub table: &'t str,
    /// The chain of the rule, or of the policy.
    pub chain: &'t str,
    /// The set that the source was found in.
    pub set: Option<&'t str>,
    /// The rule, or the way to it, picks sources.
    pub picks_sources: bool,
    /// The policy of the chain refuses, not a rule.
    pub by_policy: bool,
}

/// What becomes of a packet in one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<'t> {
    /// The table lets it pass, or may.
    Passes,
    Refused(Refused<'t>),
    /// It comes back from the end of the chain.
    Returns,
}

impl ForeignTable {
    /// What surely refuses the packet; `None` where it passes, or that cannot be known.
    pub(super) fn refusal(&self, packet: &Passage, ipsets: &Sets) -> Option<Refused<'_>> {
        if !self.covers(packet.family) {
            return None;
        }
        let walk = Walk {
            table: self,
            sets: self.sets.as_ref().unwrap_or(ipsets),
            packet,
        };
        let mut enters = self
            .chains
            .iter()
            .filter(|chain| chain.hook == Some(packet.hook));
        enters.find_map(
            |chain| match walk.chain(chain, Path::default(), MAX_DEPTH) {
                Fate::Refused(refused) => Some(refused),
                Fate::Returns if chain.drops => Some(Refused {
                    table: &self.name,
                    chain: &chain.name,
                    set: None,
                    picks_sources: false,
                    by_policy: true,
                }),
                Fate::Passes | Fate::Returns => None,
            },
        )
    }
}

/// What was matched on the way to a rule.
#[derive(Debug, Clone, Copy, Default)]
struct Path<'t> {
    set: Option<&'t str>,
    picks_sources: bool,
}

impl<'t> Path<'t> {
    fn with(mut self, rule: &'t ForeignRule) -> Self {
        for condition in rule.conditions.iter().filter(|c| c.picks_sources()) {
            self.picks_sources = true;
            self.set = condition.set().or(self.set);
        }
        self
    }
}

struct Walk<'t, 'p> {
    table: &'t ForeignTable,
    sets: &'p Sets,
    packet: &'p Passage,
}

impl<'t> Walk<'t, '_> {
    fn chain(&self, chain: &'t ForeignChain, path: Path<'t>, depth: usize) -> Fate<'t> {
        for rule in &chain.rules {
            let conditions = rule.conditions.iter();
            let matched = conditions
                .map(|condition| condition.matches(self.packet, self.sets))
                .try_fold(true, |all, one| match one {
                    Some(true) => Ok(all),
                    Some(false) => Err(()),
                    None => Ok(false),
                });
            let Ok(surely) = matched else {
                continue;
            };
            let path = path.with(rule);
            match &rule.action {
                Action::Accept => return Fate::Passes,
                // What may leave is not surely refused by what comes later.
                Action::Return if !surely => return Fate::Passes,
                Action::Return => return Fate::Returns,
                Action::Refuse if surely => {
                    return Fate::Refused(Refused {
                        table: &self.table.name,
                        chain: &chain.name,
                        set: path.set,
                        picks_sources: path.picks_sources,
                        by_policy: false,
                    });
                }
                Action::Pass | Action::Refuse => {}
                Action::Jump(name) | Action::Goto(name) => {
                    let goes = matches!(rule.action, Action::Goto(_));
                    let (Some(next), Some(depth)) = (self.table.chain(name), depth.checked_sub(1))
                    else {
                        continue;
                    };
                    match self.chain(next, path, depth) {
                        Fate::Passes => return Fate::Passes,
                        Fate::Returns if goes && surely => return Fate::Returns,
                        Fate::Returns if goes => return Fate::Passes,
                        Fate::Refused(refused) if surely => return Fate::Refused(refused),
                        Fate::Returns | Fate::Refused(_) => {}
                    }
                }
            }
        }
        Fate::Returns
    }
}
