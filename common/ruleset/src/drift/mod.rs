//! Differences between what the kernel holds and what it should hold.

mod sequence;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use voipfleet_proto::v1 as pb;

use self::sequence::RuleChange;
use crate::iptables::words::{comment, is_ours};
use crate::iptables::{
    COMMENT_PREFIX, ElementChange, JUMP, JumpState, KernelSet, RepairPart, SavedChain, Slack,
    Table, changes, header,
};
use crate::ruleset::{Family, Ruleset, SetName, Until};

/// What kind of difference it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftClass {
    /// A rule, a chain or the jump is gone.
    Missing,
    /// A rule was changed in its place.
    Altered,
    /// A rule or chain exists that the ruleset does not have.
    Extra,
    /// A rule is in another place.
    Order,
    /// A chain has another policy.
    Policy,
    /// A set or its elements differ.
    Set,
    /// Packets are accepted before our chain sees them.
    Bypass,
    /// The tool's output cannot be relied on.
    Unreadable,
}

impl DriftClass {
    /// The word of `voipctl drift`.
    pub fn as_str(self) -> &'static str {
        match self {
            DriftClass::Missing => "missing",
            DriftClass::Altered => "altered",
            DriftClass::Extra => "extra",
            DriftClass::Order => "order",
            DriftClass::Policy => "policy",
            DriftClass::Set => "set",
            DriftClass::Bypass => "bypass",
            DriftClass::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for DriftClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<DriftClass> for pb::DriftClass {
    fn from(class: DriftClass) -> Self {
        match class {
            DriftClass::Missing => pb::DriftClass::Missing,
            DriftClass::Altered => pb::DriftClass::Altered,
            DriftClass::Extra => pb::DriftClass::Extra,
            DriftClass::Order => pb::DriftClass::Order,
            DriftClass::Policy => pb::DriftClass::Policy,
            DriftClass::Set => pb::DriftClass::Set,
            DriftClass::Bypass => pb::DriftClass::Bypass,
            DriftClass::Unreadable => pb::DriftClass::Unreadable,
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
    /// The policy of `INPUT`, `ACCEPT` or `DROP`, when the ruleset was read back from the live
    /// kernel; `None` where any policy will do.
    pub policy: Option<String>,
}

/// Where a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftTable {
    /// The filter table of iptables.
    Filter,
    /// The sets.
    Ipset,
}

impl DriftTable {
    /// The word of `voipctl drift`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Ipset => "ipset",
        }
    }
}

impl fmt::Display for DriftTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One difference between kernel and ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind it is.
    pub class: DriftClass,
    /// Where: the family.
    pub family: Family,
    /// Rules or sets.
    pub table: DriftTable,
    /// The chain, or the set's kernel name; `None` for the whole table.
    pub chain: Option<String>,
    /// Whether it is a chain or set of ours by name that the ruleset does not name.
    pub is_unwanted: bool,
    /// The rule's label in the kernel; `None` where no rule of ours is meant.
    pub rule: Option<String>,
    /// As the tool prints it; `None` where nothing should be there.
    pub wanted: Option<String>,
    /// As the tool prints it; `None` where nothing is there.
    pub observed: Option<String>,
}

impl Difference {
    /// One in `chain`, with nothing wanted and nothing observed.
    pub fn new(
        class: DriftClass,
        family: Family,
        table: DriftTable,
        chain: impl Into<Option<String>>,
    ) -> Self {
        Self {
            class,
            family,
            table,
            chain: chain.into(),
            is_unwanted: false,
            rule: None,
            wanted: None,
            observed: None,
        }
    }

    /// What it is a difference of.
    pub fn subject(&self) -> DriftSubject {
        let part = match &self.chain {
            None => RepairPart::Table,
            Some(_) if self.is_unwanted => RepairPart::Unwanted,
            Some(name) => RepairPart::Named(name.clone()),
        };
        DriftSubject {
            table: self.table,
            family: self.family,
            part,
        }
    }
}

/// What a repair and its opponent contend for: one chain of one family, or one set.
///
/// There are as many as the ruleset has chains and sets, and few more: the jump and the policy
/// belong to chain `INPUT`, and all unwanted chains or sets are one subject, whatever their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriftSubject {
    /// Rules or sets.
    pub table: DriftTable,
    /// The family.
    pub family: Family,
    /// Which chain or set.
    pub part: RepairPart,
}

impl fmt::Display for DriftSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.part, self.table) {
            (RepairPart::Table, table) => write!(f, "table {table}")?,
            (RepairPart::Unwanted, DriftTable::Filter) => f.write_str("any unwanted VF-*")?,
            (RepairPart::Unwanted, DriftTable::Ipset) => f.write_str("any unwanted vf-*")?,
            (RepairPart::Named(name), _) => f.write_str(name)?,
        }
        write!(f, " ({})", self.family)
    }
}

/// Differences of one chain or set that are reported one by one; the others of the same class
/// become one record with their number.
pub const MAX_DIFFERENCES: usize = 100;

/// What differs in our chains and in the jump to them. `observed` is the whole filter table.
///
/// A chain that is gone, or that is unwanted, is one difference with its declaration in
/// place of a rule. A chain that was emptied is one missing rule after the other. The jump
/// belongs to chain `INPUT`: missing, altered (it got conditions), extra (there again), or
/// bypass (below a rule that can accept). So does the policy of `INPUT` when the
/// ruleset was read back: it decides whenever the jump is missing.
pub fn compare_rules(wanted: &Wanted, observed: &Table) -> Vec<Difference> {
    let mut differences = Vec::new();
    let here = |class, chain: &str| {
        Difference::new(class, wanted.family, DriftTable::Filter, chain.to_owned())
    };
    compare_jump(observed, here, &mut differences);
    let policy = observed
        .chain("INPUT")
        .and_then(|input| input.policy.as_deref());
    if let (Some(wanted), Some(found)) = (wanted.policy.as_deref(), policy)
        && wanted != found
    {
        differences.push(Difference {
            wanted: Some(format!(":INPUT {wanted}")),
            observed: Some(format!(":INPUT {found}")),
            ..here(DriftClass::Policy, "INPUT")
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
                wanted: Some(declaration(chain)),
                ..here(DriftClass::Missing, &chain.name)
            });
            continue;
        };
        if found.policy != chain.policy {
            differences.push(Difference {
                wanted: Some(declaration(chain)),
                observed: Some(declaration(found)),
                ..here(DriftClass::Policy, &chain.name)
            });
        }
        let mut hidden = observed.hidden_in(&chain.name).peekable();
        if hidden.peek().is_some() {
            // The rules around them are not known word by word.
            let extra = hidden.map(|hidden| Difference {
                observed: Some(hidden.text.clone()),
                ..here(DriftClass::Extra, &chain.name)
            });
            differences.extend(capped(extra, "rules"));
        } else if found.rules != chain.rules {
            let changed = sequence::changes(&chain.rules, &found.rules)
                .into_iter()
                .map(|change| describe(change, chain, found, here(DriftClass::Extra, &chain.name)));
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
                is_unwanted: true,
                observed: Some(declaration(chain)),
                ..here(DriftClass::Extra, &chain.name)
            });
        }
    }
    differences
}

fn compare_jump(
    observed: &Table,
    here: impl Fn(DriftClass, &str) -> Difference,
    differences: &mut Vec<Difference>,
) {
    let add = |class, wanted: Option<&str>, found: Option<&str>| Difference {
        wanted: wanted.map(str::to_owned),
        observed: found.map(str::to_owned),
        ..here(class, "INPUT")
    };
    match observed.jump() {
        JumpState::Right => {}
        JumpState::Missing => match observed.altered_jumps().as_slice() {
            [] => differences.push(add(DriftClass::Missing, Some(JUMP), None)),
            jumps => {
                let altered = |rule: &&str| add(DriftClass::Altered, Some(JUMP), Some(rule));
                differences.extend(jumps.iter().map(altered));
            }
        },
        JumpState::Repeated => {
            let needless = observed.needless_jumps().into_iter();
            differences.extend(needless.map(|rule| add(DriftClass::Extra, None, Some(rule))));
        }
        JumpState::Below { rule } => {
            differences.push(add(DriftClass::Bypass, Some(JUMP), Some(&rule)));
        }
        JumpState::Displaced { rule } => {
            differences.push(add(DriftClass::Order, Some(JUMP), Some(&rule)));
        }
    }
}

fn describe(
    change: RuleChange,
    wanted: &SavedChain,
    observed: &SavedChain,
    blank: Difference,
) -> Difference {
    let (class, w, o) = match change {
        RuleChange::Missing(w) => (DriftClass::Missing, Some(w), None),
        RuleChange::Extra(o) => (DriftClass::Extra, None, Some(o)),
        RuleChange::Moved(w, o) => (DriftClass::Order, Some(w), Some(o)),
        RuleChange::Altered(w, o) => (DriftClass::Altered, Some(w), Some(o)),
    };
    let text = |chain: &SavedChain, at: Option<usize>| chain.rules.get(at?).cloned();
    let (wanted, observed) = (text(wanted, w), text(observed, o));
    let named = wanted.as_deref().and_then(label);
    let rule = named.or_else(|| observed.as_deref().and_then(label));
    Difference {
        class,
        rule,
        wanted,
        observed,
        ..blank
    }
}

/// What differs in our sets at `now`, Unix time in seconds: a record for each set that is
/// missing, of another shape or not wanted, and for each element too few, too many, or with
/// another end. All of them are of class [`DriftClass::Set`].
///
/// An element that has expired is not missed, and one that is about to expire counts as gone;
/// `slack` is the tolerance.
pub fn compare_sets(
    wanted: &Ruleset,
    observed: &[KernelSet],
    now: u64,
    slack: Slack,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let here = |name: &SetName, wanted: Option<String>, observed: Option<String>| Difference {
        wanted,
        observed,
        ..Difference::new(
            DriftClass::Set,
            name.family,
            DriftTable::Ipset,
            name.kernel_name(),
        )
    };
    let mut held: BTreeMap<&SetName, &KernelSet> =
        observed.iter().map(|set| (&set.name, set)).collect();
    for set in &wanted.sets {
        let shape = header(set);
        let Some(found) = held.remove(&set.name) else {
            differences.push(here(&set.name, Some(shape), None));
            continue;
        };
        if found.header != shape {
            differences.push(here(&set.name, Some(shape), Some(found.header.clone())));
        }
        let (mut gone, mut new, mut retimed) = (Vec::new(), Vec::new(), Vec::new());
        let begins = |change: &ElementChange| slack.may_begin(set, change.net(), now);
        let changed = changes(set, found, now, slack).into_iter();
        for change in changed.filter(|change| !begins(change)) {
            match change {
                ElementChange::Missing(net, _) => gone.push((Some(net.to_string()), None)),
                ElementChange::Extra(net, _) => new.push((None, Some(net.to_string()))),
                // Worded so that it is the same at the next inspection, while timers run.
                ElementChange::Retimed { net, wanted, found } => retimed.push((
                    Some(format!("{net} {}", end(wanted))),
                    Some(format!("{net} {}", actual_end(wanted, found, now))),
                )),
            }
        }
        for found in [gone, new, retimed] {
            let found = found
                .into_iter()
                .map(|(wanted, observed)| here(&set.name, wanted, observed));
            differences.extend(capped(found, "elements"));
        }
    }
    for set in held.values() {
        differences.push(Difference {
            is_unwanted: true,
            ..here(&set.name, None, Some(set.header.clone()))
        });
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
    let mut first = Vec::new();
    let mut rest: BTreeMap<DriftClass, (usize, Difference)> = BTreeMap::new();
    for difference in all {
        if first.len() < MAX_DIFFERENCES {
            first.push(difference);
        } else {
            rest.entry(difference.class).or_insert((0, difference)).0 += 1;
        }
    }
    for (number, mut difference) in rest.into_values() {
        difference.rule = None;
        for side in [&mut difference.wanted, &mut difference.observed] {
            *side = side.take().map(|_| format!("{number} more {what}"));
        }
        first.push(difference);
    }
    first
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
