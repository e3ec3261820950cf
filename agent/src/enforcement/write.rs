//! Loads a ruleset into the kernel, or removes all rules and sets of ours, and reads that back.

use std::time::{Duration, Instant};

use tracing::debug;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::iptables::{KernelSet, SetPlan, SetRemoval, Table, destroy, removal};
use voipfleet_ruleset::ruleset::Family;

use super::kernel_state::{KernelState, read_kernel, read_rules, read_sets};
use super::read_back::{matches_ruleset, read_back};
use super::target::{EnforceError, EnforceStep, RepairScope, Target, failed_at};
use crate::failpoint::{Step, reach};
use crate::kernel::{Kernel, KernelError, Parts};
use crate::ledger::Canonical;

/// How often a restore is repeated because another program changed the table meanwhile.
const LOAD_ATTEMPTS: usize = 5;

/// How to go on after a step was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Nothing more: a new ruleset is not worth more than the one before.
    UntilRefused,
    /// The other steps: a refusal of one family must not leave the other one open.
    AsFarAsPossible,
}

/// Makes the kernel hold `target`, whatever it holds now, and reads it back. Returns the canonical
/// form.
pub fn enforce(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    effort: Effort,
) -> Result<Canonical, EnforceError> {
    write(kernel, target, Parts::ALL, effort)?;
    Ok(read_back(kernel, target)?.canonical)
}

/// Makes `parts` of the kernel hold `target`; only differences are written.
pub fn write(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    parts: Parts,
    effort: Effort,
) -> Result<(), EnforceError> {
    let needed = !target.ruleset.sets.is_empty();
    let read = read_kernel(kernel, parts.of(target.ruleset), needed);
    write_over(kernel, target, parts, effort, read)
}

/// The same, with what was just read. What is missing from it is read.
pub(crate) fn write_over(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    parts: Parts,
    effort: Effort,
    mut read: KernelState,
) -> Result<(), EnforceError> {
    let mut first = Ok(());
    let mut after = SetRemoval::default();
    if parts.sets {
        match fill(kernel, target, &mut read) {
            Ok(plan) => after = plan.after,
            Err(error) => first = Err(failed_at(EnforceStep::SetsBefore)(error)),
        }
        reach(Step::SetsFilled);
    }
    if first.is_err() && effort == Effort::UntilRefused {
        return first;
    }
    let filtered = |family| kernel.speaks(family) && target.ruleset.filters(family);
    let families = parts.families(filtered);
    first = first.and(together(kernel, &families, effort, |kernel, family| {
        let table = read.table(kernel, family);
        let loaded = table.and_then(|table| load(kernel, target, family, table));
        reach(Step::Rules(family));
        loaded
    }));
    if first.is_err() && effort == Effort::UntilRefused {
        return first;
    }
    if first.is_ok() && parts.v6 && !target.ruleset.filters(Family::V6) {
        leave_ipv6(kernel);
    }
    // Also where rules were refused: else elements of two rulesets would be in force together.
    // Sets that refused rules still name stay.
    let timeout = match &first {
        Ok(()) => target.scope.release_timeout,
        Err(_) => RepairScope::REPAIR_RELEASE_TIMEOUT,
    };
    let plan = |observed: &[KernelSet]| target.set_plan(observed).after;
    let released = release(kernel, after, timeout, plan);
    first.and(released.map_err(failed_at(EnforceStep::SetsAfter)))?;
    reach(Step::SetsReleased);
    Ok(())
}

/// Changes the rules of these families, without a change of another program between them where a
/// lock can prevent one.
fn together(
    kernel: &mut dyn Kernel,
    families: &[Family],
    effort: Effort,
    mut change: impl FnMut(&mut dyn Kernel, Family) -> Result<(), KernelError>,
) -> Result<(), EnforceError> {
    if let [first, _, ..] = families {
        kernel
            .lock()
            .map_err(failed_at(EnforceStep::Rules(*first)))?;
    }
    let mut first = Ok(());
    for family in families {
        if first.is_err() && effort == Effort::UntilRefused {
            break;
        }
        let changed = change(kernel, *family);
        first = first.and(changed.map_err(failed_at(EnforceStep::Rules(*family))));
    }
    kernel.unlock();
    first
}

/// Creates and fills the sets that the rules will name. A set that another program filled after it
/// was read is planned again with what is there now: a larger one replaces it.
fn fill(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    read: &mut KernelState,
) -> Result<SetPlan, KernelError> {
    let needed = !target.ruleset.sets.is_empty();
    let mut observed = read.sets(kernel, needed)?;
    let mut attempts = 1..=LOAD_ATTEMPTS;
    loop {
        let plan = target.set_plan(&observed);
        if plan.before.is_empty() {
            return Ok(plan);
        }
        let Err(error) = kernel.ipset_restore(&plan.before) else {
            return Ok(plan);
        };
        if !error.is_full() {
            return Err(error);
        }
        let now = read_sets(kernel, needed)?;
        if now == observed || attempts.next().is_none() {
            return Err(error.of_set(target.ruleset, &now));
        }
        observed = now;
    }
}

/// One restore: chains that differ, stale chains of ours, and the jump.
fn load(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    family: Family,
    observed: Table,
) -> Result<(), KernelError> {
    restore(kernel, family, observed, |table| {
        target.rules_input(family, table)
    })
}

/// Restores the `input` for the table that was `observed`; does nothing where there is none.
///
/// The input names foreign rules around the jump. Where another program changed them after they
/// were read, the kernel refuses all of it, and it is made again from what is there now.
fn restore(
    kernel: &mut dyn Kernel,
    family: Family,
    mut observed: Table,
    input: impl Fn(&Table) -> Option<String>,
) -> Result<(), KernelError> {
    for _ in 0..LOAD_ATTEMPTS {
        let Some(input) = input(&observed) else {
            return Ok(());
        };
        let Err(error) = kernel.restore(family, &input) else {
            return Ok(());
        };
        let now = read_rules(kernel, family)?;
        if now == observed {
            return Err(error);
        }
        observed = now;
    }
    Err(KernelError::Unsettled { family })
}

/// Makes the rules of one family hold `target`, and reads them back. Sets are not read.
pub fn enforce_rules(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    family: Family,
) -> Result<(), EnforceError> {
    read_rules(kernel, family)
        .and_then(|table| load(kernel, target, family, table))
        .map_err(failed_at(EnforceStep::Rules(family)))?;
    reach(Step::Rules(family));
    let observed = read_rules(kernel, family).map_err(failed_at(EnforceStep::ReadBack))?;
    reach(Step::ReadRules(family));
    matches_ruleset(target, family, &observed)
}

/// Removes sets that no rule names any more. Where the kernel still holds some of them, it tries
/// again with what is left then. Only sets that foreign rules use stay.
fn release(
    kernel: &mut dyn Kernel,
    mut removal: SetRemoval,
    release_timeout: Duration,
    plan: impl Fn(&[KernelSet]) -> SetRemoval,
) -> Result<(), KernelError> {
    let deadline = Instant::now() + release_timeout;
    let mut pause = Duration::from_millis(2);
    while !removal.is_empty() {
        match kernel.ipset_restore(&removal.to_string()) {
            Ok(()) => break,
            Err(_) if Instant::now() >= deadline => return destroy_each(kernel, &removal),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(250));
        removal = plan(&read_sets(kernel, true)?);
    }
    Ok(())
}

/// ipset stops at the first command that fails; one by one, a set in use does not keep the rest.
fn destroy_each(kernel: &mut dyn Kernel, removal: &SetRemoval) -> Result<(), KernelError> {
    let mut first = Ok(());
    if !removal.elements.is_empty() {
        first = kernel.ipset_restore(&removal.elements);
    }
    for name in &removal.sets {
        let gone = kernel.ipset_restore(&destroy(name));
        first = first.and(gone.map_err(|source| KernelError::SetInUse {
            set: name.to_string(),
            source: Box::new(source),
        }));
    }
    first
}

/// Removes our rules of one family.
fn unload(kernel: &mut dyn Kernel, family: Family) -> Result<(), KernelError> {
    let observed = read_rules(kernel, family)?;
    restore(kernel, family, observed, removal)
}

/// Whether there is a table that could hold rules of ours. Only that of IPv6 may be missing: its site
/// may say so.
fn has_table(kernel: &mut dyn Kernel, family: Family) -> bool {
    family == Family::V4 || !kernel.save(family).is_err_and(|error| error.has_no_table())
}

/// Removes our rules of IPv6 from a node that has none any more, as far as its tools work: an earlier
/// ruleset may have left some, and they hold its sets.
fn leave_ipv6(kernel: &mut dyn Kernel) {
    if kernel.speaks(Family::V6)
        && let Err(error) = unload(kernel, Family::V6)
    {
        debug!(reason = chain(&error), "no IPv6 rules to remove");
    }
}

/// Removes all jumps, chains and sets of ours, in both families, as far as possible. Returns the
/// first failure.
pub fn clear(kernel: &mut dyn Kernel) -> Result<(), EnforceError> {
    let families = Parts::ALL.families(|family| kernel.speaks(family));
    let families: Vec<Family> = families
        .into_iter()
        .filter(|family| has_table(kernel, *family))
        .collect();
    let effort = Effort::AsFarAsPossible;
    let first = together(kernel, &families, effort, |kernel, family| {
        let unloaded = unload(kernel, family);
        reach(Step::Rules(family));
        unloaded
    });
    let all = |observed: &[KernelSet]| SetRemoval {
        elements: String::new(),
        sets: observed.iter().map(|set| set.name.clone()).collect(),
    };
    let released = read_sets(kernel, false)
        .and_then(|observed| {
            release(
                kernel,
                all(&observed),
                RepairScope::WHOLE.release_timeout,
                all,
            )
        })
        .map_err(failed_at(EnforceStep::SetsAfter));
    first.and(released)?;
    reach(Step::SetsReleased);
    for family in families {
        let observed = read_rules(kernel, family).map_err(failed_at(EnforceStep::ReadBack))?;
        reach(Step::ReadRules(family));
        if removal(&observed).is_some() {
            return Err(EnforceError::Differs(format!(
                "some of our {family} rules are left"
            )));
        }
    }
    let left = read_sets(kernel, false).map_err(failed_at(EnforceStep::ReadBack))?;
    reach(Step::ReadSets);
    match left.first() {
        Some(set) => Err(EnforceError::Differs(format!("set {} is left", set.name))),
        None => Ok(()),
    }
}
