//! Against something that keeps undoing our repairs: growing intervals instead of a fight.
//!
//! Each chain and each set is fought over on its own, so that a fight over one does not keep
//! the others from being repaired at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use voipfleet_ruleset::drift::{Class, Difference, Subject};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::Author;

/// Repairs of the same difference that are undone before we wait: an operator who edits the same
/// rule a few times is no fight.
const PATIENCE: u32 = 10;
/// Repairs of one chain or set, each of another difference, before we wait: somebody who tries
/// things out makes fewer within the time that a repair must stand.
const PATIENCE_WITH_OTHERS: u32 = 256;
/// The first interval.
const FIRST: Duration = Duration::from_secs(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_mins(5);
/// A repair that stood this long, or twice the interval before it, was not undone.
const QUIET: Duration = Duration::from_secs(10);
/// Repairs that are remembered, for an opponent who takes turns between a few edits.
const REMEMBERED: usize = 8;
/// Subjects that are named to operators.
const NAMED: usize = 3;

/// How often one chain or set was undone of late.
#[derive(Debug, Default)]
struct Fight {
    /// Undone to one of the states in `before`.
    again: u32,
    /// Undone in any way.
    undone: u32,
    /// How often we have waited.
    waits: u32,
    wait_until: Option<Instant>,
    repaired: Option<Instant>,
    before: VecDeque<Vec<Difference>>,
    by: Option<Author>,
}

impl Fight {
    /// The interval of the last wait.
    fn interval(&self) -> Duration {
        let doublings = self.waits.saturating_sub(1).min(16);
        FIRST.saturating_mul(1 << doublings).min(LONGEST)
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

    /// When a repair that stands until then was not undone.
    fn over(&self) -> Option<Instant> {
        self.repaired.map(|at| at + self.quiet())
    }

    fn is_waiting(&self, now: Instant) -> bool {
        self.wait_until.is_some_and(|until| now < until)
    }

    /// It differs from what it should be. Gives whether to leave it so for now.
    fn drifted(&mut self, now: Instant, found: &[Difference]) -> bool {
        if self.is_waiting(now) {
            return true;
        }
        if self.wait_until.take().is_some() {
            return false; // waited for
        }
        if self.over().is_none_or(|over| over <= now) {
            *self = Self::default();
            return false;
        }
        self.undone += 1;
        if self.before.iter().any(|before| holds(found, before)) {
            self.again += 1;
        }
        if self.again < PATIENCE && self.undone < PATIENCE_WITH_OTHERS {
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

/// What is fought over.
#[derive(Debug, Default)]
pub(super) struct Contention(BTreeMap<Subject, Fight>);

impl Contention {
    /// What was found, and by whom it was done. Gives what to leave as it is for now.
    ///
    /// What cannot be read cannot be repaired, so that nobody undoes that.
    pub(super) fn drifted(
        &mut self,
        now: Instant,
        found: &[Difference],
        by: impl Fn(Family) -> Option<Author>,
    ) -> BTreeSet<Subject> {
        let mut waiting = BTreeSet::new();
        for (subject, differences) in by_subject(found) {
            let fight = self.0.entry(subject.clone()).or_default();
            let waits = fight.drifted(now, &differences);
            let by = by(subject.family).filter(|_| subject.table != "ipset");
            fight.by = by.or(fight.by.take());
            if waits {
                waiting.insert(subject);
            }
        }
        waiting
    }

    /// What was repaired, or tried to.
    pub(super) fn repaired(&mut self, now: Instant, tried: &[Difference]) {
        for (subject, differences) in by_subject(tried) {
            self.0
                .entry(subject)
                .or_default()
                .repaired(now, differences);
        }
    }

    /// All that was looked at, but for what was `found`, is as it should be.
    pub(super) fn looked(
        &mut self,
        now: Instant,
        found: &[Difference],
        looked_at: impl Fn(&Subject) -> bool,
    ) {
        let found: BTreeSet<Subject> = found.iter().map(Difference::subject).collect();
        self.0.retain(|subject, fight| {
            if !looked_at(subject) || found.contains(subject) {
                return true;
            }
            fight.wait_until = None;
            fight.over().is_some_and(|over| now < over)
        });
    }

    /// Whether anything is undone again and again.
    pub(super) fn is_contended(&self) -> bool {
        self.0.values().any(Fight::is_contended)
    }

    /// Whether something of this kind is left as it is for now.
    pub(super) fn is_waiting(&self, now: Instant, of: impl Fn(&Subject) -> bool) -> bool {
        self.0
            .iter()
            .any(|(subject, fight)| fight.is_waiting(now) && of(subject))
    }

    /// When to look again although nothing was announced: a wait is over, or a fight.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0
            .values()
            .filter(|fight| fight.is_contended())
            .filter_map(|fight| fight.wait_until.or_else(|| fight.over()))
            .min()
    }

    /// What is fought over, who does it and what to do; empty where nothing is.
    pub(super) fn describe(&self) -> String {
        let mut fights: Vec<_> = self.0.iter().filter(|(_, f)| f.is_contended()).collect();
        // Whom we know goes first: a fight over sets has no names.
        fights.sort_by_key(|(_, fight)| fight.by.is_none());
        let number = fights.len();
        if number == 0 {
            return String::new();
        }
        let mut lines = vec!["repairs are undone again and again:".to_owned()];
        lines.extend(fights.into_iter().take(NAMED).map(|(subject, fight)| {
            let by = fight.by.as_ref().map(Author::describe);
            let by = by
                .as_deref()
                .unwrap_or("somebody whom the kernel does not name");
            format!("{subject} by {by}")
        }));
        if number > NAMED {
            lines.push(format!("and {} more", number - NAMED));
        }
        lines.push("stop it, or let it leave VF-*, vf-* and our jump in INPUT alone;".to_owned());
        lines.push("until then they are made at growing intervals".to_owned());
        lines.join("\n")
    }
}

fn by_subject(differences: &[Difference]) -> BTreeMap<Subject, Vec<Difference>> {
    let mut subjects: BTreeMap<Subject, Vec<Difference>> = BTreeMap::new();
    for difference in differences.iter().filter(|d| d.class != Class::Unreadable) {
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
