//! The rollout as a state machine: (record, what the nodes report, time passed) → record.
//!
//! Every decision is stored before it takes effect, so that the machine may run again at any
//! time without deciding twice. It knows no clock: [`RolloutRecord::tick`] lets time pass, and
//! `at_ms` only dates what people read.

use std::collections::BTreeMap;

use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

use super::record::{ForwardResult, NodeProgress, Phase, RolloutRecord, RolloutState};
use crate::target::TargetRecord;

/// How long a connected node may take beyond its trial, milliseconds: to load the ruleset, to
/// roll back if the trial fails, and to report that over another connection.
pub const ANSWER_MS: u64 = 30_000;

/// What the controller sees of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub presence: Presence,
    /// About the generation that the rollout brings, or goes back to.
    pub report: NodeReport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Connected,
    /// Between two connections, perhaps: expected within so many milliseconds.
    Returning(u64),
    Offline,
    /// The node was deleted.
    Deleted,
}

/// What a node reports of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeReport {
    /// Nothing yet, or that it is applying it.
    Silent,
    /// It runs it, and cut so many flows for that.
    Runs(u64),
    /// It does not run it: the phase that follows, and the node's reason.
    Refused(Phase, String),
    /// It has a later generation: this one can no longer reach it.
    Superseded(Generation),
}

/// Why an operator's command about a rollout is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefusal {
    #[error("the rollout of generation {0} is {1}; push again to start a new one")]
    Ended(Generation, &'static str),
    #[error("the rollout of generation {0} is being rolled back; wait for its end")]
    GoingBack(Generation),
    /// It was restored from a backup while it went back.
    #[error("the rollout of generation {0} was being rolled back, and is held")]
    HeldBack(Generation),
    /// No node ran anything before it.
    #[error("before generation {0} the nodes ran nothing: there is nothing to roll back to")]
    NothingBefore(Generation),
    #[error("the rollout of generation {0} is done")]
    Done(Generation),
}

impl RolloutRecord {
    /// The generation that its nodes are brought to now.
    pub fn goal(&self) -> Generation {
        let back = self.back.filter(|_| self.goes_back());
        back.unwrap_or(self.generation)
    }

    pub fn working(&self) -> usize {
        self.count(Phase::is_working)
    }

    pub fn failures(&self) -> usize {
        self.count(Phase::is_failure)
    }

    /// Counts the nodes in a phase of which `is` holds.
    pub fn count(&self, is: impl Fn(Phase) -> bool) -> usize {
        self.nodes.values().filter(|step| is(step.phase)).count()
    }

    /// How many nodes may be at work now.
    pub fn limit(&self) -> usize {
        if self.released <= 1 && self.stages.canary > 0 {
            self.stages.canary
        } else {
            self.stages.batch
        }
    }

    /// What one of its nodes should run now; none: nothing.
    pub fn target(&self, step: &NodeProgress) -> Option<Generation> {
        match self.stage() {
            RolloutState::RollingBack | RolloutState::RolledBack => {
                let untouched = step.before.is_none() && step.phase == Phase::Withdrawn;
                (!untouched).then(|| self.goal())
            }
            RolloutState::Done => Some(self.generation),
            RolloutState::Running | RolloutState::Paused => match step.phase {
                Phase::Waiting | Phase::Offline { .. } => step.before,
                _ => Some(self.generation),
            },
            RolloutState::Halted | RolloutState::Aborted => match step.phase {
                Phase::Applied => Some(self.generation),
                _ => step.before,
            },
        }
    }

    /// The targets of the site during and after this rollout.
    pub fn targets(&self) -> TargetRecord {
        let newest = self.newest();
        TargetRecord {
            generation: newest,
            nodes: self
                .nodes
                .iter()
                .map(|(name, step)| (name.clone(), self.target(step)))
                .filter(|(_, target)| *target != Some(newest))
                .collect(),
        }
    }

    /// The site's newest generation.
    pub fn newest(&self) -> Generation {
        self.goal().max(self.generation)
    }

    /// Lets time pass: deadlines, grace and the pause before the next batch come closer. A
    /// rollout that was restored from a backup does not age.
    pub fn tick(&mut self, elapsed_ms: u64) {
        if self.held.is_some() || self.state.has_ended() {
            return;
        }
        let pass = |left: &mut u64| *left = left.saturating_sub(elapsed_ms);
        if let Some(left_ms) = &mut self.pause_left_ms {
            pass(left_ms);
        }
        for step in self.nodes.values_mut() {
            match &mut step.phase {
                Phase::Working { left_ms } => pass(left_ms),
                Phase::Offline { grace_ms } => pass(grace_ms),
                _ => {}
            }
        }
    }

    /// Goes as far as it can now. True: something changed, and must be stored before it takes
    /// effect; then it is called again. `next` is the number of a generation that would hold what
    /// the nodes ran before.
    pub fn advance(
        &mut self,
        observed: &BTreeMap<NodeName, Observation>,
        at_ms: u64,
        next: Generation,
    ) -> bool {
        if self.held.is_some() {
            return false;
        }
        let before = self.clone();
        self.judge(observed, at_ms);
        match self.state {
            RolloutState::Running => {
                if self.failures() > self.stages.max_failures {
                    self.fail(at_ms, next);
                } else {
                    self.release(observed, at_ms);
                    self.finish(at_ms);
                    self.reason = self.awaited();
                }
            }
            RolloutState::Paused => {
                if self.failures() > self.stages.max_failures {
                    self.fail(at_ms, next);
                }
            }
            RolloutState::RollingBack => {
                self.release_back(observed, at_ms);
                if self.count(is_pending) == 0 {
                    self.state = RolloutState::RolledBack;
                    self.ended_ms = Some(at_ms);
                    let not_back = self.not_back();
                    if !not_back.is_empty() {
                        let names = not_back.join(", ");
                        self.reason = format!("{}; did not go back: {names}", self.reason);
                    }
                }
            }
            RolloutState::Halted
            | RolloutState::RolledBack
            | RolloutState::Done
            | RolloutState::Aborted => {}
        }
        *self != before
    }

    /// The newest generation that its nodes had before; none: they had none.
    pub fn before(&self) -> Option<Generation> {
        self.nodes.values().filter_map(|step| step.before).max()
    }

    /// Another run of the controller continues it: how long it was gone is not the nodes' fault.
    /// They have `return_ms` to reconnect, and then the time that they always have. False: no
    /// node is at work.
    pub fn rearm(&mut self, return_ms: u64) -> bool {
        let again = self.time_to_answer_ms().saturating_add(return_ms);
        let mut any = false;
        for step in self.nodes.values_mut() {
            if let Phase::Working { left_ms } = &mut step.phase {
                *left_ms = again.max(*left_ms);
                any = true;
            }
        }
        any
    }

    /// After how many milliseconds it must run again though no node reports anything.
    pub fn wakes_after_ms(&self) -> Option<u64> {
        if self.state.has_ended() || self.held.is_some() {
            return None;
        }
        let nodes = self.nodes.values().filter_map(|step| match step.phase {
            Phase::Working { left_ms } => Some(left_ms),
            Phase::Offline { grace_ms } => Some(grace_ms),
            _ => None,
        });
        let running = self.state == RolloutState::Running;
        let pause = self.pause_left_ms.filter(|_| running);
        nodes.chain(pause).filter(|left| *left > 0).min()
    }

    /// Pauses it: released nodes finish, no further node is released.
    pub fn pause(&mut self, by: &str) -> Result<(), CommandRefusal> {
        self.must_go_on()?;
        if self.held.is_some() {
            return Ok(());
        }
        self.state = RolloutState::Paused;
        self.reason = format!("paused by {by}");
        Ok(())
    }

    /// Continues a paused or held rollout.
    pub fn resume(&mut self) -> Result<(), CommandRefusal> {
        self.must_go_on()?;
        self.state = RolloutState::Running;
        self.reason.clear();
        if let Some(stage) = self.held.take() {
            self.state = stage;
            // How long it was held is no node's fault.
            self.rearm(0);
        }
        Ok(())
    }

    /// Ends it. Nodes keep what they run; with `back`, the number of a generation that holds what
    /// they ran before, they go back to that.
    pub fn abort(
        &mut self,
        by: &str,
        at_ms: u64,
        back: Option<Generation>,
    ) -> Result<(), CommandRefusal> {
        if self.held == Some(RolloutState::RollingBack) {
            return Err(CommandRefusal::HeldBack(self.generation));
        }
        self.held = None;
        match self.state {
            RolloutState::Running | RolloutState::Paused => {}
            RolloutState::Halted | RolloutState::Aborted if back.is_some() => {}
            RolloutState::Done => return Err(CommandRefusal::Done(self.generation)),
            _ => self.must_go_on()?,
        }
        if back.is_some() && self.before().is_none() {
            return Err(CommandRefusal::NothingBefore(self.generation));
        }
        self.reason = format!("aborted by {by}");
        match back {
            Some(back) => self.go_back(at_ms, back),
            None => self.stop(at_ms, RolloutState::Aborted),
        }
        Ok(())
    }

    fn must_go_on(&self) -> Result<(), CommandRefusal> {
        match self.state {
            RolloutState::Running | RolloutState::Paused => Ok(()),
            RolloutState::RollingBack => Err(CommandRefusal::GoingBack(self.generation)),
            ended => Err(CommandRefusal::Ended(self.generation, ended.as_str())),
        }
    }

    /// Takes up what the nodes report.
    fn judge(&mut self, observed: &BTreeMap<NodeName, Observation>, at_ms: u64) {
        let stopped = matches!(self.state, RolloutState::Halted | RolloutState::Aborted);
        let going = !self.state.has_ended();
        let done = self.state == RolloutState::Done;
        if !stopped && !going && !done {
            return;
        }
        let time_to_answer_ms = self.time_to_answer_ms();
        for (name, step) in &mut self.nodes {
            let Some(seen) = observed.get(name) else {
                continue;
            };
            if stopped {
                // Confirmed in the moment of the halt: what it runs becomes what it should run.
                if let NodeReport::Runs(cut) = seen.report
                    && step.phase != Phase::Applied
                {
                    step.enter(Phase::Applied, at_ms, String::new());
                    step.flows_cut = cut;
                }
                continue;
            }
            if done {
                step.judge_late(seen, at_ms);
            } else {
                step.judge(seen, time_to_answer_ms, at_ms);
            }
        }
    }

    fn fail(&mut self, at_ms: u64, next: Generation) {
        self.reason = self.first_failure();
        if self.stages.roll_back && self.before().is_some() {
            self.go_back(at_ms, next);
        } else {
            self.stop(at_ms, RolloutState::Halted);
        }
    }

    fn first_failure(&self) -> String {
        let failures = self.failures();
        let first = self
            .nodes
            .iter()
            .filter(|(_, step)| step.phase.is_failure())
            .min_by_key(|(_, step)| step.at_ms);
        let most = self.stages.max_failures;
        let limit = format!("{failures} failed, and max_failures is {most}");
        match first {
            Some((name, step)) if step.error.is_empty() => format!("{name} failed; {limit}"),
            Some((name, step)) => format!("{name}: {}; {limit}", step.error),
            None => limit,
        }
    }

    /// Ends it where it is.
    fn stop(&mut self, at_ms: u64, state: RolloutState) {
        self.state = state;
        self.ended_ms = Some(at_ms);
        for step in self.nodes.values_mut() {
            if step.phase.is_working() {
                let why = "the rollout ended while it was at work".to_owned();
                step.enter(Phase::Withdrawn, at_ms, why);
            }
        }
    }

    /// Brings every node to the generation that holds what it ran before.
    fn go_back(&mut self, at_ms: u64, back: Generation) {
        self.forward_tally = Some(self.tally());
        self.state = RolloutState::RollingBack;
        self.back = Some(back);
        self.ended_ms = None;
        for step in self.nodes.values_mut() {
            step.refused_before = None;
            step.forward = Some(ForwardResult {
                phase: step.phase,
                error: std::mem::take(&mut step.error),
                took_ms: step.took_ms(at_ms),
            });
            step.began_ms = None;
            // One that was never given anything, and did not take this, has nothing to run.
            let nothing = step.before.is_none() && step.phase != Phase::Applied;
            match step.phase {
                Phase::Deleted => {}
                _ if nothing => step.phase = Phase::Withdrawn,
                _ => step.phase = Phase::Offline { grace_ms: 0 },
            }
            step.at_ms = at_ms;
        }
    }

    /// Nodes of a rollback are all released at once: what they get has run on them before.
    fn release_back(&mut self, observed: &BTreeMap<NodeName, Observation>, at_ms: u64) {
        let left_ms = self.time_to_answer_ms();
        for (name, step) in &mut self.nodes {
            if let (Phase::Offline { .. }, Some(seen)) = (step.phase, observed.get(name)) {
                match seen.presence {
                    Presence::Connected => {
                        step.enter(Phase::Working { left_ms }, at_ms, String::new());
                    }
                    Presence::Returning(within_ms) => step.wait(within_ms),
                    Presence::Offline | Presence::Deleted => {}
                }
            }
        }
    }

    fn time_to_answer_ms(&self) -> u64 {
        self.stages.confirm_within_ms.saturating_add(ANSWER_MS)
    }

    /// Releases what may be released now.
    fn release(&mut self, observed: &BTreeMap<NodeName, Observation>, at_ms: u64) {
        // Those that were offline when their batch came, and are back.
        let passed: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|(_, step)| step.phase.is_offline())
            .map(|(name, _)| name.clone())
            .collect();
        for name in passed {
            self.give_turn(&name, observed, at_ms);
        }
        while self.released < self.order.len() {
            if self.count(is_pending) > 0 {
                return;
            }
            // With no node left that could prove it, the rest only changes numbers.
            if self.released == 1 && !self.is_proven() && self.has_open() {
                self.replace_canary(observed, at_ms);
                return;
            }
            let pauses = self.gave_turns() && self.changes_more();
            let pause_ms = if pauses { self.stages.pause_ms } else { 0 };
            if *self.pause_left_ms.get_or_insert(pause_ms) > 0 {
                return;
            }
            let batch = self.order.get(self.released).cloned().unwrap_or_default();
            self.released += 1;
            self.pause_left_ms = None;
            for name in &batch {
                if let Some(step) = self.nodes.get_mut(name)
                    && step.phase == Phase::Waiting
                {
                    step.enter(Phase::Offline { grace_ms: 0 }, at_ms, String::new());
                }
                self.give_turn(name, observed, at_ms);
            }
        }
    }

    /// Whether the last batch had a node that was given its turn.
    fn gave_turns(&self) -> bool {
        let last = self.released.checked_sub(1);
        let batch = last.and_then(|last| self.order.get(last));
        batch.into_iter().flatten().any(|name| {
            let step = self.nodes.get(name);
            step.is_some_and(|step| !matches!(step.phase, Phase::Offline { .. } | Phase::Deleted))
        })
    }

    /// Whether the next batch changes more than a number.
    fn changes_more(&self) -> bool {
        let changes = |name| self.nodes.get(name).is_some_and(|step| !step.unchanged);
        let next = self.order.get(self.released);
        next.is_some_and(|next| next.iter().any(changes))
    }

    /// Every node had its turn: those that are offline get the generation when they are back,
    /// if a canary has shown that it can be run.
    fn finish(&mut self, at_ms: u64) {
        let waiting = self.released < self.order.len();
        let proven = self.is_proven() || !self.has_open();
        if !waiting && proven && self.count(is_pending) == 0 {
            self.state = RolloutState::Done;
            self.ended_ms = Some(at_ms);
        }
    }

    /// A node whose batch has come gets the generation if it is connected and there is room.
    pub(super) fn give_turn(
        &mut self,
        name: &NodeName,
        observed: &BTreeMap<NodeName, Observation>,
        at_ms: u64,
    ) {
        let changing = |step: &NodeProgress| step.phase.is_working() && !step.unchanged;
        let at_work = self.nodes.values().filter(|step| changing(step)).count();
        let left_ms = self.time_to_answer_ms();
        let limit = self.limit();
        let Some(step) = self.nodes.get_mut(name) else {
            return;
        };
        if !step.phase.is_offline() {
            return;
        }
        match observed.get(name).map(|seen| seen.presence) {
            // Where only the number changes, nothing can go wrong with the rules.
            Some(Presence::Connected) if step.unchanged || at_work < limit => {
                step.enter(Phase::Working { left_ms }, at_ms, String::new());
            }
            Some(Presence::Returning(within_ms)) => step.wait(within_ms),
            _ => {}
        }
    }
}

impl NodeProgress {
    pub(super) fn enter(&mut self, phase: Phase, at_ms: u64, error: String) {
        if phase.is_working() {
            self.began_ms = Some(at_ms);
        }
        self.phase = phase;
        self.at_ms = at_ms;
        self.error = error;
    }

    /// How long its turn has taken until `now_ms`, or took; 0: it had none.
    pub fn took_ms(&self, now_ms: u64) -> u64 {
        let end = if self.phase.is_working() {
            now_ms
        } else {
            self.at_ms
        };
        let began = self.began_ms.unwrap_or(end);
        end.saturating_sub(began)
    }

    /// Its batch waits for it to reconnect.
    fn wait(&mut self, within_ms: u64) {
        if let Phase::Offline { grace_ms } = &mut self.phase
            && *grace_ms == 0
        {
            *grace_ms = within_ms;
        }
    }

    /// It was offline in its turn, and gets the generation when it is back: how that ends counts
    /// as much as if it had been there.
    fn judge_late(&mut self, seen: &Observation, at_ms: u64) {
        if !matches!(self.phase, Phase::Offline { .. }) {
            return;
        }
        match &seen.report {
            NodeReport::Runs(cut) => {
                self.enter(Phase::Applied, at_ms, String::new());
                self.flows_cut = *cut;
            }
            NodeReport::Refused(phase, why) => self.enter(*phase, at_ms, why.clone()),
            NodeReport::Silent | NodeReport::Superseded(_) => {}
        }
    }

    fn judge(&mut self, seen: &Observation, time_to_answer_ms: u64, at_ms: u64) {
        let (working, late) = match self.phase {
            Phase::Working { left_ms } => (true, left_ms == 0),
            Phase::Waiting | Phase::Offline { .. } => (false, false),
            _ => return,
        };
        if seen.presence == Presence::Deleted {
            let why = "it was deleted during the push".to_owned();
            return self.enter(Phase::Deleted, at_ms, why);
        }
        match &seen.report {
            NodeReport::Runs(cut) => {
                self.enter(Phase::Applied, at_ms, String::new());
                self.flows_cut = *cut;
            }
            NodeReport::Refused(phase, why) if working => self.enter(*phase, at_ms, why.clone()),
            NodeReport::Superseded(later) if working => {
                let why = format!("superseded by generation {later}");
                self.enter(Phase::Failed, at_ms, why);
            }
            _ if late => {
                let seconds = time_to_answer_ms / 1000;
                let why = match seen.presence {
                    Presence::Connected => format!("no answer within {seconds} s"),
                    _ => format!(
                        "it went offline during its turn, and did not answer within {seconds} s"
                    ),
                };
                self.enter(Phase::TimedOut, at_ms, why);
            }
            _ => {}
        }
    }
}

/// Its batch waits for it.
fn is_pending(phase: Phase) -> bool {
    match phase {
        Phase::Working { .. } => true,
        Phase::Offline { grace_ms } => grace_ms > 0,
        _ => false,
    }
}
