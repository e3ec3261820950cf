//! A malicious controller with a valid certificate: the node keeps its ruleset, reports
//! why, and takes the next good push.

mod changes;
mod dynamic_sets;
mod fetches;
mod messages;
mod rule_changes;
mod rulesets;

use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::{NodeState, NodeStatus, Offer};
use voipfleet_ruleset::ruleset::{Digest, Ruleset};
use voipfleet_testkit::controller::ControllerSession;

use crate::node::{Node, hear, say};
use crate::support::{Place, same, sample};

/// A node that runs a ruleset, and whatever it must keep.
struct Victim<'a> {
    node: Node<'a>,
    session: ControllerSession,
    /// The last nonce and generation that were used.
    last: u64,
    generation: u64,
    before: String,
}

impl<'a> Victim<'a> {
    async fn start(place: &'a Place) -> Self {
        let mut node = Node::start(place).await;
        let (session, _) = node.session().await;
        let session = node.push(session, 1, &sample(1)).await;
        Self {
            before: place.everything(),
            node,
            session,
            last: 1,
            generation: 1,
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// An offer of bytes under the digest that they have.
    fn offer_of(&mut self, content: &[u8]) -> Offer {
        let digest = Digest::of(content).as_bytes().to_vec();
        let chunks = content.chunks(256 << 10).map(<[u8]>::to_vec).collect();
        self.node.controller.serve(&digest, chunks);
        let nonce = self.next();
        Offer {
            nonce,
            generation: nonce,
            digest,
            size: content.len() as u64,
            confirm_within_ms: 0,
            ..Offer::default()
        }
    }

    async fn say(&self, kind: Down) {
        say(&self.session, kind).await;
    }

    /// What the node answers to that delivery, once it is more than that it works on it.
    async fn answer(&mut self, nonce: u64) -> NodeStatus {
        let answer = self.answer_or_end(nonce).await;
        answer.unwrap_or_else(|| panic!("the session ended; the log:\n{}", self.node.log()))
    }

    /// The same; none if the session ends first.
    async fn answer_or_end(&mut self, nonce: u64) -> Option<NodeStatus> {
        loop {
            match hear(&mut self.session).await {
                Some(Up::Status(status))
                    if status.nonce == nonce && status.state() != NodeState::Applying =>
                {
                    return Some(status);
                }
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The node refuses it with these words, and nothing has changed. Returns how often it was
    /// offered: a node may find a connection dead that is flooded on a busy machine, and dial
    /// anew.
    async fn refuses(&mut self, name: &str, offer: Offer, words: &str) -> usize {
        let nonce = offer.nonce;
        let mut offered = 0;
        let status = loop {
            offered += 1;
            self.say(Down::Offer(offer.clone())).await;
            if let Some(status) = self.answer_or_end(nonce).await {
                break status;
            }
            let log = self.node.log();
            assert!(offered < 3, "{name}: the sessions end; the log:\n{log}");
            self.session = self.node.session().await.0;
        };
        assert_eq!(status.state(), NodeState::Rejected, "{name}: {status:?}");
        assert!(
            !status.error.is_empty() && status.error.contains(words),
            "{name}: {words:?} is not in {:?}",
            status.error
        );
        assert_eq!(status.confirmed_generation, self.generation, "{name}");
        self.is_unchanged(name);
        offered
    }

    fn is_unchanged(&self, name: &str) {
        assert_eq!(self.node.place.everything(), self.before, "{name}");
        assert_eq!(self.node.confirmed(), Some(self.generation), "{name}");
        assert!(!self.node.state.ledger().join("journal").exists(), "{name}");
    }

    /// A good push is taken; from here on it is what the node must keep.
    async fn takes(mut self, ruleset: &Ruleset) -> Self {
        let nonce = self.next();
        self.session = self.node.push(self.session, nonce, ruleset).await;
        self.generation = nonce;
        self.before = self.node.place.everything();
        self
    }

    /// After all of it, a good push and the way back are as ever.
    async fn ends_well(self) {
        let first = self.before.clone();
        let other = self.takes(&sample(7)).await;
        assert_ne!(other.before, first);
        let again = other.takes(&sample(1)).await;
        same(&first, &again.node.place.everything());
    }
}
