//! The task's part about live flows: those that a push newly denies are cut.
//!
//! They are cut when the push is confirmed, not when its trial begins: a push that is undone has
//! cut nobody's call. Until then, a matter of milliseconds, what was established goes on; but
//! for what is in a deny set, which stands above ESTABLISHED.
//!
//! An answer that the node was about to send to a cut peer makes the flow anew, this time as one
//! that the node began, and what the peer says next passes as an answer. So the same flows are
//! looked for again, for as long as a SIP transaction may live.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use voipfleet_ruleset::flows::Denials;
use voipfleet_ruleset::ruleset::Ruleset;

use super::Reconciler;
use super::trial::running;
use crate::host::clock;
use crate::host::errors::chain;
use crate::kernel::{ConntrackError, Cut};

/// Pauses between the looks after a push that cut something. Together they are longer than a
/// SIP transaction, which ends after 64·T1 = 32 s (RFC 3261, timers B and F), and the last one
/// comes when no late answer can.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(34),
];
/// After a repair: at most one walk through all flows in this time, however many repairs a
/// fight needs.
const AFTER_GAP: Duration = Duration::from_secs(1);
/// Changes whose flows are looked for again at the same time: each keeps a ruleset.
const MAX_AGAIN: usize = 4;
/// Sources that a log line names.
const NAMED: usize = 10;

/// Live flows, between pushes.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Cut by the push of what is confirmed.
    cut: u64,
    again: VecDeque<Again>,
    gap: Option<Instant>,
    /// Why flows could not be cut the last time.
    warning: Option<String>,
}

/// What was in force before what is in force now.
#[derive(Debug, Clone, Copy)]
enum Earlier<'r> {
    /// Another ruleset; none: nothing was closed.
    Ran(Option<&'r Ruleset>),
    /// The same, but others altered it, or a ruleset was on trial that was then undone, or no
    /// agent was at work.
    OutOfForce,
}

/// A change whose flows are looked for again.
#[derive(Debug)]
struct Again {
    before: Option<Arc<Ruleset>>,
    at: Instant,
    pauses: std::slice::Iter<'static, Duration>,
    by: By,
}

/// What newly denies flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Push,
    LiveSets,
}

impl Flows {
    /// How many the push of what is confirmed cut.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    /// The same rules have another push: that one cut nothing.
    pub(super) fn renumbered(&mut self) {
        self.cut = 0;
    }

    /// What an operator should know of it.
    pub(super) fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let again = self.again.iter().map(|again| again.at);
        again.chain(self.gap).min()
    }

    /// Something was out of force for a while.
    pub(super) fn had_gap(&mut self) {
        self.gap.get_or_insert_with(|| Instant::now() + AFTER_GAP);
    }

    /// Notes what came of a walk; gives how many were cut.
    fn note(&mut self, walked: Result<Cut, ConntrackError>) -> u64 {
        let cut = match walked {
            Ok(cut) => cut,
            Err(error) => {
                let why = chain(&error);
                self.warn(format!(
                    "flows that a push or a live set newly denies are not cut: {why}"
                ));
                return 0;
            }
        };
        if cut.flows > 0 {
            info!(flows = cut.flows, sources = sources(&cut), "flows cut");
        }
        self.warning = None;
        if cut.unread > 0 {
            let unread = cut.unread;
            self.warn(format!(
                "{unread} entries of connection tracking cannot be read; if the last push denied \
                 them, they go on"
            ));
        }
        if cut.kept > 0 {
            self.warn(format!(
                "{} flows that the last push newly denies go on: the kernel keeps them: {}",
                cut.kept, cut.refusal
            ));
        }
        cut.flows
    }

    fn warn(&mut self, words: String) {
        warn!(reason = words, "flows");
        self.warning = Some(words);
    }
}

/// `203.0.113.9: 2, 203.0.113.10: 1, and 3 more sources`
fn sources(cut: &Cut) -> String {
    let mut text = String::new();
    for (source, flows) in cut.sources.iter().take(NAMED) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{source}: {flows}");
    }
    let more = cut.sources.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = write!(text, ", and {more} more sources");
    }
    text
}

impl Reconciler {
    /// Cuts what the ruleset that was just confirmed denies, and the one before did not.
    pub(super) fn cut_newly_denied(&mut self, before: Option<Arc<Ruleset>>) {
        let mut again = std::mem::take(&mut self.flows.again);
        again.retain(|again| again.by == By::LiveSets);
        self.flows = Flows {
            again,
            ..Flows::default()
        };
        self.flows.cut = self.walk(Earlier::Ran(before.as_deref()), By::Push);
        if self.flows.cut > 0 {
            self.look_again(before, PAUSES.iter(), By::Push);
        }
    }

    /// Cuts what the live sets deny now, and did not `before`: also in a trial, for they change
    /// what would be gone back to as well.
    pub(super) fn cut_by_live_sets(&mut self, before: Arc<Ruleset>) {
        if self.walk(Earlier::Ran(Some(&before)), By::LiveSets) > 0 {
            self.look_again(Some(before), PAUSES.iter(), By::LiveSets);
        }
    }

    /// Does what [`Flows::deadline`] is for.
    pub(super) fn look_at_flows(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.flows.again)
            .into_iter()
            .partition(|again| again.at <= now);
        self.flows.again = later;
        for again in due {
            // They are counted already.
            self.walk(Earlier::Ran(again.before.as_deref()), again.by);
            self.look_again(again.before, again.pauses, again.by);
        }
        if self.flows.gap.is_some_and(|at| at <= now) {
            self.flows.gap = None;
            self.walk(Earlier::OutOfForce, By::Push);
        }
    }

    fn look_again(
        &mut self,
        before: Option<Arc<Ruleset>>,
        mut pauses: std::slice::Iter<'static, Duration>,
        by: By,
    ) {
        let Some(pause) = pauses.next() else {
            return;
        };
        if self.flows.again.len() == MAX_AGAIN {
            self.flows.again.pop_front(); // of these, the most looks are behind
        }
        self.flows.again.push_back(Again {
            before,
            at: Instant::now() + *pause,
            pauses,
            by,
        });
    }

    fn walk(&mut self, earlier: Earlier<'_>, by: By) -> u64 {
        let trial = self.trial.as_ref();
        if trial.is_none() && self.fallback.is_some() {
            return 0; // management rules are in force
        }
        if trial.is_some() && by == By::Push {
            return 0; // something else is in force
        }
        let Some(running) = running(trial, self.confirmed.as_ref()) else {
            return 0;
        };
        let (now, failsafe) = (running.effective(), &running.failsafe);
        let at = clock::unix(clock::now());
        let denials = match earlier {
            Earlier::Ran(before) => Denials::of_apply(before, now, failsafe, at),
            Earlier::OutOfForce => Denials::of_gap(now, failsafe, at),
        };
        let Some(denials) = denials else {
            return 0;
        };
        let walked = self.kernel.cut_flows(&|flow| denials.cuts(flow));
        self.flows.note(walked)
    }
}
