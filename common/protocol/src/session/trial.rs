//! The agent's side: what it does with an offer, and how a trial ends. Decided without I/O.
//!
//! ```text
//!         offer: journal      kernel changed     confirmed: probes     answered: ledger
//! Settled ──────────► Changing ──────────► Trial ──────────► Probing ──────────► Settled
//!    ▲                   │ failed            │ deadline,        │ one failed,
//!    │                   ▼                   ▼ stop             ▼ deadline, stop
//!    └─ undone: ────── UndoDue ◄─────────────┴──────────────────┘
//!       journal gone
//! ```
//!
//! One deadline holds for trial and probes together. The caller does what is written on the arrows,
//! in that order and durably, before it reports: at a start, the journal alone shows that something
//! was not confirmed.

use std::time::{Duration, Instant};

use super::{Answer, Held, Refusal, judge};
use crate::limits::{DEFAULT_CONFIRM_WITHIN, MAX_CONFIRM_WITHIN};

/// How long a trial may last, from the milliseconds of an offer.
pub fn confirm_within(milliseconds: u64) -> Duration {
    match milliseconds {
        0 => DEFAULT_CONFIRM_WITHIN,
        more => Duration::from_millis(more).min(MAX_CONFIRM_WITHIN),
    }
}

/// One delivery of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The delivery.
    pub nonce: u64,
    /// What was delivered.
    pub held: Held,
}

/// The journal at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// No change had begun.
    Nothing,
    /// A change to this had begun, and may have been on trial.
    Change(Held),
    /// It cannot be read: a change of something had begun.
    Unreadable,
}

/// What a start does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing was under way: the confirmed is what runs.
    Keep,
    /// It was confirmed, and only the journal is still there: remove it.
    Settle,
    /// It was not confirmed: go back.
    Undo,
}

/// What is done with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try it. One that is on trial gives way as soon as the kernel changes; what to go back
    /// to stays the confirmed.
    Try,
    /// It is on trial already, and from now on under the nonce of this offer.
    OnTrial,
    /// The confirmed content under a newer number, which needs no trial. Another one's trial
    /// is undone first.
    Renumber,
    /// It is confirmed already.
    Same,
    /// Refuse it; a trial goes on.
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// The kernel runs what is confirmed.
    #[default]
    Settled,
    /// The journal is written, and the kernel is on its way.
    Changing(Attempt),
    /// The kernel runs it, read back; until then the controller must confirm it.
    Trial(Attempt, Instant),
    /// The controller has confirmed it; until then its probes must have succeeded.
    Probing(Attempt, Instant),
    /// The kernel must go back, and did not yet.
    UndoDue,
}

/// The state of a node between its confirmed ruleset and an offer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrialState {
    confirmed: Option<Held>,
    phase: Phase,
}

impl TrialState {
    /// After a start, from the confirmed content of the ledger and the journal.
    pub fn start(confirmed: Option<Held>, noted: JournalState) -> (Self, Start) {
        let first = match noted {
            JournalState::Nothing => Start::Keep,
            JournalState::Change(held) if confirmed == Some(held) => Start::Settle,
            JournalState::Change(_) | JournalState::Unreadable => Start::Undo,
        };
        let phase = match first {
            Start::Keep | Start::Settle => Phase::Settled,
            Start::Undo => Phase::UndoDue,
        };
        (Self { confirmed, phase }, first)
    }

    /// What the node boots with.
    pub fn confirmed(&self) -> Option<Held> {
        self.confirmed
    }

    /// What is on trial, its probes included.
    pub fn on_trial(&self) -> Option<Attempt> {
        match self.phase {
            Phase::Trial(attempt, _) | Phase::Probing(attempt, _) => Some(attempt),
            _ => None,
        }
    }

    /// The part of [`Self::on_trial`] in which the controller has confirmed it, and its probes
    /// run.
    pub fn probing(&self) -> Option<Attempt> {
        match self.phase {
            Phase::Probing(attempt, _) => Some(attempt),
            _ => None,
        }
    }

    /// When the trial ends by itself.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Trial(_, deadline) | Phase::Probing(_, deadline) => Some(deadline),
            _ => None,
        }
    }

    /// Whether the kernel must be rolled back before its state is known.
    pub fn undo_is_due(&self) -> bool {
        self.phase == Phase::UndoDue
    }

    /// Whether the kernel runs what is confirmed: no journal is needed.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Settled
    }

    /// An offer came.
    pub fn offer(&mut self, offered: Attempt) -> Reaction {
        let held = offered.held;
        if let Phase::Trial(attempt, deadline) | Phase::Probing(attempt, deadline) = self.phase {
            if attempt.held == held {
                // Another delivery asks for its own confirmation and its own probes. It has no
                // more time for them.
                self.phase = Phase::Trial(offered, deadline);
                return Reaction::OnTrial;
            }
            if held.generation <= attempt.held.generation {
                return Reaction::Refuse(Refusal::NotNewer {
                    offered: held.generation,
                    on_trial: attempt.held.generation,
                });
            }
        }
        match judge(self.confirmed, held) {
            Answer::Take => Reaction::Try,
            Answer::Renumber => Reaction::Renumber,
            Answer::Same => Reaction::Same,
            Answer::Refuse(refusal) => Reaction::Refuse(refusal),
        }
    }

    /// The journal names this attempt: the kernel may change.
    pub fn begun(&mut self, attempt: Attempt) {
        self.phase = Phase::Changing(attempt);
    }

    /// The kernel changed at that moment, and what it runs was read back.
    pub fn changed(&mut self, at: Instant, confirm_within: Duration) {
        if let Phase::Changing(attempt) = self.phase {
            let within = confirm_within.min(MAX_CONFIRM_WITHIN);
            self.phase = Phase::Trial(attempt, at + within);
        }
    }

    /// The controller's confirmation was received then. True: it is of this trial and in time,
    /// and the probes of what is tried must run. Anything else is late, a duplicate, or of
    /// something else.
    pub fn confirm(&mut self, confirmation: Attempt, received: Instant) -> bool {
        match self.phase {
            Phase::Trial(attempt, deadline) if attempt == confirmation && received < deadline => {
                self.phase = Phase::Probing(attempt, deadline);
                true
            }
            _ => false,
        }
    }

    /// The probes of `probed` ended then. True: they are those of this trial, and in time; if
    /// all of them succeeded, what is tried must be written down as confirmed, else undone.
    /// Anything else is late, a duplicate, or of something else.
    pub fn probed(&self, probed: Attempt, ended: Instant) -> bool {
        match self.phase {
            Phase::Probing(attempt, deadline) => attempt == probed && ended < deadline,
            _ => false,
        }
    }

    /// What was on trial is written down as confirmed.
    pub fn persisted(&mut self) {
        if let Phase::Probing(attempt, _) = self.phase {
            self.confirmed = Some(attempt.held);
            self.phase = Phase::Settled;
        }
    }

    /// The confirmed content is written down under a newer number.
    pub fn renumbered(&mut self, held: Held) {
        self.confirmed = Some(held);
    }

    /// Time went on. True: the trial is over, and must be undone.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// The attempt failed, expired, or gives way to the end of the agent: go back.
    pub fn give_up(&mut self) {
        self.phase = Phase::UndoDue;
    }

    /// The kernel runs what is confirmed again, and the journal is gone.
    pub fn undone(&mut self) {
        self.phase = Phase::Settled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use voipfleet_ruleset::ruleset::Digest;

    const WITHIN: Duration = Duration::from_secs(5);

    fn attempt(nonce: u64, generation: u64, content: &str) -> Attempt {
        Attempt {
            nonce,
            held: Held {
                generation,
                digest: Digest::of(content.as_bytes()),
            },
        }
    }

    fn on_trial(now: Instant) -> TrialState {
        let confirmed = attempt(0, 1, "a").held;
        let (mut course, first) = TrialState::start(Some(confirmed), JournalState::Nothing);
        assert_eq!(first, Start::Keep);
        let tried = attempt(7, 3, "b");
        assert_eq!(course.offer(tried), Reaction::Try);
        course.begun(tried);
        course.changed(now, WITHIN);
        course
    }

    #[test]
    fn only_the_confirmation_of_this_trial_in_time_counts() {
        let now = Instant::now();
        let mut course = on_trial(now);
        for wrong in [attempt(6, 3, "b"), attempt(7, 4, "b"), attempt(7, 3, "c")] {
            assert!(!course.confirm(wrong, now));
        }
        assert!(!course.confirm(attempt(7, 3, "b"), now + WITHIN));
        assert!(!course.probed(attempt(7, 3, "b"), now), "not confirmed yet");
        course.persisted();
        assert_eq!(course.confirmed(), Some(attempt(0, 1, "a").held));
        assert!(course.confirm(attempt(7, 3, "b"), now + WITHIN / 2));
        assert!(!course.confirm(attempt(7, 3, "b"), now), "once");
    }

    #[test]
    fn only_the_probes_of_this_trial_in_time_end_it() {
        let now = Instant::now();
        let mut course = on_trial(now);
        let tried = attempt(7, 3, "b");
        assert!(course.confirm(tried, now));
        assert_eq!(course.on_trial(), Some(tried));
        assert_eq!(course.probing(), Some(tried));
        assert_eq!(
            course.deadline(),
            Some(now + WITHIN),
            "no longer than before"
        );
        assert!(course.expired(now + WITHIN));
        for wrong in [attempt(6, 3, "b"), attempt(7, 4, "b"), attempt(7, 3, "c")] {
            assert!(!course.probed(wrong, now));
        }
        assert!(!course.probed(tried, now + WITHIN));
        // Another delivery of the same: confirmed and probed on its own.
        let mut again = course.clone();
        assert_eq!(again.offer(attempt(8, 3, "b")), Reaction::OnTrial);
        assert_eq!(again.deadline(), Some(now + WITHIN));
        for of in [tried, attempt(8, 3, "b")] {
            assert!(!again.probed(of, now));
        }
        assert!(again.confirm(attempt(8, 3, "b"), now));
        assert!(!again.probed(tried, now));
        assert!(again.probed(attempt(8, 3, "b"), now));

        assert!(course.probed(tried, now + WITHIN / 2));
        course.persisted();
        assert_eq!(course.confirmed(), Some(tried.held));
        assert_eq!((course.on_trial(), course.deadline()), (None, None));
        assert!(!course.probed(tried, now), "once");
    }

    #[test]
    fn an_offer_during_a_trial() {
        let now = Instant::now();
        let course = on_trial(now);
        for (offered, reaction) in [
            (attempt(8, 3, "b"), Reaction::OnTrial),
            (attempt(8, 4, "c"), Reaction::Try),
            (attempt(8, 4, "b"), Reaction::Try),
            (attempt(8, 4, "a"), Reaction::Renumber),
        ] {
            assert_eq!(course.clone().offer(offered), reaction, "{offered:?}");
        }
        for old in [
            attempt(8, 1, "a"),
            attempt(8, 2, "c"),
            attempt(8, 3, "c"),
            attempt(8, 0, "b"),
        ] {
            let reaction = course.clone().offer(old);
            assert!(matches!(reaction, Reaction::Refuse(_)), "{old:?}");
        }
        let mut renamed = course;
        renamed.offer(attempt(8, 3, "b"));
        assert!(!renamed.clone().confirm(attempt(7, 3, "b"), now));
        assert!(renamed.clone().confirm(attempt(8, 3, "b"), now));
        assert_eq!(
            renamed.deadline(),
            Some(now + WITHIN),
            "no longer than before"
        );
    }

    #[test]
    fn a_start_goes_back_unless_it_was_confirmed() {
        let (old, new) = (attempt(0, 1, "a").held, attempt(0, 2, "b").held);
        for (confirmed, noted, first) in [
            (None, JournalState::Nothing, Start::Keep),
            (None, JournalState::Change(new), Start::Undo),
            (Some(old), JournalState::Change(new), Start::Undo),
            (Some(old), JournalState::Unreadable, Start::Undo),
            (Some(new), JournalState::Change(new), Start::Settle),
        ] {
            let (course, does) = TrialState::start(confirmed, noted);
            assert_eq!(does, first);
            assert_eq!(course.undo_is_due(), first == Start::Undo);
            assert_eq!(course.confirmed(), confirmed);
        }
    }

    #[test]
    fn no_offer_makes_a_trial_that_does_not_end() {
        assert_eq!(confirm_within(0), DEFAULT_CONFIRM_WITHIN);
        assert_eq!(confirm_within(5000), WITHIN);
        assert_eq!(confirm_within(u64::MAX), MAX_CONFIRM_WITHIN);
    }
}
