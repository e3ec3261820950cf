//! Against something that keeps undoing our repairs: growing intervals instead of a fight.

use std::time::{Duration, Instant};

/// Repairs in a row that are undone before we wait: an operator who edits the same rule a
/// few times is no fight.
const PATIENCE: u32 = 10;
/// The first interval.
const FIRST: Duration = Duration::from_secs(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_mins(5);
/// A repair that stood this long, or twice the interval before it, was not undone.
const QUIET: Duration = Duration::from_secs(10);

/// What to do about drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Repair it now.
    Repair,
    /// Leave it until then.
    Wait(Instant),
}

/// How often we were undone of late.
#[derive(Debug, Default)]
pub(super) struct Contention {
    undone: u32,
    repaired: Option<Instant>,
    wait_until: Option<Instant>,
}

impl Contention {
    fn interval(&self) -> Duration {
        let doublings = self.undone.saturating_sub(PATIENCE).min(16);
        FIRST.saturating_mul(1 << doublings).min(LONGEST)
    }

    fn quiet(&self) -> Duration {
        if self.is_contended() {
            QUIET.max(self.interval() * 2)
        } else {
            QUIET
        }
    }

    /// Drift was found; `again` if a repair of the very same had been made.
    pub(super) fn drifted(&mut self, now: Instant, again: bool) -> Permission {
        if let Some(until) = self.wait_until
            && now < until
        {
            return Permission::Wait(until);
        }
        let undone = self
            .repaired
            .is_some_and(|at| again && now.saturating_duration_since(at) < self.quiet());
        if self.wait_until.take().is_some() {
            return Permission::Repair; // waited for
        }
        if !undone {
            self.relax(now);
            return Permission::Repair;
        }
        self.undone += 1;
        if self.undone < PATIENCE {
            return Permission::Repair;
        }
        let until = now + self.interval();
        self.wait_until = Some(until);
        Permission::Wait(until)
    }

    /// A repair was made, or tried.
    pub(super) fn repaired(&mut self, now: Instant) {
        self.repaired = Some(now);
    }

    /// The kernel was found clean.
    pub(super) fn clean(&mut self, now: Instant) {
        self.wait_until = None;
        self.relax(now);
    }

    fn relax(&mut self, now: Instant) {
        let quiet = self.quiet();
        if self
            .repaired
            .is_none_or(|at| now.saturating_duration_since(at) >= quiet)
        {
            *self = Self::default();
        }
    }

    /// Whether we are being undone again and again.
    pub(super) fn is_contended(&self) -> bool {
        self.undone >= PATIENCE
    }

    /// When to look again although nothing was announced.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wait_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that undoes every repair at once.
    fn fight(contention: &mut Contention, mut now: Instant, rounds: usize) -> Vec<Duration> {
        let mut waits = Vec::new();
        for _ in 0..rounds {
            if let Permission::Wait(until) = contention.drifted(now, true) {
                waits.push(until - now);
                now = until;
                assert_eq!(contention.drifted(now, true), Permission::Repair);
            }
            contention.repaired(now);
            now += Duration::from_millis(1);
        }
        waits
    }

    #[test]
    fn the_intervals_of_a_fight_grow_to_a_limit() {
        let mut contention = Contention::default();
        let waits = fight(&mut contention, Instant::now(), 40);
        assert!(contention.is_contended());
        assert!(waits.is_sorted());
        assert_eq!(waits.first(), Some(&FIRST));
        assert_eq!(waits.last(), Some(&LONGEST));
    }

    #[test]
    fn other_drift_is_no_fight() {
        let mut contention = Contention::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(contention.drifted(now, false), Permission::Repair);
            contention.repaired(now);
        }
        assert!(!contention.is_contended());
    }

    #[test]
    fn a_fight_is_over_when_a_repair_stands() {
        let mut contention = Contention::default();
        let now = Instant::now();
        fight(&mut contention, now, 11);
        contention.clean(now + Duration::from_secs(2));
        assert!(contention.is_contended(), "too early to say");
        contention.clean(now + Duration::from_mins(1));
        assert!(!contention.is_contended());
    }
}
