//! What the kernel holds against what it should hold.

mod sequence;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use voipfleet_proto::v1 as pb;

use self::sequence::Change;
use crate::iptables::words::{comment, is_ours};
use crate::iptables::{
    COMMENT_PREFIX, Change as ElementChange, JUMP, JumpState, KernelSet, SavedChain, Slack, Table,
    UNWANTED_CHAINS, changes, header,
};
use crate::ruleset::{Family, Ruleset, SetName, Until};

/// What kind of difference it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A rule, a chain or the jump is gone.
    Missing,
    /// A rule was changed in its place.
    Altered,
    /// A rule or chain is there that nobody wants.
    Extra,
    /// A rule stands in another place.
    Order,
    /// A chain has another policy.
    Policy,
    /// A set or its elements differ.
    Set,
    /// Packets are accepted before our chain sees them.
    Bypass,
    /// The tool's output says nothing certain.
    Unreadable,
}

impl Class {
    /// The word of `voipctl drift`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Missing => "missing",
            Class::Altered => "altered",
            Class::Extra => "extra",
            Class::Order => "order",
            Class::Policy => "policy",
            Class::Set => "set",
            Class::Bypass => "bypass",
            Class::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Class> for pb::DriftClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Missing => pb::DriftClass::Missing,
            Class::Altered => pb::DriftClass::Altered,
            Class::Extra => pb::DriftClass::Extra,
            Class::Order => pb::DriftClass::Order,
            Class::Policy => pb::DriftClass::Policy,
            Class::Set => pb::DriftClass::Set,
            Class::Bypass => pb::DriftClass::Bypass,
            Class::Unreadable => pb::DriftClass::Unreadable,
        }
    }
}

/// What the rules of one family should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The family.
    pub family: Family,
    /// Our chains in the words of the node's own iptables-save.
    pub table: Table,
    /// The policy of `INPUT`, `ACCEPT` or `DROP`, when the ruleset was proved on the live kernel;
    /// none where it is nobody's concern.
    pub policy: Option<String>,
}

/// One difference between kernel and ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind it is.
    pub class: Class,
    /// Where: the family.
    pub family: Family,
    /// `filter` or `ipset`.
    pub table: &'static str,
    /// The chain, or the set's kernel name.
    pub chain: String,
    /// The rule's label; empty where no rule of ours is meant.
    pub rule: String,
    /// As the tool prints it; empty: nothing.
    pub wanted: String,
    /// As the tool prints it; empty: nothing.
    pub observed: String,
}

/// What somebody can quarrel with us about: one chain of one family, or one set.
///
/// There are as many as the ruleset has chains and sets, and few more: the jump and the policy
/// are chain `INPUT`, and all chains or sets that nobody wants are one, however many names are
/// thought of for them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// `filter` or `ipset`.
    pub table: &'static str,
    /// The family.
    pub family: Family,
    /// The chain or the set; [`UNWANTED_CHAINS`] or [`UNWANTED_SETS`]; empty: the whole table.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "table {}", self.table)?,
            UNWANTED_CHAINS | UNWANTED_SETS => write!(f, "{} that is not wanted", self.name)?,
            name => f.write_str(name)?,
        }
        write!(f, " ({})", self.family)
    }
}

impl Difference {
    /// What it is a difference of.
    pub fn subject(&self) -> Subject {
        let unwanted = self.wanted.is_empty() && self.rule.is_empty();
        let name = match self.table {
            FILTER if unwanted && self.observed.starts_with(':') => UNWANTED_CHAINS,
            // A header has words, and an element has none.
            IPSET if unwanted && self.observed.contains(' ') && !self.is_count() => UNWANTED_SETS,
            _ => &self.chain,
        };
        Subject {
            table: self.table,
            family: self.family,
            name: name.to_owned(),
        }
    }

    /// Whether it stands for many others.
    fn is_count(&self) -> bool {
        self.observed.ends_with(MORE_ELEMENTS)
    }
}

/// Sets of ours by name that no ruleset names.
pub const UNWANTED_SETS: &str = "any vf-*";
const MORE_ELEMENTS: &str = "more elements";

/// Differences of one chain or set that are told one by one; the others of the same class
/// become one record that says how many they are.
pub const MAX_DIFFERENCES: usize = 100;

const FILTER: &str = "filter";
const IPSET: &str = "ipset";

/// What differs in our chains and in the jump to them. `observed` is the whole filter table.
///
/// A chain that is gone, or that nobody wants, is one difference with its declaration in
/// place of a rule. A chain that was emptied is one missing rule after the other. The jump
/// belongs to chain `INPUT`: missing, altered (it got conditions), extra (there again), or
/// bypass (below a rule that can accept). So does the policy that stood there when the ruleset
/// was proved: it decides whenever the jump does not stand.
pub fn compare_rules(wanted: &Wanted, observed: &Table) -> Vec<Difference> {
    let mut differences = Vec::new();
    let here = |class, chain: &str| Difference {
        class,
        family: wanted.family,
        table: FILTER,
        chain: chain.to_owned(),
        rule: String::new(),
        wanted: String::new(),
        observed: String::new(),
    };
    compare_jump(observed, here, &mut differences);
    let policy = observed
        .chain("INPUT")
        .and_then(|input| input.policy.as_deref());
    if let (Some(wanted), Some(found)) = (wanted.policy.as_deref(), policy)
        && wanted != found
    {
        differences.push(Difference {
            wanted: format!(":INPUT {wanted}"),
            observed: format!(":INPUT {found}"),
            ..here(Class::Policy, "INPUT")
        });
    }
    let held: HashMap<&str, &SavedChain> = observed
        .chains
        .iter()
        .map(|chain| (chain.name.as_str(), chain))
        .collect();
    for chain in &wanted.table.chains {
        let Some(found) = held.get(chain.name.as_str()) else {
            differences.push(Difference {
                wanted: declaration(chain),
                ..here(Class::Missing, &chain.name)
            });
            continue;
        };
        if found.policy != chain.policy {
            differences.push(Difference {
                wanted: declaration(chain),
                observed: declaration(found),
                ..here(Class::Policy, &chain.name)
            });
        }
        if found.rules != chain.rules {
            let changed = sequence::changes(&chain.rules, &found.rules)
                .into_iter()
                .map(|change| describe(change, chain, found, here(Class::Extra, &chain.name)));
            differences.extend(capped(changed, "rules"));
        }
    }
    let known: HashSet<&str> = wanted
        .table
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .collect();
    for chain in &observed.chains {
        if is_ours(&chain.name) && !known.contains(chain.name.as_str()) {
            differences.push(Difference {
                observed: declaration(chain),
                ..here(Class::Extra, &chain.name)
            });
        }
    }
    differences
}

fn compare_jump(
    observed: &Table,
    here: impl Fn(Class, &str) -> Difference,
    differences: &mut Vec<Difference>,
) {
    let jumps = observed.jumps();
    let add = |class, wanted: &str, found: &str| Difference {
        wanted: wanted.to_owned(),
        observed: found.to_owned(),
        ..here(class, "INPUT")
    };
    match observed.jump() {
        JumpState::Right => {}
        JumpState::Missing if jumps.is_empty() => {
            differences.push(add(Class::Missing, JUMP, ""));
        }
        JumpState::Missing => {
            differences.extend(jumps.iter().map(|rule| add(Class::Altered, JUMP, rule)));
        }
        JumpState::Repeated => {
            let mut right = false;
            for rule in jumps {
                // The first plain one is the jump itself.
                if rule == JUMP && !std::mem::replace(&mut right, true) {
                    continue;
                }
                differences.push(add(Class::Extra, "", rule));
            }
        }
        JumpState::Below { rule } => differences.push(add(Class::Bypass, JUMP, &rule)),
    }
}

fn describe(
    change: Change,
    wanted: &SavedChain,
    observed: &SavedChain,
    blank: Difference,
) -> Difference {
    let (class, w, o) = match change {
        Change::Missing(w) => (Class::Missing, Some(w), None),
        Change::Extra(o) => (Class::Extra, None, Some(o)),
        Change::Moved(w, o) => (Class::Order, Some(w), Some(o)),
        Change::Altered(w, o) => (Class::Altered, Some(w), Some(o)),
    };
    let text = |chain: &SavedChain, at: Option<usize>| {
        at.and_then(|at| chain.rules.get(at))
            .cloned()
            .unwrap_or_default()
    };
    let (wanted, observed) = (text(wanted, w), text(observed, o));
    let label = label(&wanted)
        .or_else(|| label(&observed))
        .unwrap_or_default();
    Difference {
        class,
        rule: label,
        wanted,
        observed,
        ..blank
    }
}

/// What differs in our sets at `now`, Unix time in seconds: a record for each set that is
/// missing, of another shape or not wanted, and for each element too few, too many, or with
/// another end. Class [`Class::Set`] throughout.
///
/// An element whose end has come is not missed, and one that is about to go is not told
/// apart from one that is gone; `slack` says how much of that there is.
pub fn compare_sets(
    wanted: &Ruleset,
    observed: &[KernelSet],
    now: u64,
    slack: Slack,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let here = |name: &SetName, wanted: String, observed: String| Difference {
        class: Class::Set,
        family: name.family,
        table: IPSET,
        chain: name.kernel_name(),
        rule: String::new(),
        wanted,
        observed,
    };
    let mut held: BTreeMap<&SetName, &KernelSet> =
        observed.iter().map(|set| (&set.name, set)).collect();
    for set in &wanted.sets {
        let shape = header(set);
        let Some(found) = held.remove(&set.name) else {
            differences.push(here(&set.name, shape, String::new()));
            continue;
        };
        if found.header != shape {
            differences.push(here(&set.name, shape, found.header.clone()));
        }
        let (mut gone, mut new, mut retimed) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes(set, found, now, slack) {
            match change {
                ElementChange::Missing(net, _) => gone.push((net.to_string(), String::new())),
                ElementChange::Extra(net, _) => new.push((String::new(), net.to_string())),
                // In words that are the same at the next look, while timers run.
                ElementChange::Retimed { net, wanted, found } => retimed.push((
                    format!("{net} {}", end(wanted)),
                    format!("{net} {}", actual_end(wanted, found, now)),
                )),
            }
        }
        for told in [gone, new, retimed] {
            let told = told
                .into_iter()
                .map(|(wanted, observed)| here(&set.name, wanted, observed));
            differences.extend(capped(told, "elements"));
        }
    }
    for set in held.values() {
        differences.push(here(&set.name, String::new(), set.header.clone()));
    }
    differences
}

fn end(until: Option<Until>) -> String {
    until.map_or_else(|| "for ever".to_owned(), |until| format!("until {until}"))
}

fn actual_end(wanted: Option<Until>, found: Option<u32>, now: u64) -> &'static str {
    match (wanted, found) {
        (_, None) => "for ever",
        (Some(until), Some(left)) if u64::from(left) > until.left(now) => "for longer",
        _ => "for a shorter time",
    }
}

/// The first [`MAX_DIFFERENCES`], and for each class of the rest one that counts them.
fn capped(all: impl Iterator<Item = Difference>, what: &str) -> Vec<Difference> {
    let mut told = Vec::new();
    let mut rest: BTreeMap<Class, (usize, Difference)> = BTreeMap::new();
    for difference in all {
        if told.len() < MAX_DIFFERENCES {
            told.push(difference);
        } else {
            rest.entry(difference.class).or_insert((0, difference)).0 += 1;
        }
    }
    for (number, mut difference) in rest.into_values() {
        difference.rule.clear();
        for side in [&mut difference.wanted, &mut difference.observed] {
            if !side.is_empty() {
                *side = format!("{number} more {what}");
            }
        }
        told.push(difference);
    }
    told
}

fn declaration(chain: &SavedChain) -> String {
    format!(":{} {}", chain.name, chain.policy.as_deref().unwrap_or("-"))
}

fn label(rule: &str) -> Option<String> {
    comment(rule)?
        .strip_prefix(COMMENT_PREFIX)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
