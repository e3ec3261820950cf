//! A node, its disk and its kernel, against a controller over a bad network: crashes at any
//! step, reboots, messages lost, doubled and late, and probes that succeed, fail, hang, or end
//! twice and late.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use voipfleet_ruleset::ruleset::Digest;

use super::{Attempt, Decision, Delivery, Held, JournalState, Reaction, Start, TrialState};

const WITHIN: Duration = Duration::from_secs(30);
/// Contents from this one on let the node reach its controller, and nothing that it probes.
const CUTS_PROBES: u8 = 3;
/// Contents from this one on cut the node off from its controller.
const CUTS_OFF: u8 = 5;
const CONTENTS: u8 = 8;

fn held(generation: u64, content: u8) -> Held {
    Held {
        generation,
        digest: Digest::of(&[content]),
    }
}

fn is_one_of(mut contents: std::ops::Range<u8>, held: Held) -> bool {
    contents.any(|content| Digest::of(&[content]) == held.digest)
}

fn cuts_off(held: Held) -> bool {
    is_one_of(CUTS_OFF..CONTENTS, held)
}

fn cuts_probes(held: Held) -> bool {
    is_one_of(CUTS_PROBES..CONTENTS, held)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    /// Exactly this; `None`: nothing of ours.
    Runs(Option<Held>),
    /// A change was cut short.
    Between,
}

/// What survives the agent: the disk. And what survives it until a reboot: the kernel.
#[derive(Debug)]
struct Machine {
    confirmed: Option<Held>,
    journal: Option<Held>,
    kernel: Kernel,
    /// After so many writes to disk or kernel, the agent is killed.
    fuse: Option<u32>,
}

/// The agent was killed.
#[derive(Debug)]
struct Killed;

impl Machine {
    fn step(&mut self) -> Result<(), Killed> {
        match &mut self.fuse {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write_journal(&mut self, held: Option<Held>) -> Result<(), Killed> {
        self.step()?;
        self.journal = held;
        Ok(())
    }

    fn write_confirmed(&mut self, held: Held) -> Result<(), Killed> {
        self.step()?;
        self.confirmed = Some(held);
        Ok(())
    }

    fn enforce(&mut self, wanted: Option<Held>) -> Result<(), Killed> {
        self.step()?;
        self.kernel = Kernel::Between;
        self.step()?;
        self.kernel = Kernel::Runs(wanted);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Down {
    Offer(Attempt),
    Confirm(Attempt),
}

/// Probes that ended, and how.
#[derive(Debug, Clone, Copy)]
struct Probed {
    attempt: Attempt,
    ended: Instant,
    answered: bool,
}

struct World {
    machine: Machine,
    agent: Option<TrialState>,
    /// The last result that the agent reported: sent with Hello. Lost with the agent.
    rolled_back: Option<Attempt>,
    now: Instant,
    target: Held,
    nonce: u64,
    delivery: Option<Delivery>,
    network: Vec<Down>,
    /// Every confirmation that a controller ever sent.
    sent: Vec<Attempt>,
    /// Probes that run.
    probing: Vec<Attempt>,
    /// Results that the agent has not handled yet.
    results: Vec<Probed>,
    /// Everything of which the probes ever succeeded.
    answered: Vec<Held>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            machine: Machine {
                confirmed: None,
                journal: None,
                kernel: Kernel::Runs(None),
                fuse: None,
            },
            agent: None,
            rolled_back: None,
            now: Instant::now(),
            target: held(1, 0),
            nonce: 0,
            delivery: None,
            network: Vec::new(),
            sent: Vec::new(),
            probing: Vec::new(),
            results: Vec::new(),
            answered: Vec::new(),
        };
        world.start();
        world
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Killed>) {
        if work(self).is_err() {
            self.machine.fuse = None;
            self.end();
        }
    }

    /// What goes with the process.
    fn end(&mut self) {
        self.agent = None;
        self.delivery = None;
        self.rolled_back = None;
        self.probing.clear();
        self.results.clear();
    }

    fn start(&mut self) {
        self.attempt(|world| {
            let noted = world
                .machine
                .journal
                .map_or(JournalState::Nothing, JournalState::Change);
            let (mut course, first) = TrialState::start(world.machine.confirmed, noted);
            match first {
                Start::Keep => world.machine.enforce(course.confirmed())?,
                Start::Settle => {
                    world.machine.write_journal(None)?;
                    world.machine.enforce(course.confirmed())?;
                }
                Start::Undo => {
                    world.machine.enforce(course.confirmed())?;
                    world.machine.write_journal(None)?;
                    course.undone();
                }
            }
            world.agent = Some(course);
            Ok(())
        });
    }

    fn undo(&mut self) -> Result<(), Killed> {
        let Some(course) = &mut self.agent else {
            return Ok(());
        };
        course.give_up();
        self.machine.enforce(course.confirmed())?;
        self.machine.write_journal(None)?;
        course.undone();
        Ok(())
    }

    /// The deadline comes before anything else that came meanwhile.
    fn expire(&mut self) -> Result<(), Killed> {
        let Some(course) = &self.agent else {
            return Ok(());
        };
        if course.expired(self.now) {
            self.roll_back()?;
        }
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), Killed> {
        self.rolled_back = self.agent.as_ref().and_then(TrialState::on_trial);
        self.undo()?;
        if let (Some(delivery), Some(last)) = (&mut self.delivery, self.rolled_back) {
            let refused = super::Progress::Refused;
            delivery.hear(
                Some(last.nonce),
                Some(last.held),
                refused,
                self.machine.confirmed,
            );
        }
        Ok(())
    }

    /// Probes that run end: nothing answers through rules that cut them, and what they do not
    /// cut may fail for reasons of its own. They may report it twice.
    fn probes_end(&mut self, at: usize, answers: bool, twice: bool) {
        let attempt = self.probing.remove(at);
        let through = self.machine.kernel == Kernel::Runs(Some(attempt.held));
        let answered = answers && through && !cuts_probes(attempt.held);
        if answered {
            self.answered.push(attempt.held);
        }
        let probed = Probed {
            attempt,
            ended: self.now,
            answered,
        };
        self.results.push(probed);
        if twice {
            self.results.push(probed);
        }
    }

    fn probed(&mut self, probed: Probed) -> Result<(), Killed> {
        self.expire()?;
        let Some(course) = &mut self.agent else {
            return Ok(());
        };
        if !course.probed(probed.attempt, probed.ended) {
            return Ok(());
        }
        if !probed.answered {
            return self.roll_back();
        }
        self.machine.write_confirmed(probed.attempt.held)?;
        self.machine.write_journal(None)?;
        course.persisted();
        self.rolled_back = None;
        Ok(())
    }

    fn take(&mut self, message: Down) -> Result<(), Killed> {
        self.expire()?;
        let Some(course) = &mut self.agent else {
            return Ok(());
        };
        match message {
            Down::Confirm(confirmation) => {
                if course.confirm(confirmation, self.now) {
                    self.probing.push(confirmation);
                }
            }
            Down::Offer(offered) => match course.offer(offered) {
                Reaction::Try => {
                    self.machine.write_journal(Some(offered.held))?;
                    course.begun(offered);
                    self.machine.enforce(Some(offered.held))?;
                    course.changed(self.now, WITHIN);
                    self.rolled_back = None;
                }
                Reaction::Renumber => {
                    if course.on_trial().is_some() {
                        self.undo()?;
                    }
                    self.machine.write_confirmed(offered.held)?;
                    self.machine.kernel = Kernel::Runs(Some(offered.held));
                    if let Some(course) = &mut self.agent {
                        course.renumbered(offered.held);
                    }
                }
                Reaction::OnTrial | Reaction::Same | Reaction::Refuse(_) => {}
            },
        }
        Ok(())
    }

    /// A connection: it comes about only if the kernel lets it through.
    fn connect(&mut self) {
        let (Some(course), Kernel::Runs(running)) = (&self.agent, self.machine.kernel) else {
            return;
        };
        if running.is_some_and(cuts_off) {
            return;
        }
        let mut delivery = Delivery::new(self.machine.confirmed);
        if let Some(attempt) = course.on_trial() {
            delivery = delivery.with_trial(attempt.nonce, attempt.held);
        } else if let Some(last) = self.rolled_back {
            delivery = delivery.with_rolled_back(last.held);
        }
        if let Some(nonce) = delivery.confirm(self.target) {
            let confirmation = Attempt {
                nonce,
                held: self.target,
            };
            self.sent.push(confirmation);
            self.network.push(Down::Confirm(confirmation));
        }
        self.delivery = Some(delivery);
        self.offer(false);
    }

    fn offer(&mut self, again: bool) {
        self.nonce += 1;
        let Some(delivery) = &mut self.delivery else {
            return;
        };
        if delivery.want(self.target, again, self.nonce) == Decision::Offer {
            self.network.push(Down::Offer(Attempt {
                nonce: self.nonce,
                held: self.target,
            }));
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Push(content) => {
                self.target = held(self.target.generation + 1, content);
                self.offer(false);
            }
            Act::Again => self.offer(true),
            Act::Connect => self.connect(),
            Act::HangUp => self.delivery = None,
            Act::Deliver { which, keep } => {
                if self.network.is_empty() {
                    return;
                }
                let at = which.index(self.network.len());
                let message = if keep {
                    self.network[at]
                } else {
                    self.network.remove(at)
                };
                self.attempt(|world| world.take(message));
            }
            Act::Lose(which) => {
                if !self.network.is_empty() {
                    self.network.remove(which.index(self.network.len()));
                }
            }
            Act::ProbesEnd {
                which,
                answers,
                twice,
            } => {
                if !self.probing.is_empty() {
                    let at = which.index(self.probing.len());
                    self.probes_end(at, answers, twice);
                }
            }
            Act::Probed { which, keep } => {
                if self.results.is_empty() {
                    return;
                }
                let at = which.index(self.results.len());
                let result = if keep {
                    self.results[at]
                } else {
                    self.results.remove(at)
                };
                self.attempt(|world| world.probed(result));
            }
            Act::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.attempt(Self::expire);
            }
            Act::Stop => {
                let on_trial = self.agent.as_ref().and_then(TrialState::on_trial);
                if on_trial.is_some() {
                    self.attempt(Self::undo);
                }
                self.end();
            }
            Act::KillAfter(writes) => self.machine.fuse = Some(writes),
            Act::Start => {
                if self.agent.is_none() {
                    self.start();
                }
            }
            Act::Reboot => {
                self.end();
                self.machine.fuse = None;
                self.machine.kernel = Kernel::Runs(None);
                self.start();
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Push(u8),
    Again,
    Connect,
    HangUp,
    Deliver {
        which: prop::sample::Index,
        keep: bool,
    },
    Lose(prop::sample::Index),
    ProbesEnd {
        which: prop::sample::Index,
        answers: bool,
        twice: bool,
    },
    Probed {
        which: prop::sample::Index,
        keep: bool,
    },
    Pass(u64),
    Stop,
    KillAfter(u32),
    Start,
    Reboot,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0..CONTENTS).prop_map(Act::Push),
        1 => Just(Act::Again),
        6 => Just(Act::Connect),
        1 => Just(Act::HangUp),
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
            .prop_map(|(which, keep)| Act::Deliver { which, keep }),
        1 => any::<prop::sample::Index>().prop_map(Act::Lose),
        5 => (any::<prop::sample::Index>(), prop::bool::weighted(0.8), prop::bool::weighted(0.2))
            .prop_map(|(which, answers, twice)| Act::ProbesEnd { which, answers, twice }),
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
            .prop_map(|(which, keep)| Act::Probed { which, keep }),
        3 => (0_u64..40).prop_map(Act::Pass),
        1 => Just(Act::Stop),
        1 => (0_u32..6).prop_map(Act::KillAfter),
        3 => Just(Act::Start),
        1 => Just(Act::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_unconfirmed_lasts_and_nothing_goes_back(
        acts in prop::collection::vec(act(), 0..80)
    ) {
        let mut world = World::new();
        let mut newest = 0;
        for act in acts {
            world.act(&act);
            let Some(confirmed) = world.machine.confirmed else {
                prop_assert_eq!(newest, 0, "the confirmed is lost");
                continue;
            };
            // The confirmed generation never goes back by itself.
            prop_assert!(confirmed.generation >= newest);
            newest = confirmed.generation;
            // Nothing that cuts the node off was ever proved over a new connection, and nothing
            // that cuts what it probes by an answer.
            prop_assert!(!cuts_off(confirmed) && !cuts_probes(confirmed));
            let answered = world.answered.iter().any(|held| {
                held.digest == confirmed.digest && held.generation <= confirmed.generation
            });
            prop_assert!(answered);
            // And that content was confirmed, under this number or an earlier one.
            let proved = world.sent.iter().any(|sent| {
                sent.held.digest == confirmed.digest
                    && sent.held.generation <= confirmed.generation
            });
            prop_assert!(proved);
        }
        // Left to itself, every trial ends, with the kernel on what the node boots with.
        world.machine.fuse = None;
        if world.agent.is_none() {
            world.start();
        }
        world.now += WITHIN;
        world.attempt(World::expire);
        prop_assert_eq!(world.agent.as_ref().unwrap().on_trial(), None);
        prop_assert!(!world.agent.as_ref().unwrap().undo_is_due());
        prop_assert_eq!(world.machine.journal, None);
        prop_assert_eq!(world.machine.kernel, Kernel::Runs(world.machine.confirmed));
        let before = world.machine.confirmed;
        // No record of it is left that would undo anything at a later boot.
        world.act(&Act::Reboot);
        prop_assert_eq!(world.machine.confirmed, before);
        prop_assert_eq!(world.machine.kernel, Kernel::Runs(before));
        // With a good network, it ends on what is wanted; on what it had, if that cuts it off.
        world.network.clear();
        for _ in 0..4 {
            world.connect();
            while let Some(message) = world.network.pop() {
                world.attempt(|world| world.take(message));
                world.connect();
                while !world.probing.is_empty() {
                    world.probes_end(0, true, false);
                }
                while let Some(result) = world.results.pop() {
                    world.attempt(|world| world.probed(result));
                }
            }
            world.now += WITHIN;
            world.attempt(World::expire);
        }
        let good = !cuts_off(world.target) && !cuts_probes(world.target);
        let ends = if good { Some(world.target) } else { before };
        prop_assert_eq!(world.machine.confirmed, ends);
        prop_assert_eq!(world.machine.kernel, Kernel::Runs(ends));
    }
}
