//! Live flows: those that a push or a dynamic set newly denies are cut.
//!
//! A push cuts them when it is confirmed, not when its trial begins: a push that is rolled back
//! must not end a call. Until then, a matter of milliseconds, established flows go on, except those
//! of a deny set, which is above ESTABLISHED.
//!
//! A reply that the node was about to send to a cut peer creates the flow anew, this time as one
//! that the node began, so that the peer's next packet passes as a reply. The same flows are
//! therefore cut again for as long as a SIP transaction may live.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::flows::Denials;
use voipfleet_ruleset::ruleset::Ruleset;

use super::node::Node;
use crate::kernel::{ConntrackError, Cut};

/// Pauses between the walks after a push that cut something. Together they are longer than a SIP
/// transaction, which ends after 64·T1 = 32 s (RFC 3261, timers B and F); after the last one no
/// late reply can come.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(34),
];
/// After a repair: at most one walk through all flows in this time, however many repairs there
/// are.
const AFTER_GAP: Duration = Duration::from_secs(1);
/// Changes that are walked again at the same time: each keeps a ruleset.
const MAX_REPEATS: usize = 4;
/// Sources that a log line names.
const NAMED: usize = 10;

/// The number of flows that were cut, and the walks that are due.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Cut by the push of what is confirmed.
    cut: u64,
    repeats: VecDeque<Repeat>,
    /// When to walk because the rules were out of force.
    gap: Option<Instant>,
    /// Why flows could not be cut the last time.
    warning: Option<String>,
}

/// The rules before those in force now.
#[derive(Debug, Clone, Copy)]
enum Earlier<'r> {
    /// Another ruleset; none: nothing was closed.
    Ran(Option<&'r Ruleset>),
    /// The same, but another program altered it, a ruleset was on trial and rolled back, or no
    /// agent was running.
    OutOfForce,
}

/// A change whose flows are cut again.
#[derive(Debug)]
struct Repeat {
    before: Option<Arc<Ruleset>>,
    at: Instant,
    pauses: std::slice::Iter<'static, Duration>,
    by: By,
}

/// The change that newly denies flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Push,
    DynamicSets,
}

impl Flows {
    /// How many the push of what is confirmed cut.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    /// The same rules got a newer number: that push cut nothing.
    pub(super) fn renumbered(&mut self) {
        self.cut = 0;
    }

    /// Why flows could not be cut the last time.
    pub(super) fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    /// When the next walk is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let repeats = self.repeats.iter().map(|repeat| repeat.at);
        repeats.chain(self.gap).min()
    }

    /// The rules were out of force for a while.
    pub(super) fn had_gap(&mut self) {
        self.gap.get_or_insert_with(|| Instant::now() + AFTER_GAP);
    }

    /// Notes what came of a walk; returns how many were cut.
    fn note(&mut self, walked: Result<Cut, ConntrackError>) -> u64 {
        let cut = match walked {
            Ok(cut) => cut,
            Err(error) => {
                let why = chain(&error);
                self.warn(format!(
                    "flows that a push or a dynamic set newly denies were not cut: {why}"
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
                "{unread} connection tracking entries cannot be read; flows among them that the last \
                 push denies were not cut"
            ));
        }
        if let Some(refusal) = cut.refusal {
            self.warn(format!(
                "{} flows that the last push newly denies were not cut: the kernel refused: {}",
                cut.kept, refusal
            ));
        }
        cut.flows
    }

    fn warn(&mut self, words: String) {
        warn!(reason = words, "flows not cut");
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

impl Flows {
    /// Cuts what the ruleset that was just confirmed denies, and the one before did not.
    pub(super) fn cut_newly_denied(&mut self, node: &mut Node, before: Option<Arc<Ruleset>>) {
        let mut repeats = std::mem::take(&mut self.repeats);
        repeats.retain(|repeat| repeat.by == By::DynamicSets);
        *self = Self {
            repeats,
            ..Self::default()
        };
        self.cut = self.walk(node, Earlier::Ran(before.as_deref()), By::Push);
        if self.cut > 0 {
            self.repeat(before, PAUSES.iter(), By::Push);
        }
    }

    /// Cuts what the dynamic sets deny now, and did not `before`: also during a trial, since they
    /// change what the node would go back to as well.
    pub(super) fn cut_by_dynamic_sets(&mut self, node: &mut Node, before: Arc<Ruleset>) {
        if self.walk(node, Earlier::Ran(Some(&before)), By::DynamicSets) > 0 {
            self.repeat(Some(before), PAUSES.iter(), By::DynamicSets);
        }
    }

    /// Walks what is due by [`Self::deadline`].
    pub(super) fn run_due(&mut self, node: &mut Node) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.repeats)
            .into_iter()
            .partition(|repeat| repeat.at <= now);
        self.repeats = later;
        for repeat in due {
            // The first walk counted them.
            self.walk(node, Earlier::Ran(repeat.before.as_deref()), repeat.by);
            self.repeat(repeat.before, repeat.pauses, repeat.by);
        }
        if self.gap.is_some_and(|at| at <= now) {
            self.gap = None;
            self.walk(node, Earlier::OutOfForce, By::Push);
        }
    }

    fn repeat(
        &mut self,
        before: Option<Arc<Ruleset>>,
        mut pauses: std::slice::Iter<'static, Duration>,
        by: By,
    ) {
        let Some(pause) = pauses.next() else {
            return;
        };
        if self.repeats.len() == MAX_REPEATS {
            self.repeats.pop_front(); // the one with the most walks behind it
        }
        self.repeats.push_back(Repeat {
            before,
            at: Instant::now() + *pause,
            pauses,
            by,
        });
    }

    /// Cuts the flows that are denied now and were not `earlier`. Returns how many.
    fn walk(&mut self, node: &mut Node, earlier: Earlier<'_>, by: By) -> u64 {
        // Management rules, or a ruleset on trial: something else is in force.
        if node.is_in_fallback() || (node.trial.is_some() && by == By::Push) {
            return 0;
        }
        let (kernel, Some(running)) = node.kernel_and_running() else {
            return 0;
        };
        let (now, failsafe) = (running.effective(), &running.failsafe);
        let at = kernel.now();
        let denials = match earlier {
            Earlier::Ran(before) => Denials::of_apply(before, now, failsafe, at),
            Earlier::OutOfForce => Denials::of_gap(now, failsafe, at),
        };
        let Some(denials) = denials else {
            return 0;
        };
        let walked = kernel.cut_flows(&|flow| denials.cuts(flow));
        self.note(walked)
    }
}
