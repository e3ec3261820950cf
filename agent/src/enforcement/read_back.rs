//! Reads the kernel back, and compares it with what it should hold.

use std::fmt::Write as _;

use voipfleet_ruleset::drift::{Difference, Wanted, compare_rules, compare_sets};
use voipfleet_ruleset::iptables::{
    JumpState, SetCount, Slack, Table, as_read, count_sets, parse_save, read_rule, restore_input,
};
use voipfleet_ruleset::ruleset::{Family, Mode, Ruleset};

use super::kernel_state::read_kernel;
use super::target::{EnforceError, EnforceStep, Target, failed_at};
use crate::failpoint::{Step, reach};
use crate::kernel::{Kernel, Parts};
use crate::ledger::Canonical;

/// The result of a successful read-back.
#[derive(Debug)]
pub struct ReadBack {
    /// The canonical form of the rules.
    pub canonical: Canonical,
    /// The elements that it holds.
    pub sets: SetCount,
}

/// Reads the kernel back, and checks that it holds `target`.
pub fn read_back(kernel: &mut dyn Kernel, target: Target<'_>) -> Result<ReadBack, EnforceError> {
    let needed = !target.ruleset.sets.is_empty();
    let mut observed = read_kernel(kernel, Parts::ALL.of(target.ruleset), needed);
    let mut differences = Vec::new();
    let mut tables = Vec::with_capacity(2);
    for family in Family::BOTH {
        if !kernel.speaks(family) || !target.ruleset.filters(family) {
            tables.push(Wanted {
                family,
                table: Table::default(),
                policy: None,
            });
            continue;
        }
        let read = observed.table(kernel, family);
        let read = read.map_err(failed_at(EnforceStep::ReadBack))?;
        reach(Step::ReadRules(family));
        match target.canonical {
            Some(canonical) => {
                let wanted = canonical.of(family);
                differences.extend(compare_rules(wanted, &read));
            }
            None => matches_ruleset(target, family, &read)?,
        }
        tables.push(Wanted {
            family,
            table: read.ours(),
            policy: policy(target.ruleset, &read),
        });
    }
    let sets = observed
        .sets(kernel, needed)
        .map_err(failed_at(EnforceStep::ReadBack))?;
    reach(Step::ReadSets);
    differences.extend(compare_sets(
        target.ruleset,
        &sets,
        target.now,
        Slack::WRITTEN,
    ));
    if let Some(first) = differences.first() {
        return Err(EnforceError::Differs(describe_difference(
            first,
            differences.len() - 1,
        )));
    }
    let sets = count_sets(target.ruleset, &sets, target.now);
    if let Some(mut canonical) = target.canonical.cloned() {
        for (wanted, found) in canonical.tables.iter_mut().zip(tables) {
            wanted.policy = wanted.policy.take().or(found.policy);
        }
        return Ok(ReadBack { canonical, sets });
    }
    let tables = tables
        .try_into()
        .map_err(|_| EnforceError::Differs("an address family is missing".to_owned()))?;
    let canonical = Canonical {
        backend: kernel.backend(),
        version: kernel.version().to_owned(),
        tables,
        read_back: true,
    };
    Ok(ReadBack { canonical, sets })
}

/// The policy of `INPUT` that is kept from now on. Where the site only observes, every packet
/// returns to `INPUT`, and its policy belongs to other firewalls.
fn policy(ruleset: &Ruleset, observed: &Table) -> Option<String> {
    let input = observed.chain("INPUT")?;
    input
        .policy
        .clone()
        .filter(|_| ruleset.mode == Mode::Enforce)
}

/// One difference in words, for an error.
pub fn describe_difference(difference: &Difference, more: usize) -> String {
    let or = |text: &Option<String>, none: &str| text.as_deref().unwrap_or(none).to_owned();
    let mut text = format!(
        "{} in {} ({}): wanted {}, found {}",
        difference.class,
        or(&difference.chain, difference.table.as_str()),
        difference.family,
        or(&difference.wanted, "nothing"),
        or(&difference.observed, "nothing")
    );
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    text
}

/// Compares where no canonical form is known: what the kernel prints must parse as the rules that
/// were loaded.
pub fn matches_ruleset(
    target: Target<'_>,
    family: Family,
    observed: &Table,
) -> Result<(), EnforceError> {
    let differs = |what: String| EnforceError::Differs(format!("{family}: {what}"));
    let given = restore_input(target.ruleset, target.failsafe, family);
    let given = parse_save(&given).map_err(|error| differs(error.to_string()))?;
    let found = observed.ours();
    if observed.jump() != JumpState::Right {
        return Err(differs("INPUT does not jump to VF-INPUT".to_owned()));
    }
    if given.chains.len() != found.chains.len() {
        return Err(differs("another number of chains".to_owned()));
    }
    for chain in &given.chains {
        let rules = found.chain(&chain.name).map(|found| found.rules.as_slice());
        let rules = rules.unwrap_or_default();
        if rules.len() != chain.rules.len() {
            return Err(differs(format!(
                "another number of rules in {}",
                chain.name
            )));
        }
        for (given, found) in chain.rules.iter().zip(rules) {
            let same = match (read_rule(given, family), read_rule(found, family)) {
                (Ok((_, given)), Ok((_, found))) => as_read(&given, family) == found,
                _ => false,
            };
            if !same {
                return Err(differs(format!("loaded {given}, found {found}")));
            }
        }
    }
    Ok(())
}
