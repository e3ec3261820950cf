//! An agent that runs by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use voipfleet_proto::v1::controller_message::Kind;
use voipfleet_proto::v1::{NodeState, NodeStatus, Offer, agent_message};

use super::{AgentSession, FakeAgent};
use crate::{BoxError, PATIENCE};

/// The pause between two sessions. No test waits for it: it keeps an agent without a controller
/// from spinning.
const REDIAL: Duration = Duration::from_millis(50);

/// What an agent went through.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every content that it was offered, by generation.
    pub offered: BTreeMap<u64, BTreeSet<Vec<u8>>>,
    /// How many offers of each generation it got.
    pub offers: BTreeMap<u64, usize>,
    pub confirmed: Option<(u64, Vec<u8>)>,
    /// Its last status about an offer, which a later Hello repeats.
    last: Option<NodeStatus>,
}

impl History {
    /// The generation that it has confirmed.
    pub fn generation(&self) -> Option<u64> {
        self.confirmed.as_ref().map(|(generation, _)| *generation)
    }
}

/// An agent that takes offers until it is dropped.
#[derive(Debug)]
pub struct RunningAgent {
    agent: FakeAgent,
    history: watch::Receiver<History>,
    task: JoinHandle<()>,
}

impl FakeAgent {
    /// Runs it against the controller at `address`. Whenever a session ends, it opens another one. It
    /// rolls back the generations of `refuses`.
    pub fn run(self, address: watch::Receiver<String>, refuses: BTreeSet<u64>) -> RunningAgent {
        let agent = self.clone();
        let (history, seen) = self.history();
        let task = tokio::spawn(async move {
            loop {
                let now = address.borrow().clone();
                // However a session ends, the next one follows.
                let _ended = self.session(&now, &refuses, &history).await;
                tokio::time::sleep(REDIAL).await;
            }
        });
        RunningAgent {
            agent,
            history: seen,
            task,
        }
    }

    fn history(&self) -> (watch::Sender<History>, watch::Receiver<History>) {
        watch::channel(History {
            confirmed: self.confirmed.clone(),
            ..History::default()
        })
    }

    async fn session(
        &self,
        address: &str,
        refuses: &BTreeSet<u64>,
        history: &watch::Sender<History>,
    ) -> Result<(), BoxError> {
        let mut agent = self.clone();
        let last = {
            let history = history.borrow();
            agent.confirmed.clone_from(&history.confirmed);
            history.last.clone()
        };
        let mut hello = agent.hello();
        hello.status = last.or(hello.status);
        let session = agent.welcomed(address, hello).await?;
        session.take_offers(refuses, history).await
    }
}

impl AgentSession {
    /// Goes on by itself until the session ends; there is no other one after it.
    pub fn run(self) -> RunningAgent {
        let agent = self.agent.clone();
        let (history, seen) = agent.history();
        let task = tokio::spawn(async move {
            // Its end is seen by its task.
            let _ended = self.take_offers(&BTreeSet::new(), &history).await;
        });
        RunningAgent {
            agent,
            history: seen,
            task,
        }
    }

    async fn take_offers(
        mut self,
        refuses: &BTreeSet<u64>,
        history: &watch::Sender<History>,
    ) -> Result<(), BoxError> {
        let mut notices = std::mem::take(&mut self.notices);
        loop {
            let message = match notices.pop_front() {
                Some(notice) => Some(Kind::DynamicSets(notice)),
                None => self.read().await?,
            };
            match message {
                Some(Kind::Offer(offer)) => self.take_offer(&offer, refuses, history).await?,
                Some(Kind::DynamicSets(notice)) => self.report_dynamic(&notice.digest, "").await?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    async fn take_offer(
        &mut self,
        offer: &Offer,
        refuses: &BTreeSet<u64>,
        history: &watch::Sender<History>,
    ) -> Result<(), BoxError> {
        history.send_modify(|history| {
            let contents = history.offered.entry(offer.generation).or_default();
            contents.insert(offer.digest.clone());
            *history.offers.entry(offer.generation).or_default() += 1;
        });
        let applying = self.about(offer, NodeState::Applying, "");
        self.send(agent_message::Kind::Status(applying)).await?;
        let held = self.agent.confirmed.as_ref();
        if held.is_none_or(|(_, digest)| *digest != offer.digest) {
            self.fetch_offered(offer).await?;
        }
        let takes = !refuses.contains(&offer.generation);
        if takes {
            self.agent.confirmed = Some((offer.generation, offer.digest.clone()));
        }
        let status = if takes {
            self.about(offer, NodeState::Applied, "")
        } else {
            self.about(offer, NodeState::RolledBack, "the probe dns failed")
        };
        // Known before it is reported: once the controller knows it, so does the test.
        history.send_modify(|history| {
            history.confirmed.clone_from(&self.agent.confirmed);
            history.last = Some(status.clone());
        });
        self.send(agent_message::Kind::Status(status)).await
    }
}

impl RunningAgent {
    pub fn name(&self) -> &str {
        &self.agent.name
    }

    pub fn history(&self) -> History {
        self.history.borrow().clone()
    }

    pub fn confirmed(&self) -> Option<(u64, Vec<u8>)> {
        self.history.borrow().confirmed.clone()
    }

    /// Waits until its history is as wanted.
    pub async fn until(&self, wanted: impl FnMut(&History) -> bool) -> History {
        let mut history = self.history.clone();
        let reached = tokio::time::timeout(PATIENCE, history.wait_for(wanted)).await;
        let Ok(Ok(reached)) = reached else {
            panic!("{} ended or hangs: {:?}", self.name(), self.history());
        };
        reached.clone()
    }

    /// Whether its last session has ended and no other one follows.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Takes it off the network; the node with what it has confirmed.
    pub fn stop(self) -> FakeAgent {
        FakeAgent {
            confirmed: self.confirmed(),
            ..self.agent.clone()
        }
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
