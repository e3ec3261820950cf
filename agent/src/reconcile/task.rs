//! The loop around offers, trials and checks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Course;
use voipfleet_ruleset::iptables::{Failsafe, SetCount};

use super::contention::Contention;
use super::drift_records::Standing;
use super::dynamic_sets::LiveState;
use super::flows::Flows;
use super::status::Outcome;
use super::trial::{Trial, running};
use crate::enforcement::apply::{self, Own};
use crate::enforcement::management_rules::Fallback;
use crate::enforcement::recovery::{self, Interrupted, Recovered};
use crate::failpoint::{Work, during};
use crate::host::errors::chain;
use crate::host::{clock, systemd};
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Ledger};
use crate::mailbox::{Change, Controllers, Inbox, Outbox};

/// The machine is looked at every so many polls: some more programs to run, for what changes
/// once in years.
const POLLS_PER_FACTS: u32 = 20;

/// What the task reports of the machine itself.
pub trait Inventory: Send {
    /// Reads anew what seldom changes: programs of the machine may be run for it.
    fn refresh(&mut self, kernel: &mut dyn Kernel);

    /// What was read last, with what costs nothing to read now.
    fn facts(&self, kernel: &dyn Kernel) -> pb::NodeFacts;
}

/// How the task behaves.
pub struct Settings {
    /// Who this node is.
    pub own: Own,
    /// How often the kernel is read although nothing was announced.
    pub poll_interval: Duration,
    /// The machine on which it works.
    pub inventory: Box<dyn Inventory>,
}

/// Owns the kernel and the ledger.
pub struct Reconciler {
    pub(super) kernel: Box<dyn Kernel>,
    pub(super) ledger: Ledger,
    pub(super) settings: Settings,
    pub(super) inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    /// Decides; what it decides on is in the two fields below it.
    pub(super) course: Course,
    pub(super) confirmed: Option<Confirmed>,
    pub(super) trial: Option<Trial>,
    /// Where we dial.
    pub(super) failsafe: Failsafe,
    pub(super) outcome: Outcome,
    pub(super) drift: pb::DriftState,
    /// What was last counted in the sets of what runs.
    pub(super) sets: Option<SetCount>,
    pub(super) steps: clock::Steps,
    pub(super) contention: Contention,
    pub(super) standing: Standing,
    /// Why the last repair left something; empty: it did not.
    pub(super) unrepaired: String,
    pub(super) own_warnings: Vec<String>,
    /// Why the confirmed ruleset was not in force at the start; until it is.
    pub(super) not_in_force: Option<String>,
    pub(super) flows: Flows,
    pub(super) live: LiveState,
    /// What runs in place of the confirmed ruleset, but for a trial.
    pub(super) fallback: Option<Fallback>,
    /// Changes that are not looked at yet, because of a fight.
    pub(super) pending: Option<Change>,
    pub(super) last_look: Option<Instant>,
    pub(super) next_poll: Instant,
    polls: u32,
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
        let recovered = recovery::recover(&mut *kernel, &ledger);
        let mut task = Self {
            own_warnings: report(&recovered),
            not_in_force: recovered.failed.as_ref().map(|failed| {
                let why = chain(failed);
                format!("the confirmed ruleset is not in force: {why}")
            }),
            failsafe: recovered
                .confirmed
                .as_ref()
                .map(|confirmed| confirmed.failsafe.clone())
                .unwrap_or_default(),
            outcome: match &recovered.confirmed {
                Some(confirmed) => Outcome::applied(confirmed.held),
                None => Outcome::default(),
            },
            course: recovered.course,
            confirmed: recovered.confirmed,
            trial: None,
            kernel,
            ledger,
            inbox,
            outbox,
            drift: pb::DriftState::Clean,
            sets: None,
            steps: clock::Steps::default(),
            contention: Contention::default(),
            standing: Standing::new(clock::unix_ms(clock::now())),
            unrepaired: String::new(),
            pending: None,
            last_look: None,
            flows: Flows::default(),
            live: LiveState::found(recovered.live),
            fallback: recovered.fallback,
            next_poll: Instant::now() + settings.poll_interval,
            polls: 0,
            settings,
        };
        task.settings.inventory.refresh(&mut *task.kernel);
        task.outbox.holds_live(task.live.held());
        task.steps.stepped(clock::now(), Instant::now());
        if recovered.failed.is_some() {
            task.look(None);
        } else {
            task.count_sets();
        }
        // Others may have let something in while nobody looked, or the agent was killed before it
        // cut what it had just confirmed.
        task.flows.had_gap();
        task.say_fallback();
        task.tell_facts();
        task.tell(0, None);
        task
    }

    /// Works until the inbox says stop. The confirmed rules stay.
    pub fn run(mut self) {
        loop {
            let wake = self.inbox.wait(self.deadline());
            systemd::alive();
            if let Some(confirmation) = wake.confirmation {
                self.confirm(confirmation);
            }
            for probed in wake.probed {
                self.probed(probed);
            }
            if wake.stop {
                self.leave();
                return;
            }
            // Before anything else is done: what is locked out waits for this.
            self.end_trial_in_time();
            if let Some(controllers) = wake.controllers {
                self.keep_open(controllers);
            }
            if let Some(noticed) = wake.live {
                self.hear_live(&noticed);
            }
            if let Some(why) = wake.no_live {
                self.refuse_live(why);
            }
            if let Some(offered) = wake.offer {
                self.take(offered);
            }
            if let Some(change) = wake.change {
                self.note(change);
            }
            let now = Instant::now();
            if self.contention.deadline().is_some_and(|at| at <= now) {
                // What was announced meanwhile names whom it is by.
                let change = self.pending.take();
                self.look(change.as_ref());
            }
            if let Some(change) = self.take_due(now) {
                self.look(Some(&change));
            }
            if self.live.deadline().is_some_and(|at| at <= now) {
                self.finish_live();
            }
            if self.next_poll <= now {
                self.poll(now);
            }
            self.look_at_flows();
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.next_poll;
        for at in [
            self.contention.deadline(),
            self.next_look(),
            self.course.deadline(),
            self.flows.deadline(),
            self.live.deadline(),
        ] {
            deadline = at.map_or(deadline, |at| deadline.min(at));
        }
        if let Some(interval) = systemd::watchdog_interval() {
            deadline = deadline.min(Instant::now() + interval);
        }
        deadline
    }

    fn poll(&mut self, now: Instant) {
        self.next_poll = now + self.settings.poll_interval;
        self.polls = self.polls.wrapping_add(1);
        if self.course.undo_is_due() {
            self.undo_again();
        } else if self.trial.is_none() && self.fallback.is_some() {
            self.heal();
        }
        self.look(None);
        // A tool of the machine may take a minute, and whoever is locked out waits for the undo.
        if self.polls.is_multiple_of(POLLS_PER_FACTS) && self.course.is_settled() {
            self.settings.inventory.refresh(&mut *self.kernel);
        }
        self.tell_facts();
    }

    fn keep_open(&mut self, controllers: Controllers) {
        let mut addresses = controllers.addresses;
        addresses.sort_unstable();
        addresses.dedup();
        self.failsafe = Failsafe {
            controllers: addresses,
        };
        self.refresh_failsafe();
        // The one who asked may have given up waiting.
        let _heard = controllers.done.send(());
    }

    /// The failsafe chain of what runs follows where we dial.
    pub(super) fn refresh_failsafe(&mut self) {
        if self.trial.is_none() && self.fallback.is_some() {
            return; // its replies to the controllers pass as every reply does
        }
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        if running.failsafe == self.failsafe {
            return;
        }
        let _work = during(Work::Refresh);
        let failsafe = self.failsafe.clone();
        let refreshed = apply::refresh_failsafe(&mut *self.kernel, running, failsafe)
            .map_err(apply::Failure::from)
            .and_then(|refreshed| {
                if let Some(trial) = &mut self.trial {
                    trial.candidate = refreshed;
                } else {
                    self.ledger.confirm(&refreshed)?;
                    self.confirmed = Some(refreshed);
                }
                Ok(())
            });
        if let Err(error) = refreshed {
            // The check puts the old chain back; the next dial tries again.
            warn!(reason = chain(&error), "the failsafe chain was not renewed");
        }
    }
}

/// Logs what a start found, and gives what operators should know of it.
fn report(recovered: &Recovered) -> Vec<String> {
    let mut warnings = Vec::new();
    match &recovered.interrupted {
        Some(Interrupted::Known(journal)) => warnings.push(format!(
            "the agent was stopped before generation {} was confirmed; it went back",
            journal.held.generation
        )),
        Some(Interrupted::Unknown(error)) => warnings.push(format!(
            "the agent was stopped before a ruleset was confirmed; it went back: {}",
            chain(error)
        )),
        None => {}
    }
    if let Some(lost) = &recovered.lost
        && recovered.fallback.is_none()
    {
        warnings.push(format!(
            "the confirmed ruleset is lost until the next push: {lost}"
        ));
    }
    if let Some(failed) = &recovered.failed {
        error!(
            reason = chain(failed),
            "the confirmed ruleset is not in force"
        );
    }
    for warning in &warnings {
        warn!(reason = warning, "at the start");
    }
    warnings
}
