//! The loop of the task: offers, trials, checks for drift, reports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::ruleset::Family;

use super::drift_check::{Checked, Drift};
use super::dynamic_sets::{Counted, HeldSets, Taken, Written};
use super::flows::Flows;
use super::interfaces::{Interfaces, Of};
use super::node::Node;
use super::outcome::Outcome;
use super::status::{Report, View};
use super::warnings::Warning;
use crate::enforcement::apply::NodeId;
use crate::enforcement::recovery::{self, Interrupted, Recovered};
use crate::failpoint::{Step, Work, during, reach};
use crate::foreign_firewalls::Protected;
use crate::host::{clock, systemd};
use crate::kernel::{Kernel, Parts};
use crate::ledger::{Confirmed, Ledger};
use crate::mailbox::{Change, Controllers, Inbox, Outbox, ReceivedSets};

/// The inventory is refreshed every so many polls: it runs more programs, for what changes once in
/// years.
const POLLS_PER_INVENTORY: u32 = 20;

/// How often foreign firewalls are looked at: no event announces an element of a set, nor a change of
/// legacy tables other than `filter`.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(3);
/// An element may begin in years.
const LONGEST_WAIT_S: u64 = 24 * 3600;

/// Facts about the machine, which the task reports.
pub trait Inventory: Send {
    /// Reads anew what seldom changes; programs of the machine may be run for it.
    fn refresh(&mut self, kernel: &mut dyn Kernel);

    /// Reads what foreign firewalls have in the kernel, as far as it may have changed, and whom they cut
    /// off. Returns whether that is not what it was.
    fn check_foreign(&mut self, kernel: &mut dyn Kernel, protected: Protected<'_>) -> bool;

    /// Reads anew what listens on the machine.
    fn refresh_sockets(&mut self, kernel: &mut dyn Kernel);

    /// The ports on which SSH was found to listen.
    fn ssh_ports(&self) -> &[u16];

    /// The facts that were read last, with those that cost nothing to read now. `families` are those
    /// that the node filters.
    fn facts(&self, kernel: &dyn Kernel, families: &[Family]) -> pb::NodeFacts;

    /// The machine's network interfaces; none: not known.
    fn interfaces(&self) -> Option<BTreeSet<String>>;
}

/// How the task behaves.
pub struct Settings {
    /// The node that it works for.
    pub node: NodeId,
    /// How often the kernel is inspected without an event.
    pub poll_interval: Duration,
    /// The machine that it works on.
    pub inventory: Box<dyn Inventory>,
}

/// Owns the kernel and the ledger.
pub struct Reconciler {
    pub(super) inbox: Arc<Inbox>,
    pub(super) settings: Settings,
    pub(super) node: Node,
    pub(super) drift: Drift,
    pub(super) flows: Flows,
    pub(super) dynamic_sets: HeldSets,
    pub(super) report: Report,
    pub(super) poll: Poll,
    pub(super) interfaces: Interfaces,
}

/// Inspections without an event.
pub(super) struct Poll {
    interval: Duration,
    next: Instant,
    count: u32,
    /// When foreign firewalls are looked at.
    foreign: Instant,
    /// Of the machine's own clock, which the controller compares with its own.
    wall: clock::Steps,
}

impl Poll {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
            count: 0,
            foreign: Instant::now() + FOREIGN_INTERVAL,
            wall: clock::Steps::default(),
        }
    }

    /// The next one is due then, unless it is due earlier.
    pub(super) fn at_latest(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }
}

impl Reconciler {
    /// Finishes what an earlier run left, and puts the confirmed ruleset in force.
    pub fn start(
        mut kernel: Box<dyn Kernel>,
        ledger: Ledger,
        settings: Settings,
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
    ) -> Self {
        let mut recovered = recovery::recover(&mut *kernel, &ledger);
        let warnings = log_recovery(&recovered);
        let failed = recovered.failed.take();
        let dynamic_sets = HeldSets::new(std::mem::take(&mut recovered.dynamic_sets));
        let node = Node::new(kernel, ledger, &mut recovered);
        let confirmed = node.confirmed.as_ref().map(|confirmed| confirmed.held);
        let mut task = Self {
            inbox,
            node,
            drift: Drift::new(
                failed.as_ref().map(|failed| chain(failed)),
                settings.poll_interval,
            ),
            flows: Flows::default(),
            dynamic_sets,
            report: Report {
                outbox,
                outcome: confirmed.map_or(Outcome::None, Outcome::Applied),
                warnings,
            },
            poll: Poll::new(settings.poll_interval),
            interfaces: Interfaces::default(),
            settings,
        };
        task.settings.inventory.refresh(&mut *task.node.kernel);
        task.read_foreign();
        task.follow_ssh();
        task.report
            .outbox
            .set_dynamic_sets(task.dynamic_sets.held());
        if failed.is_some() {
            task.check_drift(None);
        } else {
            task.drift.look_around(&mut task.node);
        }
        // Another program may have let something in while no agent ran, or the agent was killed
        // before it cut what it had just confirmed.
        task.flows.had_gap();
        if task.node.fallback.is_some() {
            task.report_fallback();
        }
        task.interfaces.set(task.settings.inventory.interfaces());
        task.report_facts();
        task.report_status(None, None);
        task
    }

    /// Works until the inbox asks it to stop. The confirmed rules stay.
    pub fn run(mut self) {
        loop {
            self.wake_for_beginnings();
            let requests = self.inbox.wait(self.deadline());
            systemd::alive();
            if let Some(confirmation) = requests.confirmation {
                self.confirm(confirmation);
            }
            for results in requests.probes {
                self.probes_ended(results);
            }
            if requests.stop {
                self.leave();
                return;
            }
            // Before anything else is done: whoever is locked out waits for this.
            self.end_trial_in_time();
            if let Some(controllers) = requests.controllers {
                self.keep_open(controllers);
            }
            if let Some(received) = requests.dynamic_sets {
                self.take_dynamic_sets(&received);
            }
            if let Some(why) = requests.dynamic_sets_failed {
                self.dynamic_sets.refuse(why);
                self.report_status(None, None);
            }
            if let Some(offered) = requests.offer {
                self.take_offer(offered);
            }
            if let Some(change) = requests.change {
                self.drift.note(change);
            }
            if requests.addresses_changed {
                self.read_interfaces();
                self.report_facts();
            }
            self.run_due();
        }
    }

    /// The kernel ends elements of sets by itself; those that begin are added by an inspection.
    fn wake_for_beginnings(&mut self) {
        let now = clock::unix(clock::now());
        let running = self.node.running();
        let next = running.and_then(|running| running.effective().next_beginning(now));
        if let Some(next) = next {
            let at = Instant::now() + Duration::from_secs(next.left(now).min(LONGEST_WAIT_S));
            self.poll.at_latest(at);
        }
    }

    fn deadline(&self) -> Instant {
        let deadlines = [
            Some(self.drift.deadline()),
            self.node.trial_state.deadline(),
            self.flows.deadline(),
            self.dynamic_sets.deadline(),
            systemd::watchdog_interval().map(|interval| Instant::now() + interval),
        ];
        let earliest = deadlines.into_iter().flatten().min();
        let poll = self.poll.next.min(self.poll.foreign);
        earliest.map_or(poll, |at| at.min(poll))
    }

    fn run_due(&mut self) {
        let now = Instant::now();
        if self.drift.is_due(now) {
            self.finish_dynamic_sets();
            let outbox = &self.report.outbox;
            let checked = self.drift.run_due(&mut self.node, outbox, now);
            self.drift_checked(checked);
        }
        if self.dynamic_sets.deadline().is_some() {
            self.drift.put_off_quick_look();
        } else {
            let outbox = &self.report.outbox;
            let checked = self.drift.look_quickly(&mut self.node, outbox, now);
            self.drift_checked(checked);
        }
        if self.dynamic_sets.deadline().is_some_and(|at| at <= now) {
            self.retry_dynamic_sets();
        }
        if self.poll.next <= now {
            self.poll(now);
        }
        if self.poll.foreign <= now {
            self.check_foreign(now);
        }
        self.flows.run_due(&mut self.node);
    }

    fn poll(&mut self, now: Instant) {
        self.poll.next = now + self.poll.interval;
        self.poll.count = self.poll.count.wrapping_add(1);
        if self.poll.wall.stepped(clock::now(), now) {
            self.report_status(None, None);
        }
        if self.node.trial_state.undo_is_due() {
            self.retry_undo();
        } else if self.node.is_in_fallback() {
            self.retry_confirmed();
        }
        self.keep_clock();
        self.drift.look_at_sets(&mut self.node);
        self.check_drift(None);
        if self.dynamic_sets.retry_keeping(&self.node, now) {
            self.report_status(None, None); // the facts follow
        }
        // A program of the machine may take a minute, and whoever is locked out waits for the undo.
        if self.poll.count.is_multiple_of(POLLS_PER_INVENTORY) && self.node.trial_state.is_settled()
        {
            self.settings.inventory.refresh(&mut *self.node.kernel);
            self.read_foreign();
        }
        if self.node.trial_state.is_settled() {
            self.follow_ssh();
            self.node.refresh_failsafe();
        }
        self.read_interfaces();
        self.report_facts();
    }

    /// Looks for whom foreign firewalls cut off. Whoever is locked out by a trial waits for its undo, not
    /// for this.
    fn check_foreign(&mut self, now: Instant) {
        self.poll.foreign = now + FOREIGN_INTERVAL;
        if self.node.trial_state.is_settled() && self.read_foreign() {
            self.report_facts();
        }
    }

    fn read_foreign(&mut self) -> bool {
        let controllers = self.node.failsafe.controllers.clone();
        let dynamic = self.dynamic_sets.digest_in_force(&self.node);
        let (kernel, running) = self.node.kernel_and_running();
        let protected = Protected {
            ruleset: running.map(Confirmed::effective),
            revision: (running.map(|running| running.held.digest), dynamic),
            controllers: &controllers,
        };
        self.settings.inventory.check_foreign(kernel, protected)
    }

    /// Finds out what listens, so that the failsafe chain keeps open to admins where SSH really is.
    pub(super) fn follow_ssh(&mut self) {
        let inventory = &mut self.settings.inventory;
        inventory.refresh_sockets(&mut *self.node.kernel);
        // Nothing found is no proof: a server may be about to start.
        if !inventory.ssh_ports().is_empty() {
            self.node.failsafe.ssh_ports = inventory.ssh_ports().to_vec();
        }
    }

    /// Inspects the kernel now, and repairs it.
    fn check_drift(&mut self, change: Option<&Change>) {
        self.finish_dynamic_sets();
        let checked = self
            .drift
            .check(&mut self.node, &self.report.outbox, change);
        self.drift_checked(checked);
    }

    fn drift_checked(&mut self, checked: Checked) {
        if checked.repaired {
            self.flows.had_gap();
        }
        if checked.fell_back {
            self.report_fallback();
        }
        if checked.inspected {
            self.report.send_drift(self.view());
        }
        if checked.obstacles_changed {
            self.report_facts();
        }
    }

    /// Before an inspection: dynamic sets that are not in force yet are not drift.
    fn finish_dynamic_sets(&mut self) {
        if self.dynamic_sets.deadline().is_some() {
            self.retry_dynamic_sets();
        }
    }

    fn retry_dynamic_sets(&mut self) {
        let _work = during(Work::DynamicSets);
        let in_force = !self.node.is_out_of_force();
        let written = self.dynamic_sets.retry(&mut self.node);
        self.sets_written(written);
        if in_force {
            self.report_status(None, None);
        }
    }

    fn take_dynamic_sets(&mut self, received: &ReceivedSets) {
        let _work = during(Work::DynamicSets);
        let site = &self.settings.node.site;
        let outbox = &self.report.outbox;
        let was_kept = self.dynamic_sets.unkept().is_none();
        let taken = self
            .dynamic_sets
            .take(received, site, &mut self.node, outbox);
        match taken {
            Taken::Refused => {}
            Taken::Unchanged(written) => self.sets_written(written),
            Taken::Changed(written) => {
                self.keep_clock();
                self.sets_written(written);
                reach(Step::Reported);
            }
        }
        self.report_status(None, None);
        if was_kept != self.dynamic_sets.unkept().is_none() {
            self.report_facts();
        }
    }

    fn sets_written(&mut self, written: Option<Written>) {
        let Some(Written { before, counted }) = written else {
            return;
        };
        match counted {
            Counted::Nothing => return reach(Step::FlowsCut),
            Counted::Some(newer) => self.drift.set_recounted(&newer),
            Counted::All(sets) => self.drift.set_counted(sets),
        }
        self.flows.cut_by_dynamic_sets(&mut self.node, before);
        reach(Step::FlowsCut);
    }

    /// Keeps the controller's clock for the next start, where it is not what was kept.
    fn keep_clock(&self) {
        if let Some(reading) = self.inbox.clock().to_keep()
            && let Err(error) = self.node.ledger.keep_clock(&reading)
        {
            warn!(
                reason = chain(&error),
                "the controller's clock is not kept for the next start"
            );
        }
    }

    fn keep_open(&mut self, controllers: Controllers) {
        let mut addresses = controllers.addresses;
        addresses.sort_unstable();
        addresses.dedup();
        self.node.failsafe.controllers = addresses;
        self.node.refresh_failsafe();
        // The link may have given up waiting.
        let _heard = controllers.done.send(());
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            node: &self.node,
            drift: &self.drift,
            flows: &self.flows,
            dynamic_sets: &self.dynamic_sets,
            interfaces: &self.interfaces,
        }
    }

    /// Reports the node's status, as an answer to the offer with `nonce` that came at `since`.
    pub(super) fn report_status(&mut self, nonce: Option<u64>, since: Option<Instant>) {
        self.report.send(self.view(), nonce, since);
    }

    /// Reads which interfaces there are, and reports at once if one that the rules name is gone or
    /// back.
    fn read_interfaces(&mut self) {
        let before = self.interfaces.missing(&self.node, Of::Members);
        self.interfaces.set(self.settings.inventory.interfaces());
        let now = self.interfaces.missing(&self.node, Of::Members);
        if now != before {
            if !now.is_empty() {
                let interfaces: Vec<&str> = now.iter().map(String::as_str).collect();
                let interfaces = interfaces.join(", ");
                warn!(interfaces, "interface of the cluster is missing");
            }
            self.report_status(None, None);
        }
    }

    pub(super) fn report_facts(&mut self) {
        let running = self.node.running();
        let filters = |family| running.is_none_or(|running| running.ruleset.filters(family));
        let families = Parts::ALL.families(filters);
        let inventory = &self.settings.inventory;
        let facts = inventory.facts(&*self.node.kernel, &families);
        let polling_only = self.inbox.polling_reason().map(|reason| {
            let interval = self.poll.interval;
            Warning::PollingOnly { interval, reason }
        });
        let missing = self.interfaces.missing(&self.node, Of::Others);
        let missing = missing
            .into_iter()
            .map(|interface| Warning::NoInterface { interface });
        let more = polling_only.into_iter().chain(missing).collect();
        self.report.send_facts(self.view(), facts, more);
    }
}

/// Logs what a start found. Returns what operators should know of it.
fn log_recovery(recovered: &Recovered) -> Vec<Warning> {
    let mut warnings = Vec::new();
    match &recovered.interrupted {
        Some(Interrupted::Known(journal)) => warnings.push(Warning::UndoneAtStart {
            generation: Some(journal.held.generation),
            reason: None,
        }),
        Some(Interrupted::Unknown(error)) => warnings.push(Warning::UndoneAtStart {
            generation: None,
            reason: Some(chain(error)),
        }),
        None => {}
    }
    if let Some(reason) = &recovered.lost
        && recovered.fallback.is_none()
    {
        warnings.push(Warning::RulesetLost {
            reason: reason.clone(),
        });
    }
    if let Some(failed) = &recovered.failed {
        error!(reason = chain(failed), "confirmed ruleset not in force");
    }
    if let Some(reason) = recovered.dynamic_sets.error() {
        error!(reason, "dynamic sets incomplete");
    }
    for warning in &warnings {
        warn!(reason = warning.to_string(), "start");
    }
    warnings
}
