//! Drift: when the kernel is inspected, what differed, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::drift::{Difference, DriftClass, DriftSubject, DriftTable};
use voipfleet_ruleset::iptables::SetCount;
use voipfleet_ruleset::ruleset::Family;

use super::drift_records::{DriftRecords, send_records};
use super::look_pace::LookPace;
use super::looks::Looks;
use super::node::Node;
use super::quick_look::QuickLook;
use super::repair::{Findings, Repair};
use crate::enforcement::inspect::{self, Inspection, Moment};
use crate::enforcement::obstacles::Obstacles;
use crate::enforcement::openness::Openness;
use crate::host::clock;
use crate::kernel::{Author, Kernel, Parts};
use crate::ledger::Confirmed;
use crate::mailbox::{Change, Outbox};

/// While something is contended, events of its family come by the hundred: they start an
/// inspection this often at most.
const CONTENDED_PACE: Duration = Duration::from_millis(100);

/// How the kernel differs from what runs.
pub(super) struct Drift {
    repair: Repair,
    records: DriftRecords,
    state: pb::DriftState,
    /// The elements of the sets that run, as they were last counted.
    counted: Option<SetCount>,
    /// Why the confirmed ruleset was not in force at the start; until it is.
    not_in_force: Option<String>,
    /// What the tools cannot print, so that ours was read around it.
    obstacles: Obstacles,
    /// Who made the rules of a family unprintable, where it is known.
    obstacle_authors: BTreeMap<Family, Author>,
    /// How packets come in past our rules, by family.
    open: BTreeMap<Family, Openness>,
    /// Changes that were announced and not inspected yet.
    pending: Option<Change>,
    /// How soon announced changes are inspected.
    pace: LookPace,
    looks: Looks,
    quick_look: QuickLook,
    last_check: Option<Instant>,
    clock_steps: clock::Steps,
}

impl Drift {
    /// `not_in_force` is why the start did not put the confirmed ruleset in force.
    pub(super) fn new(not_in_force: Option<String>, poll_interval: Duration) -> Self {
        Self {
            repair: Repair::default(),
            records: DriftRecords::new(clock::unix_ms(clock::now())),
            state: pb::DriftState::Clean,
            counted: None,
            not_in_force,
            obstacles: Obstacles::default(),
            obstacle_authors: BTreeMap::new(),
            open: BTreeMap::new(),
            pending: None,
            pace: LookPace::default(),
            looks: Looks::new(Instant::now()),
            quick_look: QuickLook::new(poll_interval),
            last_check: None,
            clock_steps: clock::Steps::default(),
        }
    }

    pub(super) fn state(&self) -> pb::DriftState {
        self.state
    }

    /// Describes contention, and why a repair left something; `None` where there is neither.
    pub(super) fn detail(&self) -> Option<String> {
        self.repair.describe(!self.records.is_empty())
    }

    pub(super) fn counted(&self) -> Option<&SetCount> {
        self.counted.as_ref()
    }

    pub(super) fn not_in_force(&self) -> Option<&str> {
        self.not_in_force.as_deref()
    }

    /// What the tools cannot print, a line for each.
    pub(super) fn obstacles(&self) -> Vec<String> {
        let author = |family| self.obstacle_authors.get(&family).map(Author::describe);
        self.obstacles.describe(author)
    }

    /// Why packets come in past our rules, as far as it is known; `None` where they do not.
    pub(super) fn open(&self) -> Option<String> {
        let open = self.open.iter();
        let lines: Vec<String> = open
            .map(|(family, why)| format!("{family}: {why}"))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    /// Sets were counted elsewhere.
    pub(super) fn set_counted(&mut self, sets: SetCount) {
        self.counted = Some(sets);
    }

    /// Some sets were counted elsewhere.
    pub(super) fn set_recounted(&mut self, some: &SetCount) {
        self.counted = self.counted.as_ref().map(|sets| sets.recounted(some));
    }

    /// Notes a change that was announced.
    pub(super) fn note(&mut self, change: Change) {
        match &mut self.pending {
            Some(pending) => pending.merge(&change),
            None => self.pending = Some(change),
        }
    }

    /// When the next inspection is due: something was announced, a wait between repairs ends, or
    /// it is time for a quick look.
    pub(super) fn deadline(&self) -> Instant {
        let waits = [self.repair.deadline(), self.announced_deadline()];
        let waits = waits.into_iter().flatten();
        waits.fold(self.quick_look.deadline(), Instant::min)
    }

    fn announced_deadline(&self) -> Option<Instant> {
        let pending = self.pending.as_ref()?;
        let contended = |family: &Family| pending.touches(*family) && self.is_waiting_for(*family);
        let contended = Family::BOTH.iter().any(contended);
        match self.last_check {
            Some(last) if contended => Some(last + CONTENDED_PACE),
            _ => Some(self.pace.due(pending.noticed, may_touch_ours(pending))),
        }
    }

    /// Whether a repair of rules of that family waits.
    fn is_waiting_for(&self, family: Family) -> bool {
        self.repair.is_waiting(Instant::now(), |subject| {
            subject.table != DriftTable::Ipset && subject.family == family
        })
    }

    /// Inspects what is due by `now`. Returns whether anything was.
    pub(super) fn run_due(&mut self, node: &mut Node, outbox: &Outbox, now: Instant) -> Checked {
        let mut checked = Checked::default();
        if self.repair.deadline().is_some_and(|at| at <= now) {
            // What was announced meanwhile names its author.
            let change = self.pending.take();
            checked.add(self.check(node, outbox, change.as_ref()));
        }
        if self.announced_deadline().is_some_and(|at| at <= now)
            && let Some(change) = self.pending.take()
        {
            let found = self.check(node, outbox, Some(&change));
            if found.is_clean || found == Checked::default() {
                self.pace.found_nothing(now, may_touch_ours(&change));
            }
            checked.add(found);
        }
        checked
    }

    /// Whether an inspection is due by `now`.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let waits = [self.repair.deadline(), self.announced_deadline()];
        waits.into_iter().flatten().any(|at| at <= now)
    }

    /// Looks for what nothing announces, where it is time for it, and inspects what is not as it
    /// was.
    pub(super) fn look_quickly(
        &mut self,
        node: &mut Node,
        outbox: &Outbox,
        now: Instant,
    ) -> Checked {
        if now < self.quick_look.deadline() {
            return Checked::default();
        }
        let out_of_force = node.is_out_of_force();
        let (kernel, running) = node.kernel_and_running();
        if out_of_force || running.is_none() {
            self.quick_look.forget();
            return Checked::default();
        }
        let changed = self.quick_look.run_due(kernel, &mut self.looks, now);
        if changed == Parts::NONE {
            return Checked::default();
        }
        // What was announced meanwhile names its author.
        self.note(Change::unannounced(changed));
        let change = self.pending.take();
        self.check(node, outbox, change.as_ref())
    }

    /// No quick look now: what runs is not all in the kernel yet.
    pub(super) fn put_off_quick_look(&mut self) {
        self.quick_look.put_off();
    }

    /// Before all is inspected: tells which sets have changed since the last quick look.
    pub(super) fn look_at_sets(&mut self, node: &mut Node) {
        if !node.is_out_of_force() && node.running().is_some() {
            self.quick_look
                .sets_changed(&mut *node.kernel, &mut self.looks);
        }
    }

    /// Inspects the kernel because of a change, or because it is time to, and repairs it.
    pub(super) fn check(
        &mut self,
        node: &mut Node,
        outbox: &Outbox,
        change: Option<&Change>,
    ) -> Checked {
        let checked = self.inspect_and_repair(node, outbox, change);
        node.kernel.expect_restore(&[]);
        checked
    }

    fn inspect_and_repair(
        &mut self,
        node: &mut Node,
        outbox: &Outbox,
        change: Option<&Change>,
    ) -> Checked {
        // Before an undo there is nothing to compare with; management rules are put back whole.
        if node.is_out_of_force() {
            self.repair.forget();
            self.open.clear();
            return Checked {
                fell_back: !node.trial_state.undo_is_due() && node.hold_fallback(),
                ..Checked::default()
            };
        }
        let parts = self.parts_to_read(change);
        let likely = self.likely_repairs(change);
        // During a trial, its ruleset counts: a repair must not end it.
        let (kernel, Some(running)) = node.kernel_and_running() else {
            self.repair.forget();
            return Checked::default();
        };
        // The tool that will repair the rules starts while they are read.
        kernel.expect_restore(&likely);
        let moment = self.moment(kernel, parts);
        let began = Instant::now();
        let mut found = inspect_and_renew(kernel, running, parts, moment);
        let seen = std::mem::take(&mut found.obstacles);
        let mut obstacles_changed = self.take_obstacles(seen, change);
        let at_ms = clock::unix_ms(clock::now());
        let waiting = self.take(&found, parts, change, at_ms);
        self.looks.inspected(found.readable(parts), began);
        let repairs = |difference: &Difference| {
            difference.class != DriftClass::Unreadable && !waiting.contains(&difference.subject())
        };
        let is_clean = found.is_clean();
        let repaired = found.differences.iter().any(repairs);
        if repaired {
            let found = Findings {
                inspection: found,
                parts,
                waiting: &waiting,
                looks: &self.looks,
                at_ms,
            };
            let mut left = self
                .repair
                .run(kernel, running, found, &mut self.records, outbox);
            self.count(&left);
            self.take_open(&left, parts);
            let seen = std::mem::take(&mut left.obstacles);
            obstacles_changed |= self.take_obstacles(seen, change);
        } else {
            self.take_open(&found, parts);
            if !is_clean {
                send_records(outbox, self.records.unsent());
            }
        }
        self.state = self.current_state();
        Checked {
            inspected: true,
            is_clean,
            repaired,
            fell_back: false,
            obstacles_changed,
        }
    }

    /// Takes what the tools could not print. Returns whether that is news.
    fn take_obstacles(&mut self, seen: Obstacles, change: Option<&Change>) -> bool {
        let before = self.obstacles();
        for (family, why) in &seen.tables {
            if why.is_none() {
                self.obstacle_authors.remove(family);
            } else if !self.obstacles.has_unprintable(*family)
                && let Some(author) = change.and_then(|change| change.author(*family))
            {
                self.obstacle_authors.insert(*family, author.clone());
            }
        }
        self.obstacles.update(seen);
        let now = self.obstacles();
        for line in now.iter().filter(|line| !before.contains(line)) {
            warn!(
                reason = line,
                "foreign rules or sets that cannot be printed"
            );
        }
        now != before
    }

    /// Takes how the kernel lets packets in past our rules, of the parts that were inspected.
    fn take_open(&mut self, left: &Inspection, parts: Parts) {
        let was_open = self.open();
        self.open.retain(|family, _| {
            let inspected = parts.covers(DriftTable::Filter, *family);
            !inspected || left.is_unreadable_in(*family)
        });
        let open = left.open.iter();
        self.open
            .extend(open.map(|(family, why)| (*family, why.clone())));
        match (was_open, self.open()) {
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                error!(reason = now, "this node is open");
            }
            (Some(_), None) => info!("this node is closed again"),
            _ => {}
        }
    }

    /// Families whose rules are probably repaired after a change. Under contention none is.
    /// Nor is one in a storm of changes that others make to what is theirs.
    fn likely_repairs(&self, change: Option<&Change>) -> Vec<Family> {
        let now = Instant::now();
        let reached = |family: &Family| {
            let reaches_ours = change.is_some_and(|change| change.reaches_ours(*family));
            reaches_ours && !self.is_waiting_for(*family) && self.pace.is_calm(now)
        };
        Family::BOTH.into_iter().filter(reached).collect()
    }

    /// The time of an inspection that begins now.
    fn moment(&mut self, kernel: &dyn Kernel, parts: Parts) -> Moment {
        let mut moment = Moment::now(kernel);
        if parts.sets {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(moment.now);
            moment.stepped = self.clock_steps.stepped(now, Instant::now());
        }
        moment
    }

    /// Takes what an inspection found. Returns the subjects whose repair waits.
    fn take(
        &mut self,
        found: &Inspection,
        parts: Parts,
        change: Option<&Change>,
        at_ms: u64,
    ) -> BTreeSet<DriftSubject> {
        self.count(found);
        let now = Instant::now();
        self.last_check = Some(now);
        self.repair.checked(now, &found.differences, |subject| {
            parts.covers(subject.table, subject.family)
        });
        // A difference that others put right is no longer drift; its record says that we did not
        // repair it.
        let since = |difference: &Difference| self.looks.since(difference, change);
        self.records
            .found(&found.differences, parts, change, since, at_ms);
        if found.is_clean() && parts == Parts::ALL {
            self.not_in_force = None;
        }
        self.repair.waiting(now, &found.differences, |family| {
            change.and_then(|change| change.author(family).cloned())
        })
    }

    /// The parts of the kernel that have changed since the last inspection. A change of rules
    /// leaves sets alone; and where a difference is left that should have been repaired, everything
    /// is read, so that nothing is forgotten.
    fn parts_to_read(&self, change: Option<&Change>) -> Parts {
        let now = Instant::now();
        let waits = |difference: &Difference| {
            let subject = difference.subject();
            self.repair.is_waiting(now, |of| *of == subject)
        };
        match change {
            Some(change) if self.records.all(waits) && self.not_in_force.is_none() => {
                change.parts()
            }
            _ => Parts::ALL,
        }
    }

    /// Keeps what was counted; where sets could not be read, nothing is known of them.
    fn count(&mut self, found: &Inspection) {
        if found.sets.is_some() || found.is_unreadable() {
            self.counted.clone_from(&found.sets);
        }
    }

    /// Counts the elements in the kernel where no inspection did.
    pub(super) fn count_sets(&mut self, node: &mut Node) {
        let (kernel, running) = node.kernel_and_running();
        let moment = Moment::now(kernel);
        self.counted = running
            .and_then(|running| inspect::inspect_parts(kernel, running, Parts::SETS, moment).sets);
    }

    /// Takes what the kernel holds besides a ruleset that was just put in force.
    pub(super) fn look_around(&mut self, node: &mut Node) {
        let (kernel, Some(running)) = node.kernel_and_running() else {
            return;
        };
        let moment = Moment::now(kernel);
        let mut found = inspect::inspect_parts(kernel, running, Parts::ALL, moment);
        let seen = std::mem::take(&mut found.obstacles);
        self.take_obstacles(seen, None);
        self.take_open(&found, Parts::ALL);
        self.counted = found.sets;
    }

    /// The ruleset that runs was just proved.
    pub(super) fn is_clean_now(&mut self) {
        self.not_in_force = None;
        self.open.clear();
        let now = Instant::now();
        self.repair.checked(now, &[], |_| true);
        self.looks.inspected(Parts::ALL, now);
        let since = |difference: &Difference| self.looks.since(difference, None);
        self.records.found(&[], Parts::ALL, None, since, 0);
        self.state = self.current_state();
    }

    /// Management rules run: that is drift, whatever the kernel holds.
    pub(super) fn is_in_fallback(&mut self) {
        self.state = pb::DriftState::Drifted;
    }

    fn current_state(&self) -> pb::DriftState {
        if !self.records.all(|d| d.class != DriftClass::Unreadable) {
            pb::DriftState::Unreadable
        } else if self.repair.is_contended() {
            pb::DriftState::Contended
        } else if self.records.is_empty() {
            pb::DriftState::Clean
        } else {
            pb::DriftState::Drifted
        }
    }
}

/// Whether a change may have touched our chains, or the jump to them.
fn may_touch_ours(change: &Change) -> bool {
    let mut families = Family::BOTH.iter();
    families.any(|family| change.reaches_ours(*family))
}

/// The effects of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an effect of its own, and any of them may come with any other"
)]
pub(super) struct Checked {
    /// The kernel was compared with what runs.
    pub(super) inspected: bool,
    /// Nothing of what was compared last differed.
    is_clean: bool,
    /// Something was put right, or tried to.
    pub(super) repaired: bool,
    /// The node fell back to its management rules, or they were refused.
    pub(super) fell_back: bool,
    /// Other foreign rules or sets than before cannot be printed.
    pub(super) obstacles_changed: bool,
}

impl Checked {
    fn add(&mut self, other: Checked) {
        self.is_clean = other.is_clean;
        self.inspected |= other.inspected;
        self.repaired |= other.repaired;
        self.fell_back |= other.fell_back;
        self.obstacles_changed |= other.obstacles_changed;
    }
}

/// Inspects `parts`, and renews timers of set elements that are off only because time passed:
/// that is no drift.
fn inspect_and_renew(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    parts: Parts,
    moment: Moment,
) -> Inspection {
    let found = inspect::inspect_parts(kernel, running, parts, moment);
    let Some(renewal) = &found.renewal else {
        return found;
    };
    if let Err(error) = kernel.ipset_restore(renewal) {
        warn!(reason = chain(&error), "timers of set elements not renewed");
    }
    let moment = Moment::now(kernel);
    inspect::inspect_parts(kernel, running, parts, moment)
}
