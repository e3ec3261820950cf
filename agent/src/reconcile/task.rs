//! The loop around apply and check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, info_span, warn};
use voipfleet_common::drift::Difference;
use voipfleet_common::iptables::Failsafe;
use voipfleet_common::session::{Answer, Held, judge};
use voipfleet_proto::v1 as pb;

use super::apply::{self, Own, Prepared, Rejection};
use super::contention::Contention;
use super::standing::Standing;
use super::{Content, Controllers, Inbox, Offered, Outbox};
use crate::boot::{self, Interrupted, Recovered};
use crate::errors::chain;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, Ledger};
use crate::{clock, facts, service};

/// The other backend is asked for its rules every so many polls: two more programs to run,
/// for something that changes once in years.
const POLLS_PER_FACTS: u32 = 20;

/// How the task behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who this node is.
    pub own: Own,
    /// How often the kernel is read although nothing was announced.
    pub poll_interval: Duration,
}

/// The node's own view of an offer's fate.
#[derive(Debug, Clone)]
struct Outcome {
    held: Option<Held>,
    state: pb::NodeState,
    error: String,
}

/// Owns the kernel and the ledger.
pub struct Reconciler {
    pub(super) kernel: Box<dyn Kernel>,
    ledger: Ledger,
    settings: Settings,
    inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) confirmed: Option<Confirmed>,
    failsafe: Failsafe,
    outcome: Outcome,
    /// A change that could not be undone yet.
    pub(super) undo_is_due: bool,
    pub(super) drift: pb::DriftState,
    pub(super) contention: Contention,
    pub(super) standing: Standing,
    pub(super) last_repair: Vec<Difference>,
    own_warnings: Vec<String>,
    /// Why the confirmed ruleset was not in force at the start; until it is.
    pub(super) not_in_force: Option<String>,
    machine_warnings: Vec<String>,
    next_poll: Instant,
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
        let recovered = boot::recover(&mut *kernel, &ledger);
        let mut task = Self {
            own_warnings: report(&recovered),
            not_in_force: recovered.failed.as_ref().map(|failed| {
                let why = chain(failed);
                format!("the confirmed ruleset is not in force: {why}")
            }),
            undo_is_due: recovered.failed.is_some() && recovered.interrupted.is_some(),
            failsafe: recovered
                .confirmed
                .as_ref()
                .map(|confirmed| confirmed.failsafe.clone())
                .unwrap_or_default(),
            outcome: Outcome {
                held: recovered.confirmed.as_ref().map(|confirmed| confirmed.held),
                state: match recovered.confirmed {
                    Some(_) => pb::NodeState::Applied,
                    None => pb::NodeState::Unspecified,
                },
                error: String::new(),
            },
            confirmed: recovered.confirmed,
            kernel,
            ledger,
            inbox,
            outbox,
            drift: pb::DriftState::Clean,
            contention: Contention::default(),
            standing: Standing::new(clock::unix_ms(clock::now())),
            last_repair: Vec::new(),
            machine_warnings: Vec::new(),
            next_poll: Instant::now() + settings.poll_interval,
            polls: 0,
            settings,
        };
        task.machine_warnings = facts::warnings(&mut *task.kernel);
        if recovered.failed.is_some() {
            task.look(None);
        }
        task.tell_facts();
        task.tell(0, None);
        task
    }

    /// Works until the inbox says stop. The rules stay.
    pub fn run(mut self) {
        loop {
            let wake = self.inbox.wait(self.deadline());
            service::alive();
            if wake.stop {
                return;
            }
            if let Some(controllers) = wake.controllers {
                self.keep_open(controllers);
            }
            if let Some(offered) = wake.offer {
                self.take(offered);
            }
            let now = Instant::now();
            if let Some(change) = wake.change {
                self.look(Some(&change));
            } else if self.contention.deadline().is_some_and(|at| at <= now) {
                self.look(None);
            }
            if self.next_poll <= now {
                self.poll(now);
            }
        }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.next_poll;
        if let Some(at) = self.contention.deadline() {
            deadline = deadline.min(at);
        }
        if let Some(interval) = service::watchdog_interval() {
            deadline = deadline.min(Instant::now() + interval);
        }
        deadline
    }

    fn poll(&mut self, now: Instant) {
        self.next_poll = now + self.settings.poll_interval;
        self.polls = self.polls.wrapping_add(1);
        if self.undo_is_due {
            self.undo();
        }
        self.look(None);
        if self.polls.is_multiple_of(POLLS_PER_FACTS) {
            self.machine_warnings = facts::warnings(&mut *self.kernel);
        }
        self.tell_facts();
    }

    fn held(&self) -> Option<Held> {
        self.confirmed.as_ref().map(|confirmed| confirmed.held)
    }

    // --- offers ---

    fn take(&mut self, offered: Offered) {
        let span = info_span!("apply", generation = offered.held.generation);
        let _inside = span.enter();
        let (held, nonce, received) = (offered.held, offered.nonce, offered.received);
        let outcome = match judge(self.held(), held) {
            Answer::Same => Outcome::applied(held),
            Answer::Renumber => self.renumber(held),
            Answer::Refuse(refusal) => Outcome::rejected(held, refusal.to_string()),
            Answer::Take => self.apply(offered),
        };
        if outcome.state == pb::NodeState::Applied {
            info!(digest = %held.digest.short(), "applied");
        } else {
            warn!(reason = outcome.error, "not applied");
        }
        self.outcome = outcome;
        self.tell(nonce, Some(received));
        self.tell_facts();
    }

    /// The same content under a newer number.
    fn renumber(&mut self, held: Held) -> Outcome {
        let Some(confirmed) = &mut self.confirmed else {
            return Outcome::rejected(held, "nothing is confirmed here".to_owned());
        };
        let before = std::mem::replace(&mut confirmed.held, held);
        match self.ledger.confirm(confirmed) {
            Ok(()) => Outcome::applied(held),
            Err(error) => {
                confirmed.held = before;
                Outcome::failed(held, chain(&error))
            }
        }
    }

    fn apply(&mut self, offered: Offered) -> Outcome {
        let held = offered.held;
        self.outcome = Outcome {
            held: Some(held),
            state: pb::NodeState::Applying,
            error: String::new(),
        };
        self.tell(offered.nonce, Some(offered.received));
        let prepared = match self.prepare(offered.nonce, held, offered.content) {
            Ok(prepared) => prepared,
            Err(rejection) => return Outcome::rejected(held, chain(&rejection)),
        };
        let untried = prepared.untried().map(|why| {
            let why = chain(why);
            format!("rulesets are not tried before they are loaded: {why}")
        });
        let done = prepared
            .enforce(&mut *self.kernel)
            .map_err(apply::Failure::from)
            .and_then(|confirmed| {
                self.ledger.confirm(&confirmed)?;
                Ok(confirmed)
            });
        match done {
            Ok(confirmed) => {
                if let Err(error) = self.ledger.settle() {
                    // The next start sees that the journal speaks of what is confirmed.
                    warn!(reason = chain(&error), "the journal stays behind");
                }
                self.confirmed = Some(confirmed);
                self.undo_is_due = false;
                self.own_warnings = untried.into_iter().collect();
                self.is_clean_now();
                Outcome::applied(held)
            }
            Err(failure) => {
                let mut error = chain(&failure);
                if let Some(undo) = self.undo() {
                    error.push_str("; going back failed too, and is tried again: ");
                    error.push_str(&undo);
                }
                Outcome::failed(held, error)
            }
        }
    }

    fn prepare(&mut self, nonce: u64, held: Held, content: Content) -> Result<Prepared, Rejection> {
        let content = match content {
            Content::Bytes(bytes) => bytes,
            Content::Missing(why) => return Err(Rejection::Missing(why)),
            Content::NotNeeded => {
                return Err(Rejection::Missing("it was not asked for".to_owned()));
            }
        };
        let ruleset = apply::check_content(&self.settings.own, held, &content)?;
        drop(content); // a large one need not stay beside what was read from it
        let failsafe = self.failsafe.clone();
        let prepared = Prepared::new(&*self.kernel, held, ruleset, failsafe)?;
        prepared.begin(&self.ledger, nonce, clock::now())?;
        Ok(prepared)
    }

    /// Goes back to the confirmed ruleset, or to nothing of ours. Gives what went wrong.
    fn undo(&mut self) -> Option<String> {
        let done = apply::put_back(&mut *self.kernel, &self.ledger, self.confirmed.as_mut());
        self.undo_is_due = done.is_err();
        let error = chain(&done.err()?);
        error!(reason = error, "the kernel could not be put back");
        Some(error)
    }

    // --- the failsafe chain ---

    fn keep_open(&mut self, controllers: Controllers) {
        let mut addresses = controllers.addresses;
        addresses.sort_unstable();
        addresses.dedup();
        let failsafe = Failsafe {
            controllers: addresses,
        };
        if failsafe != self.failsafe {
            self.failsafe = failsafe;
            self.refresh_failsafe();
        }
        // The one who asked may have given up waiting.
        let _heard = controllers.done.send(());
    }

    fn refresh_failsafe(&mut self) {
        let Some(confirmed) = &self.confirmed else {
            return;
        };
        if confirmed.failsafe == self.failsafe {
            return;
        }
        let kernel = &mut *self.kernel;
        let failsafe = self.failsafe.clone();
        match apply::refresh_failsafe(kernel, &self.ledger, confirmed, failsafe) {
            Ok(confirmed) => self.confirmed = Some(confirmed),
            // The check puts the old chain back; the next dial tries again.
            Err(error) => {
                self.failsafe = confirmed.failsafe.clone();
                warn!(reason = chain(&error), "the failsafe chain was not renewed");
            }
        }
    }

    // --- what the controller hears ---

    pub(super) fn tell(&mut self, nonce: u64, since: Option<Instant>) {
        let confirmed = self.held();
        let digest = |held: Option<Held>| {
            held.map(|held| held.digest.as_bytes().to_vec())
                .unwrap_or_default()
        };
        let elapsed = since.map_or(Duration::ZERO, |since| since.elapsed());
        self.outbox.status(pb::NodeStatus {
            nonce,
            generation: self.outcome.held.map_or(0, |held| held.generation),
            digest: digest(self.outcome.held),
            state: self.outcome.state.into(),
            error: self.outcome.error.clone(),
            drift: self.drift.into(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            confirmed_generation: confirmed.map_or(0, |held| held.generation),
            confirmed_digest: digest(confirmed),
        });
    }

    fn tell_facts(&mut self) {
        let mut facts = facts::gather(&*self.kernel);
        facts.warnings.clone_from(&self.own_warnings);
        facts.warnings.extend(self.not_in_force.clone());
        facts.warnings.extend(self.machine_warnings.iter().cloned());
        if self
            .confirmed
            .as_ref()
            .is_some_and(|confirmed| confirmed.canonical.read_back)
        {
            facts.warnings.push(
                "drift is compared with what the kernel printed after the apply: no scratch \
                 network namespace can be made here"
                    .to_owned(),
            );
        }
        let dropped = self.outbox.dropped();
        if dropped > 0 {
            facts.warnings.push(format!(
                "{dropped} drift records were dropped while the controller was away"
            ));
        }
        self.outbox.facts(facts);
    }
}

impl Outcome {
    fn applied(held: Held) -> Self {
        Self {
            held: Some(held),
            state: pb::NodeState::Applied,
            error: String::new(),
        }
    }

    fn rejected(held: Held, error: String) -> Self {
        Self {
            held: Some(held),
            state: pb::NodeState::Rejected,
            error,
        }
    }

    fn failed(held: Held, error: String) -> Self {
        Self {
            held: Some(held),
            state: pb::NodeState::Failed,
            error,
        }
    }
}

/// Logs what a start found, and gives what operators should know of it.
fn report(recovered: &Recovered) -> Vec<String> {
    let mut warnings = Vec::new();
    match &recovered.interrupted {
        Some(Interrupted::Known(journal)) => warnings.push(format!(
            "the agent was stopped while it applied generation {}; it went back",
            journal.held.generation
        )),
        Some(Interrupted::Unknown(error)) => warnings.push(format!(
            "the agent was stopped in an apply; it went back: {}",
            chain(error)
        )),
        None => {}
    }
    if let Some(lost) = &recovered.lost {
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
