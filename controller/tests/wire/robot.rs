//! Nodes that do by themselves what agents do: dial anew whatever happens, and take or refuse
//! what they are offered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use voipfleet_proto::v1::controller_message::Kind;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{AgentMessage, NodeState, NodeStatus, agent_message};

use super::agent::Node;

/// How often a node dials; not a wait for anything.
const REDIAL: Duration = Duration::from_millis(50);

/// What a node has been through.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Every content that it was offered, by generation.
    pub(crate) offered: BTreeMap<u64, BTreeSet<Vec<u8>>>,
    /// How often it was offered each.
    pub(crate) tries: BTreeMap<u64, usize>,
    pub(crate) confirmed: Option<(u64, Vec<u8>)>,
    last: Option<NodeStatus>,
}

pub(crate) struct Robot {
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) life: Arc<Mutex<Life>>,
    task: JoinHandle<()>,
}

impl Robot {
    /// Dials where `address` says; refuses the generations of `refuses`.
    pub(crate) fn start(
        node: Node,
        address: watch::Receiver<String>,
        refuses: BTreeSet<u64>,
    ) -> Self {
        let life = Arc::new(Mutex::new(Life {
            confirmed: node.confirmed.clone(),
            ..Life::default()
        }));
        let name = node.name.clone();
        let own = Arc::clone(&life);
        let machine = node.clone();
        let task = tokio::spawn(async move {
            loop {
                let at = address.borrow().clone();
                // Whatever ends a session, the next one begins.
                let _ended = session(&node, &at, &refuses, &own).await;
                // An agent's pause between two tries; no test waits for it.
                tokio::time::sleep(REDIAL).await;
            }
        });
        Self {
            name,
            node: machine,
            life,
            task,
        }
    }

    pub(crate) fn confirmed(&self) -> Option<(u64, Vec<u8>)> {
        self.life.lock().unwrap().confirmed.clone()
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn session(
    node: &Node,
    address: &str,
    refuses: &BTreeSet<u64>,
    life: &Mutex<Life>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = node.pair.connect(address).await?;
    let (out, messages) = mpsc::channel(16);
    let hello = {
        let life = life.lock().unwrap();
        let node = Node {
            confirmed: life.confirmed.clone(),
            ..node.clone()
        };
        let mut hello = node.hello();
        if let Some(last) = &life.last {
            hello.status = Some(last.clone());
        }
        hello
    };
    let say = |kind| AgentMessage { kind: Some(kind) };
    out.send(say(agent_message::Kind::Hello(hello))).await?;
    let mut client = FleetClient::new(channel);
    let mut answers = client
        .session(ReceiverStream::new(messages))
        .await?
        .into_inner();
    while let Some(message) = answers.message().await? {
        let Some(Kind::Offer(offer)) = message.kind else {
            continue;
        };
        let status = {
            let mut life = life.lock().unwrap();
            let offers = life.offered.entry(offer.generation).or_default();
            offers.insert(offer.digest.clone());
            *life.tries.entry(offer.generation).or_default() += 1;
            let taken_back = refuses.contains(&offer.generation);
            if !taken_back {
                life.confirmed = Some((offer.generation, offer.digest.clone()));
            }
            let (generation, digest) = life.confirmed.clone().unwrap_or_default();
            let (state, error) = if taken_back {
                (NodeState::RolledBack, "the probe dns failed")
            } else {
                (NodeState::Applied, "")
            };
            let status = NodeStatus {
                nonce: offer.nonce,
                generation: offer.generation,
                digest: offer.digest.clone(),
                state: state.into(),
                error: error.to_owned(),
                confirmed_generation: generation,
                confirmed_digest: digest,
                ..NodeStatus::default()
            };
            life.last = Some(status.clone());
            status
        };
        out.send(say(agent_message::Kind::Status(status))).await?;
    }
    Ok(())
}
