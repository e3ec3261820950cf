//! Rules of other firewalls, read as far as their effect on a packet is certain, and whom of the
//! policy's addresses they cut off.

mod condition;
mod iptables_rules;
mod net_set;
mod nft_rules;
mod refusals;
mod report;
mod walk;

use crate::iptables::words::is_ours;
use crate::ruleset::{Family, INPUT_CHAIN};

pub use condition::{Condition, Value};
pub use iptables_rules::read_iptables;
pub use net_set::NetSet;
pub use nft_rules::read_nft;
pub use refusals::{MAX_WHOM, Policy, Ports, Refusal, Who, Whom, refusals};
pub use report::describe;
pub use walk::{Fate, Passage, Refused};

use std::collections::BTreeMap;

/// Sets of others by their name.
pub type Sets = BTreeMap<String, NetSet>;

/// A table of others, or the part of a table that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignTable {
    /// `filter`, `raw`; of `nf_tables` with its family: `inet mine`.
    pub name: String,
    /// The family of its packets; `None` for both.
    pub family: Option<Family>,
    pub chains: Vec<ForeignChain>,
    /// The sets that are its own; none where the rules name those of ipset.
    pub sets: Option<Sets>,
}

impl ForeignTable {
    /// The same without our chains, which nft lists beside those of others. `judged` says what becomes
    /// of a packet that the policy lets in when it comes to our chain.
    #[must_use]
    pub fn without_ours(mut self, judged: &Action) -> Self {
        self.chains.retain(|chain| !is_ours(&chain.name));
        let rules = self.chains.iter_mut().flat_map(|chain| &mut chain.rules);
        for rule in rules {
            if matches!(&rule.action, Action::Jump(to) | Action::Goto(to) if to == INPUT_CHAIN) {
                rule.action = judged.clone();
            }
        }
        self
    }
}

/// A chain, with its rules in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignChain {
    pub name: String,
    /// Where packets enter it; `None` for a chain that is only jumped to.
    pub hook: Option<Hook>,
    /// Whether its policy refuses.
    pub drops: bool,
    pub rules: Vec<ForeignRule>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// On the way in, to the node or through it.
    In,
    /// On the way out of the node.
    Out,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    pub conditions: Vec<Condition>,
    pub action: Action,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Its table is done with the packet.
    Accept,
    Refuse,
    Return,
    Jump(String),
    Goto(String),
    /// The next rule is asked.
    Pass,
}

impl ForeignTable {
    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&ForeignChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Whether packets of that family pass it.
    pub fn covers(&self, family: Family) -> bool {
        self.family.is_none_or(|own| own == family)
    }

    /// The names of the sets of ipset that its rules look sources or destinations up in.
    pub fn named_sets(&self) -> impl Iterator<Item = &str> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let conditions = rules.flat_map(|rule| &rule.conditions);
        conditions
            .filter_map(Condition::set)
            .filter(|_| self.sets.is_none())
    }
}
