//! Makes the kernel what a ruleset says, or clears it of us, and reads it back.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use voipfleet_ruleset::iptables::{Failsafe, KernelSet, SetPlan, Table, removal};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use super::kernel_state::{Observed, observe, rules, sets};
use super::read_back::{read_back, says_the_same};
use super::repair_plan::How;
use crate::failpoint::{Step as Point, reach};
use crate::kernel::{Kernel, KernelError, Parts};
use crate::ledger::Canonical;

/// How often a restore is made anew because others changed the table meanwhile.
const LOAD_ATTEMPTS: usize = 5;

/// What the kernel should be.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The ruleset.
    pub ruleset: &'a Ruleset,
    /// What the failsafe chain keeps open.
    pub failsafe: &'a Failsafe,
    /// What the kernel must print; none where that could not be found out before.
    pub canonical: Option<&'a Canonical>,
    /// The moment, Unix time in seconds: elements that are over by then are none.
    pub now: u64,
    /// How it is made so.
    pub how: How<'a>,
}

/// Where an enforcement failed. In the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sets and elements that the rules will name.
    SetsBefore,
    /// The rules of a family.
    Rules(Family),
    /// Elements and sets that nothing names any more.
    SetsAfter,
    /// Reading rules and sets back.
    ReadBack,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::SetsBefore => f.write_str("filling the sets"),
            Step::Rules(family) => write!(f, "loading the {family} rules"),
            Step::SetsAfter => f.write_str("removing what is no longer in the sets"),
            Step::ReadBack => f.write_str("reading back"),
        }
    }
}

/// The kernel is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// What the kernel prints of it could not be found out.
    #[error("staging: {0}")]
    Stage(#[from] KernelError),
    /// A step was refused.
    #[error("{step}: {source}")]
    Step {
        /// The step.
        step: Step,
        /// The refusal, with the kernel's words.
        source: KernelError,
    },
    /// All was taken, and yet it reads otherwise.
    #[error("the kernel took it, but reads otherwise: {0}")]
    Differs(String),
}

pub(crate) fn at(step: Step) -> impl FnOnce(KernelError) -> EnforceError {
    move |source| EnforceError::Step { step, source }
}

/// What to do after a step was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Nothing more: what is new is not worth more than what was there before.
    UntilRefused,
    /// The other steps: one family's refusal must not leave the other one open.
    AsFarAsPossible,
}

/// Makes the kernel what `target` says, whatever it is now, and proves it by reading it
/// back. Gives the words of the kernel.
pub fn enforce(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    effort: Effort,
) -> Result<Canonical, EnforceError> {
    write(kernel, target, Parts::ALL, effort)?;
    Ok(read_back(kernel, target)?.canonical)
}

/// Makes `parts` of the kernel what `target` says; only what differs is written.
pub fn write(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    parts: Parts,
    effort: Effort,
) -> Result<(), EnforceError> {
    let needed = !target.ruleset.sets.is_empty();
    let read = observe(kernel, parts, needed);
    write_over(kernel, target, parts, effort, read)
}

/// The same, over what was just read. Parts of it that are missing are read.
pub(crate) fn write_over(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    parts: Parts,
    effort: Effort,
    mut read: Observed,
) -> Result<(), EnforceError> {
    let mut first = Ok(());
    let mut after = String::new();
    if parts.sets {
        match fill(kernel, target, &mut read) {
            Ok(plan) => after = plan.after,
            Err(error) => first = Err(at(Step::SetsBefore)(error)),
        }
        reach(Point::SetsFilled);
    }
    if first.is_err() && effort == Effort::UntilRefused {
        return first;
    }
    let families = parts.families(|family| kernel.speaks(family));
    first = first.and(together(kernel, &families, effort, |kernel, family| {
        let table = read.table(kernel, family);
        let loaded = table.and_then(|table| load(kernel, target, family, table));
        reach(Point::Rules(family));
        loaded
    }));
    first?;
    let plan = |observed: &[KernelSet]| target.set_plan(observed).after;
    release(kernel, after, target.how.patience, plan).map_err(at(Step::SetsAfter))?;
    reach(Point::SetsReleased);
    Ok(())
}

/// Changes the rules of these families, with nobody else's change between them where that can
/// be had.
fn together(
    kernel: &mut dyn Kernel,
    families: &[Family],
    effort: Effort,
    mut change: impl FnMut(&mut dyn Kernel, Family) -> Result<(), KernelError>,
) -> Result<(), EnforceError> {
    if let [first, _, ..] = families {
        kernel.lock().map_err(at(Step::Rules(*first)))?;
    }
    let mut first = Ok(());
    for family in families {
        if first.is_err() && effort == Effort::UntilRefused {
            break;
        }
        let changed = change(kernel, *family);
        first = first.and(changed.map_err(at(Step::Rules(*family))));
    }
    kernel.unlock();
    first
}

/// Makes and fills what the rules will name. A set that somebody filled after it was read is
/// planned again, by what is there now: then a larger one takes its place.
fn fill(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    read: &mut Observed,
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
        let now = sets(kernel, needed)?;
        if now == observed || attempts.next().is_none() {
            return Err(error.of_set(target.ruleset, &now));
        }
        observed = now;
    }
}

/// One restore: chains that differ, our stale chains, and the jump.
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

/// Restores what `input` makes of the table that was `observed`; nothing where that is none.
///
/// It names foreign rules around the jump: where somebody changed them after they were
/// read, it is refused as a whole, and done again by what is there now.
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
        let now = rules(kernel, family)?;
        if now == observed {
            return Err(error);
        }
        observed = now;
    }
    Err(KernelError::Unsettled { family })
}

/// Makes the rules of one family what `target` says, and proves it. No set is looked at.
pub fn enforce_rules(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    family: Family,
) -> Result<(), EnforceError> {
    rules(kernel, family)
        .and_then(|table| load(kernel, target, family, table))
        .map_err(at(Step::Rules(family)))?;
    reach(Point::Rules(family));
    let observed = rules(kernel, family).map_err(at(Step::ReadBack))?;
    reach(Point::ReadRules(family));
    says_the_same(target, family, &observed)
}

/// Gives `ipset restore` what no rule names any more; where the kernel still holds on to
/// some of it, again by what is there then. What others use stays, and nothing else.
fn release(
    kernel: &mut dyn Kernel,
    mut input: String,
    patience: Duration,
    plan: impl Fn(&[KernelSet]) -> String,
) -> Result<(), KernelError> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    while !input.is_empty() {
        match kernel.ipset_restore(&input) {
            Ok(()) => break,
            Err(_) if Instant::now() >= deadline => return destroy_each(kernel, &input),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(250));
        input = plan(&sets(kernel, true)?);
    }
    Ok(())
}

/// A list of commands ends at the first that fails: one by one, what others use does not keep
/// the rest.
fn destroy_each(kernel: &mut dyn Kernel, input: &str) -> Result<(), KernelError> {
    let mut first = Ok(());
    let (destroyed, others): (Vec<&str>, Vec<&str>) =
        input.lines().partition(|line| line.starts_with("destroy "));
    if !others.is_empty() {
        first = kernel.ipset_restore(&(others.join("\n") + "\n"));
    }
    for line in destroyed {
        let gone = kernel.ipset_restore(&format!("{line}\n"));
        first = first.and(gone.map_err(|source| KernelError::SetInUse {
            set: line.trim_start_matches("destroy ").to_owned(),
            source: Box::new(source),
        }));
    }
    first
}

/// Removes our rules of one family.
fn unload(kernel: &mut dyn Kernel, family: Family) -> Result<(), KernelError> {
    let observed = rules(kernel, family)?;
    restore(kernel, family, observed, removal)
}

/// Removes every trace of us: jumps, chains, sets, in both families. Goes as far as it can,
/// and gives the first failure.
pub fn clear(kernel: &mut dyn Kernel) -> Result<(), EnforceError> {
    let families = Parts::ALL.families(|family| kernel.speaks(family));
    let effort = Effort::AsFarAsPossible;
    let first = together(kernel, &families, effort, |kernel, family| {
        let unloaded = unload(kernel, family);
        reach(Point::Rules(family));
        unloaded
    });
    let destroy = |observed: &[KernelSet]| {
        observed.iter().fold(String::new(), |mut lines, set| {
            let _ = writeln!(lines, "destroy {}", set.name);
            lines
        })
    };
    let released = sets(kernel, false)
        .and_then(|observed| release(kernel, destroy(&observed), How::WHOLE.patience, destroy))
        .map_err(at(Step::SetsAfter));
    first.and(released)?;
    reach(Point::SetsReleased);
    for family in families {
        let observed = rules(kernel, family).map_err(at(Step::ReadBack))?;
        reach(Point::ReadRules(family));
        if removal(&observed).is_some() {
            return Err(EnforceError::Differs(format!(
                "{family} rules of ours are left"
            )));
        }
    }
    let left = sets(kernel, false).map_err(at(Step::ReadBack))?;
    reach(Point::ReadSets);
    match left.first() {
        Some(set) => Err(EnforceError::Differs(format!("set {} is left", set.name))),
        None => Ok(()),
    }
}
