//! Contention: something keeps reverting our repairs, so they are made at growing intervals.
//!
//! Each chain and each set is judged on its own, so that contention over one does not delay the
//! repair of the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use voipfleet_ruleset::drift::{Difference, DriftClass, DriftSubject, DriftTable};
use voipfleet_ruleset::iptables::RepairPart;
use voipfleet_ruleset::ruleset::{Family, INPUT_CHAIN};

use crate::kernel::Author;

/// Repairs of the same difference that are reverted before repairs wait: an operator may edit the
/// same rule a few times.
const PATIENCE: u32 = 10;
/// Repairs of one chain or set, each of another difference, before repairs wait: an operator who
/// experiments makes fewer in the time that a repair must last.
const PATIENCE_WITH_OTHERS: u32 = 256;
/// The first interval.
const FIRST: Duration = Duration::from_secs(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_mins(5);
/// The longest interval for what closes the node, the jump to our chain and that chain: until its
/// repair, every packet comes in.
const LONGEST_OPEN: Duration = Duration::from_secs(2);
/// A repair that lasted this long, or twice the interval before it, was not reverted.
const QUIET: Duration = Duration::from_secs(10);
/// Repairs that are remembered, for a program that alternates between a few edits.
const REMEMBERED: usize = 8;
/// Subjects that a message names.
const NAMED: usize = 3;

/// How often repairs of one chain or set were reverted recently.
#[derive(Debug)]
struct Contest {
    /// The longest interval.
    longest: Duration,
    /// Reverted to one of the states in `before`.
    again: u32,
    /// Reverted in any way.
    reverted: u32,
    /// How often repairs have waited.
    waits: u32,
    wait_until: Option<Instant>,
    repaired: Option<Instant>,
    before: VecDeque<Vec<Difference>>,
    by: Option<Author>,
}

/// The longest interval between repairs of a subject.
fn longest_interval(subject: &DriftSubject) -> Duration {
    let closes = |name: &str| matches!(name, "INPUT" | INPUT_CHAIN);
    match (&subject.table, &subject.part) {
        (DriftTable::Filter, RepairPart::Named(name)) if closes(name) => LONGEST_OPEN,
        _ => LONGEST,
    }
}

impl Contest {
    fn new(longest: Duration) -> Self {
        Self {
            longest,
            again: 0,
            reverted: 0,
            waits: 0,
            wait_until: None,
            repaired: None,
            before: VecDeque::new(),
            by: None,
        }
    }

    /// The interval of the last wait.
    fn interval(&self) -> Duration {
        let doublings = self.waits.saturating_sub(1).min(16);
        FIRST.saturating_mul(1 << doublings).min(self.longest)
    }

    fn is_contended(&self) -> bool {
        self.waits > 0
    }

    fn quiet(&self) -> Duration {
        if self.is_contended() {
            QUIET.max(self.interval() * 2)
        } else {
            QUIET
        }
    }

    /// When the last repair will have lasted.
    fn over(&self) -> Option<Instant> {
        self.repaired.map(|at| at + self.quiet())
    }

    fn is_waiting(&self, now: Instant) -> bool {
        self.wait_until.is_some_and(|until| now < until)
    }

    /// It differs from what it should be. Returns whether its repair waits.
    fn drifted(&mut self, now: Instant, found: &[Difference]) -> bool {
        if self.is_waiting(now) {
            return true;
        }
        if self.wait_until.take().is_some() {
            return false; // waited for
        }
        if self.over().is_none_or(|over| over <= now) {
            *self = Self::new(self.longest);
            return false;
        }
        self.reverted += 1;
        if self.before.iter().any(|before| holds(found, before)) {
            self.again += 1;
        }
        if self.again < PATIENCE && self.reverted < PATIENCE_WITH_OTHERS {
            return false;
        }
        self.waits += 1;
        self.wait_until = Some(now + self.interval());
        true
    }

    fn repaired(&mut self, now: Instant, found: Vec<Difference>) {
        self.repaired = Some(now);
        if self.before.contains(&found) {
            return;
        }
        if self.before.len() == REMEMBERED {
            self.before.pop_front();
        }
        self.before.push_back(found);
    }
}

fn holds(found: &[Difference], before: &[Difference]) -> bool {
    before.iter().all(|difference| found.contains(difference))
}

/// The chains and sets that are contended, or were repaired just now.
#[derive(Debug, Default)]
pub(super) struct Contention(BTreeMap<DriftSubject, Contest>);

impl Contention {
    fn contest(&mut self, subject: &DriftSubject) -> &mut Contest {
        let new = || Contest::new(longest_interval(subject));
        self.0.entry(subject.clone()).or_insert_with(new)
    }

    /// Takes differences that were found, with their authors. Returns those whose repair waits.
    ///
    /// What cannot be read is not repaired, and so not reverted either.
    pub(super) fn drifted(
        &mut self,
        now: Instant,
        found: &[Difference],
        by: impl Fn(Family) -> Option<Author>,
    ) -> BTreeSet<DriftSubject> {
        let mut waiting = BTreeSet::new();
        for (subject, differences) in by_subject(found) {
            let contest = self.contest(&subject);
            let waits = contest.drifted(now, &differences);
            let by = by(subject.family).filter(|_| subject.table != DriftTable::Ipset);
            contest.by = by.or(contest.by.take());
            if waits {
                waiting.insert(subject);
            }
        }
        waiting
    }

    /// These were repaired, or tried to.
    pub(super) fn repaired(&mut self, now: Instant, tried: &[Difference]) {
        for (subject, differences) in by_subject(tried) {
            self.contest(&subject).repaired(now, differences);
        }
    }

    /// Everything that was inspected, except what was `found`, is as it should be.
    pub(super) fn checked(
        &mut self,
        now: Instant,
        found: &[Difference],
        inspected: impl Fn(&DriftSubject) -> bool,
    ) {
        let found: BTreeSet<DriftSubject> = found.iter().map(Difference::subject).collect();
        self.0.retain(|subject, contest| {
            if !inspected(subject) || found.contains(subject) {
                return true;
            }
            contest.wait_until = None;
            contest.over().is_some_and(|over| now < over)
        });
    }

    /// Whether anything is contended.
    pub(super) fn is_contended(&self) -> bool {
        self.0.values().any(Contest::is_contended)
    }

    /// Whether a repair of something of this kind waits.
    pub(super) fn is_waiting(&self, now: Instant, of: impl Fn(&DriftSubject) -> bool) -> bool {
        self.0
            .iter()
            .any(|(subject, contest)| contest.is_waiting(now) && of(subject))
    }

    /// When to inspect again without an event: a wait ends, or contention does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0
            .values()
            .filter(|contest| contest.is_contended())
            .filter_map(|contest| contest.wait_until.or_else(|| contest.over()))
            .min()
    }

    /// What is contended, who does it and what to do about it, line by line.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut contests: Vec<_> = self.0.iter().filter(|(_, f)| f.is_contended()).collect();
        // Known authors first: changes of sets name none.
        contests.sort_by_key(|(_, contest)| contest.by.is_none());
        let number = contests.len();
        if number == 0 {
            return Vec::new();
        }
        let mut lines = vec!["something keeps reverting repairs:".to_owned()];
        lines.extend(contests.into_iter().take(NAMED).map(|(subject, contest)| {
            let by = contest.by.as_ref().map(Author::describe);
            let by = by.as_deref().unwrap_or("an unknown program");
            format!("{subject} by {by}")
        }));
        if number > NAMED {
            lines.push(format!("and {} more", number - NAMED));
        }
        lines.push(
            "stop it, or configure it not to touch VF-*, vf-* and the jump to VF-INPUT;".to_owned(),
        );
        lines.push("until then repairs are made at growing intervals".to_owned());
        lines
    }
}

fn by_subject(differences: &[Difference]) -> BTreeMap<DriftSubject, Vec<Difference>> {
    let mut subjects: BTreeMap<DriftSubject, Vec<Difference>> = BTreeMap::new();
    for difference in differences
        .iter()
        .filter(|d| d.class != DriftClass::Unreadable)
    {
        subjects
            .entry(difference.subject())
            .or_default()
            .push(difference.clone());
    }
    subjects
}

#[cfg(test)]
#[path = "contention_tests.rs"]
mod tests;
