//! The rollout as a state machine without I/O: (record, what the nodes say, time) → record.
//!
//! Whatever it decides is stored before anybody acts on it, so that it may be asked again at
//! any time: what was decided is not decided twice.

use std::collections::BTreeMap;

use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::NodeName;

use super::record::{NodeStep, Place, RolloutRecord, RolloutState};
use crate::target::TargetRecord;

/// How long a connected node may take beyond its trial, milliseconds: to load the ruleset, to
/// go back if the trial fails, and to say so over another connection.
pub const ANSWER_MS: u64 = 30_000;

/// How a node looks from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Whether it is there.
    pub presence: Presence,
    /// What it says of the generation that the rollout brings, or goes back to.
    pub word: Word,
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Connected.
    Here,
    /// Between two connections, perhaps: until then, Unix time in milliseconds.
    MayBeBack(u64),
    /// Offline.
    Away,
    /// No node any more.
    Deleted,
}

/// What a node says of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet, or that it is at it.
    Nothing,
    /// That it runs it, and how many flows that cut.
    Runs(u64),
    /// That it does not, and why.
    Refuses(Place, String),
    /// It has a later generation: this one can no longer reach it.
    Later(Generation),
}

/// Why an operator's command about a rollout is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over.
    #[error("the rollout of generation {0} is {1}; push again to start a new one")]
    Ended(Generation, &'static str),
    /// It goes back.
    #[error("the rollout of generation {0} is being taken back; wait for its end")]
    GoingBack(Generation),
    /// It went back when it was held.
    #[error(
        "the rollout of generation {0} was being taken back, and is held; let it: voipctl rollout \
         resume SITE"
    )]
    HeldBack(Generation),
    /// No node ran anything before it.
    #[error("before generation {0} the nodes ran nothing: there is nothing to go back to")]
    Nothing(Generation),
    /// It is over, and well.
    #[error("the rollout of generation {0} is done; go back with: voipctl rollback SITE")]
    Done(Generation),
}

impl RolloutRecord {
    /// What its nodes are brought to now.
    pub fn goal(&self) -> Generation {
        let back = self.back.filter(|_| self.goes_back());
        back.unwrap_or(self.generation)
    }

    /// Nodes at work.
    pub fn working(&self) -> usize {
        self.count(Place::is_working)
    }

    /// Nodes that failed.
    pub fn failures(&self) -> usize {
        self.count(Place::is_failure)
    }

    /// Nodes of which `is` holds.
    pub fn count(&self, is: impl Fn(Place) -> bool) -> usize {
        self.nodes.values().filter(|step| is(step.place)).count()
    }

    /// So many nodes may be at work now.
    pub fn limit(&self) -> usize {
        if self.released <= 1 && self.stages.canary > 0 {
            self.stages.canary
        } else {
            self.stages.batch
        }
    }

    /// What one of its nodes should run now; 0: nothing.
    pub fn target(&self, step: &NodeStep) -> Generation {
        match self.stage() {
            RolloutState::RollingBack | RolloutState::RolledBack => {
                if step.before == 0 && step.place == Place::Withdrawn {
                    return 0;
                }
                self.goal()
            }
            RolloutState::Done => self.generation,
            RolloutState::Running | RolloutState::Paused => match step.place {
                Place::Waiting | Place::Away { .. } => step.before,
                _ => self.generation,
            },
            RolloutState::Halted | RolloutState::Aborted => match step.place {
                Place::Applied => self.generation,
                _ => step.before,
            },
        }
    }

    /// The targets of the site while and after this rollout.
    pub fn targets(&self) -> TargetRecord {
        let newest = self.goal().max(self.generation);
        TargetRecord {
            generation: newest,
            nodes: self
                .nodes
                .iter()
                .map(|(name, step)| (name.clone(), self.target(step)))
                .filter(|(_, target)| *target != newest)
                .collect(),
        }
    }

    /// Goes as far as it can now. True: something changed, and must be stored before anybody
    /// acts on it; then it is asked again. `next` is the number of a generation that would hold
    /// what the nodes ran before.
    pub fn advance(
        &mut self,
        sights: &BTreeMap<NodeName, Sight>,
        now_ms: u64,
        next: Generation,
    ) -> bool {
        if self.held.is_some() {
            return false;
        }
        let before = self.clone();
        self.judge(sights, now_ms);
        match self.state {
            RolloutState::Running => {
                if self.failures() > self.stages.max_failures {
                    self.fail(now_ms, next);
                } else {
                    self.release(sights, now_ms);
                    self.finish(now_ms);
                    self.why = self.awaited();
                }
            }
            RolloutState::Paused => {
                if self.failures() > self.stages.max_failures {
                    self.fail(now_ms, next);
                }
            }
            RolloutState::RollingBack => {
                self.release_back(sights, now_ms);
                if self.count(|place| pending(place, now_ms)) == 0 {
                    self.state = RolloutState::RolledBack;
                    self.ended_ms = Some(now_ms);
                    let not_back = self.not_back();
                    if !not_back.is_empty() {
                        let names = not_back.join(", ");
                        self.why = format!("{}; did not go back: {names}", self.why);
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
        let before = self.nodes.values().map(|step| step.before);
        before.max().filter(|before| *before != 0)
    }

    /// The controller has been started since nodes were set to work: how long it was gone is not
    /// their fault. They have `return_ms` to dial again, and then the time that they always have.
    pub fn take_over(&mut self, started_ms: u64, return_ms: u64) {
        let anew = self.deadline(started_ms).saturating_add(return_ms);
        for step in self.nodes.values_mut() {
            if let Place::Working { deadline_ms } = &mut step.place
                && step.at_ms < started_ms
            {
                *deadline_ms = anew.max(*deadline_ms);
            }
        }
    }

    /// When it must be asked again though no node says anything, Unix time.
    pub fn wakes_ms(&self, now_ms: u64) -> Option<u64> {
        if self.state.has_ended() || self.held.is_some() {
            return None;
        }
        let places = self.nodes.values().filter_map(|step| match step.place {
            Place::Working { deadline_ms } => Some(deadline_ms),
            Place::Away { until_ms } => Some(until_ms),
            _ => None,
        });
        let running = self.state == RolloutState::Running;
        let pause = self.next_ms.filter(|_| running);
        places.chain(pause).filter(|at| *at > now_ms).min()
    }

    /// Holds it: what was released goes on, nothing more is released.
    pub fn pause(&mut self, by: &str) -> Result<(), Refusal> {
        self.must_go_on()?;
        if self.held.is_some() {
            return Ok(());
        }
        self.state = RolloutState::Paused;
        self.why = format!("paused by {by}");
        Ok(())
    }

    /// Lets it go on.
    pub fn resume(&mut self, now_ms: u64) -> Result<(), Refusal> {
        self.must_go_on()?;
        self.state = RolloutState::Running;
        self.why.clear();
        if let Some(stage) = self.held.take() {
            self.state = stage;
            // How long it was held is no node's fault.
            let anew = self.deadline(now_ms);
            for step in self.nodes.values_mut() {
                if let Place::Working { deadline_ms } = &mut step.place {
                    *deadline_ms = anew.max(*deadline_ms);
                }
            }
        }
        Ok(())
    }

    /// Ends it: who runs the generation keeps it, everybody else keeps what it has, or, with
    /// `back`, the number of a generation that holds it, goes back to that.
    pub fn abort(
        &mut self,
        by: &str,
        now_ms: u64,
        back: Option<Generation>,
    ) -> Result<(), Refusal> {
        if self.held == Some(RolloutState::RollingBack) {
            return Err(Refusal::HeldBack(self.generation));
        }
        self.held = None;
        match self.state {
            RolloutState::Running | RolloutState::Paused => {}
            RolloutState::Halted | RolloutState::Aborted if back.is_some() => {}
            RolloutState::Done => return Err(Refusal::Done(self.generation)),
            _ => self.must_go_on()?,
        }
        if back.is_some() && self.nodes.values().all(|step| step.before == 0) {
            return Err(Refusal::Nothing(self.generation));
        }
        self.why = format!("aborted by {by}");
        match back {
            Some(back) => self.go_back(now_ms, back),
            None => self.stop(now_ms, RolloutState::Aborted),
        }
        Ok(())
    }

    fn must_go_on(&self) -> Result<(), Refusal> {
        match self.state {
            RolloutState::Running | RolloutState::Paused => Ok(()),
            RolloutState::RollingBack => Err(Refusal::GoingBack(self.generation)),
            ended => Err(Refusal::Ended(self.generation, ended.as_str())),
        }
    }

    /// Takes up what the nodes say.
    fn judge(&mut self, sights: &BTreeMap<NodeName, Sight>, now_ms: u64) {
        let stopped = matches!(self.state, RolloutState::Halted | RolloutState::Aborted);
        let going = !self.state.has_ended();
        let done = self.state == RolloutState::Done;
        if !stopped && !going && !done {
            return;
        }
        for (name, step) in &mut self.nodes {
            let Some(sight) = sights.get(name) else {
                continue;
            };
            if stopped {
                // It was confirmed in the moment of the halt: what it runs is what it should.
                if let Word::Runs(cut) = sight.word
                    && step.place != Place::Applied
                {
                    step.turn(Place::Applied, now_ms, String::new());
                    step.flows_cut = cut;
                }
                continue;
            }
            if done {
                step.judge_late(sight, now_ms);
            } else {
                step.judge(sight, now_ms);
            }
        }
    }

    fn fail(&mut self, now_ms: u64, next: Generation) {
        self.why = self.first_failure();
        if self.stages.roll_back && self.nodes.values().any(|step| step.before != 0) {
            self.go_back(now_ms, next);
        } else {
            self.stop(now_ms, RolloutState::Halted);
        }
    }

    fn first_failure(&self) -> String {
        let failures = self.failures();
        let first = self
            .nodes
            .iter()
            .filter(|(_, step)| step.place.is_failure())
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
    fn stop(&mut self, now_ms: u64, state: RolloutState) {
        self.state = state;
        self.ended_ms = Some(now_ms);
        for step in self.nodes.values_mut() {
            if step.place.is_working() {
                let why = "the rollout ended while it was at work".to_owned();
                step.turn(Place::Withdrawn, now_ms, why);
            }
        }
    }

    /// Brings every node to the generation that holds what it ran before.
    fn go_back(&mut self, now_ms: u64, back: Generation) {
        self.turned = Some(self.tally());
        self.state = RolloutState::RollingBack;
        self.back = Some(back);
        self.ended_ms = None;
        for step in self.nodes.values_mut() {
            step.refused_before = None;
            // One that was never given anything, and did not take this, has nothing to run.
            let nothing = step.before == 0 && step.place != Place::Applied;
            match step.place {
                Place::Deleted => {}
                _ if nothing => step.place = Place::Withdrawn,
                _ => step.place = Place::Away { until_ms: now_ms },
            }
            step.at_ms = now_ms;
        }
    }

    /// Nodes of a rollback are all released at once: what they get has run on them before.
    fn release_back(&mut self, sights: &BTreeMap<NodeName, Sight>, now_ms: u64) {
        let deadline_ms = self.deadline(now_ms);
        for (name, step) in &mut self.nodes {
            if let (Place::Away { .. }, Some(sight)) = (step.place, sights.get(name)) {
                match sight.presence {
                    Presence::Here => {
                        step.turn(Place::Working { deadline_ms }, now_ms, String::new());
                    }
                    Presence::MayBeBack(until_ms) => step.wait(until_ms, now_ms),
                    Presence::Away | Presence::Deleted => {}
                }
            }
        }
    }

    fn deadline(&self, now_ms: u64) -> u64 {
        let most = self.stages.confirm_within_ms.saturating_add(ANSWER_MS);
        now_ms.saturating_add(most)
    }

    /// Releases what may be released now.
    fn release(&mut self, sights: &BTreeMap<NodeName, Sight>, now_ms: u64) {
        // Those that were offline when their batch came, and are back.
        let passed: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|(_, step)| matches!(step.place, Place::Away { .. }))
            .map(|(name, _)| name.clone())
            .collect();
        for name in passed {
            self.give_turn(&name, sights, now_ms);
        }
        while self.released < self.order.len() {
            if self.count(|place| pending(place, now_ms)) > 0 {
                return;
            }
            // Where nobody is left who could prove it, what follows changes numbers only.
            if self.released == 1 && !self.is_proven() && self.has_open() {
                self.stand_in(sights, now_ms);
                return;
            }
            let next_ms = *self.next_ms.get_or_insert({
                let pause_ms = if !self.gave_turns() || !self.changes_more() {
                    0
                } else {
                    self.stages.pause_ms
                };
                now_ms.saturating_add(pause_ms)
            });
            if now_ms < next_ms {
                return;
            }
            let batch = self.order.get(self.released).cloned().unwrap_or_default();
            self.released += 1;
            self.next_ms = None;
            for name in &batch {
                if let Some(step) = self.nodes.get_mut(name)
                    && step.place == Place::Waiting
                {
                    step.turn(Place::Away { until_ms: 0 }, now_ms, String::new());
                }
                self.give_turn(name, sights, now_ms);
            }
        }
    }

    /// Whether the last batch had anybody to give a turn to.
    fn gave_turns(&self) -> bool {
        let last = self.released.checked_sub(1);
        let batch = last.and_then(|last| self.order.get(last));
        batch.into_iter().flatten().any(|name| {
            let step = self.nodes.get(name);
            step.is_some_and(|step| !matches!(step.place, Place::Away { .. } | Place::Deleted))
        })
    }

    /// Whether the next batch changes more than a number.
    fn changes_more(&self) -> bool {
        let changes = |name| self.nodes.get(name).is_some_and(|step| !step.had);
        let next = self.order.get(self.released);
        next.is_some_and(|next| next.iter().any(changes))
    }

    /// Every node had its turn: those that are offline get the generation when they are back,
    /// if a canary has shown that it can be run.
    fn finish(&mut self, now_ms: u64) {
        let waiting = self.released < self.order.len();
        let proven = self.is_proven() || !self.has_open();
        if !waiting && proven && self.count(|place| pending(place, now_ms)) == 0 {
            self.state = RolloutState::Done;
            self.ended_ms = Some(now_ms);
        }
    }

    /// A node whose batch has come gets the generation if it is there and there is room.
    pub(super) fn give_turn(
        &mut self,
        name: &NodeName,
        sights: &BTreeMap<NodeName, Sight>,
        now_ms: u64,
    ) {
        let changing = |step: &NodeStep| step.place.is_working() && !step.had;
        let at_work = self.nodes.values().filter(|step| changing(step)).count();
        let deadline_ms = self.deadline(now_ms);
        let limit = self.limit();
        let Some(step) = self.nodes.get_mut(name) else {
            return;
        };
        if !matches!(step.place, Place::Away { .. }) {
            return;
        }
        match sights.get(name).map(|sight| sight.presence) {
            // Where only the number changes, nothing can go wrong with the rules.
            Some(Presence::Here) if step.had || at_work < limit => {
                step.turn(Place::Working { deadline_ms }, now_ms, String::new());
            }
            Some(Presence::MayBeBack(until_ms)) => step.wait(until_ms, now_ms),
            _ => {}
        }
    }
}

impl NodeStep {
    pub(super) fn turn(&mut self, place: Place, now_ms: u64, error: String) {
        self.place = place;
        self.at_ms = now_ms;
        self.error = error;
    }

    /// Between two connections: it is waited for once, until then.
    fn wait(&mut self, until_ms: u64, now_ms: u64) {
        if let Place::Away { until_ms: known } = &mut self.place
            && *known <= now_ms
            && until_ms > now_ms
        {
            *known = until_ms;
        }
    }

    /// It was offline in its turn, and gets the generation when it is back: how that ends counts
    /// as much as if it had been there.
    fn judge_late(&mut self, sight: &Sight, now_ms: u64) {
        if !matches!(self.place, Place::Away { .. }) {
            return;
        }
        match &sight.word {
            Word::Runs(cut) => {
                self.turn(Place::Applied, now_ms, String::new());
                self.flows_cut = *cut;
            }
            Word::Refuses(place, why) => self.turn(*place, now_ms, why.clone()),
            Word::Nothing | Word::Later(_) => {}
        }
    }

    fn judge(&mut self, sight: &Sight, now_ms: u64) {
        let (working, deadline_ms) = match self.place {
            Place::Working { deadline_ms } => (true, deadline_ms),
            Place::Waiting | Place::Away { .. } => (false, u64::MAX),
            _ => return,
        };
        if sight.presence == Presence::Deleted {
            let why = "it was deleted during the push".to_owned();
            return self.turn(Place::Deleted, now_ms, why);
        }
        match &sight.word {
            Word::Runs(cut) => {
                self.turn(Place::Applied, now_ms, String::new());
                self.flows_cut = *cut;
            }
            Word::Refuses(place, why) if working => self.turn(*place, now_ms, why.clone()),
            Word::Later(later) if working => {
                let why = format!("generation {later} took the place of this one");
                self.turn(Place::Failed, now_ms, why);
            }
            _ if now_ms >= deadline_ms => {
                let seconds = deadline_ms.saturating_sub(self.at_ms) / 1000;
                let why = match sight.presence {
                    Presence::Here => format!("no answer within {seconds} s"),
                    _ => format!(
                        "it went offline when it had its turn, and did not answer within \
                         {seconds} s"
                    ),
                };
                self.turn(Place::TimedOut, now_ms, why);
            }
            _ => {}
        }
    }
}

/// Its batch waits for it.
fn pending(place: Place, now_ms: u64) -> bool {
    match place {
        Place::Working { .. } => true,
        Place::Away { until_ms } => until_ms > now_ms,
        _ => false,
    }
}
