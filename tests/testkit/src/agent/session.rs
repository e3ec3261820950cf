//! An open session of an agent, driven by a test.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, DriftReport, DynamicSetsNotice,
    FetchDynamicSetsRequest, FetchRulesetRequest, NodeState, NodeStatus, Offer, Pong,
    agent_message, controller_message,
};
use voipfleet_ruleset::ruleset::{DynamicSets, Ruleset};

use super::FakeAgent;
use crate::BoxError;

/// The protocol's bound of one chunk.
const CHUNK: usize = 256 * 1024;

/// An open session.
#[derive(Debug)]
pub struct AgentSession {
    pub agent: FakeAgent,
    pub client: FleetClient<Channel>,
    pub(super) out: mpsc::Sender<AgentMessage>,
    pub(super) answers: Streaming<ControllerMessage>,
    /// Notices of dynamic sets that were read while another message was awaited.
    pub(super) notices: VecDeque<DynamicSetsNotice>,
}

impl AgentSession {
    /// The next message other than a notice of dynamic sets.
    pub async fn next(&mut self) -> Result<Option<controller_message::Kind>, Status> {
        loop {
            match self.read().await? {
                Some(controller_message::Kind::DynamicSets(notice)) => {
                    self.notices.push_back(notice);
                }
                other => return Ok(other),
            }
        }
    }

    /// The next message of any kind. Whether it is still there, the agent answers by itself.
    pub async fn read(&mut self) -> Result<Option<controller_message::Kind>, Status> {
        loop {
            let message = self.answers.message().await?;
            match message.and_then(|message| message.kind) {
                Some(controller_message::Kind::Ping(ping)) => {
                    let answer = agent_message::Kind::Pong(Pong { nonce: ping.nonce });
                    // The session may have ended: the next read says so.
                    let _sent = self.send(answer).await;
                }
                other => return Ok(other),
            }
        }
    }

    /// The next notice of dynamic sets.
    pub async fn notice(&mut self) -> DynamicSetsNotice {
        if let Some(notice) = self.notices.pop_front() {
            return notice;
        }
        match self.read().await.unwrap() {
            Some(controller_message::Kind::DynamicSets(notice)) => notice,
            other => panic!("a notice of dynamic sets was expected: {other:?}"),
        }
    }

    /// How many notices of dynamic sets came before the message that was read last.
    pub fn pending_notices(&self) -> usize {
        self.notices.len()
    }

    pub async fn fetch_dynamic(&mut self, digest: &[u8]) -> Result<DynamicSets, Status> {
        let request = FetchDynamicSetsRequest {
            digest: digest.to_vec(),
        };
        let chunks = self.client.fetch_dynamic_sets(request).await?.into_inner();
        let sets = DynamicSets::decode(&assembled(chunks).await?).unwrap();
        assert_eq!(sets.digest().as_bytes().as_slice(), digest);
        Ok(sets)
    }

    /// Follows a notice of dynamic sets from those that it holds, and reports it.
    pub async fn take_dynamic(
        &mut self,
        notice: &DynamicSetsNotice,
        held: Option<&DynamicSets>,
    ) -> DynamicSets {
        let sets = self.follow(notice, held).await;
        self.report_dynamic(&notice.digest, "").await.unwrap();
        sets
    }

    /// Follows a notice of dynamic sets from those that it holds.
    pub async fn follow(
        &mut self,
        notice: &DynamicSetsNotice,
        held: Option<&DynamicSets>,
    ) -> DynamicSets {
        let sets = match &notice.delta {
            Some(delta) => {
                let held = held.unwrap();
                assert_eq!(held.digest().as_bytes().as_slice(), notice.delta_from);
                held.apply_delta(&delta.try_into().unwrap()).unwrap()
            }
            None => self.fetch_dynamic(&notice.digest).await.unwrap(),
        };
        assert_eq!(sets.digest().as_bytes().as_slice(), notice.digest);
        sets
    }

    /// Reports the dynamic sets that it holds, and why it did not take the noticed ones.
    pub async fn report_dynamic(&mut self, digest: &[u8], error: &str) -> Result<(), BoxError> {
        let status = NodeStatus {
            dynamic_digest: digest.to_vec(),
            dynamic_error: error.to_owned(),
            ..self.status()
        };
        self.send(agent_message::Kind::Status(status)).await
    }

    /// Reports that packets come in past its rules, whose sets it holds; an empty `why` ends it.
    pub async fn report_open(&mut self, digest: &[u8], why: &str) -> Result<(), BoxError> {
        let status = NodeStatus {
            dynamic_digest: digest.to_vec(),
            open: why.to_owned(),
            ..self.status()
        };
        self.send(agent_message::Kind::Status(status)).await
    }

    /// Reports that an offer failed, and that it cannot be undone yet.
    pub async fn report_stuck(&mut self, offer: &Offer, error: &str) {
        let status = NodeStatus {
            undo_due: true,
            ..self.about(offer, NodeState::Failed, error)
        };
        self.send(agent_message::Kind::Status(status))
            .await
            .unwrap();
    }

    /// The next message, which must be an offer.
    pub async fn offer(&mut self) -> Offer {
        match self.next().await.unwrap() {
            Some(controller_message::Kind::Offer(offer)) => offer,
            other => panic!("an offer was expected: {other:?}"),
        }
    }

    /// Reads until the session ends.
    pub async fn closed(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    pub async fn fetch(&mut self, digest: &[u8]) -> Result<Vec<u8>, Status> {
        let request = FetchRulesetRequest {
            digest: digest.to_vec(),
        };
        assembled(self.client.fetch_ruleset(request).await?.into_inner()).await
    }

    /// Fetches what is offered and checks that it is this node's ruleset.
    pub async fn fetch_offered(&mut self, offer: &Offer) -> Result<Ruleset, BoxError> {
        let bytes = self.fetch(&offer.digest).await?;
        assert_eq!(bytes.len() as u64, offer.size);
        let ruleset = Ruleset::decode(&bytes)?;
        assert_eq!(ruleset.digest().as_bytes().as_slice(), offer.digest);
        assert_eq!(ruleset.node.as_str(), self.agent.name);
        Ok(ruleset)
    }

    /// Takes an offer as an agent does whose kernel takes everything.
    pub async fn apply(&mut self, offer: &Offer) {
        self.report(offer, NodeState::Applying, "").await;
        self.fetch_offered(offer).await.unwrap();
        self.agent.confirmed = Some((offer.generation, offer.digest.clone()));
        self.report(offer, NodeState::Applied, "").await;
    }

    /// Reports what became of an offer.
    pub async fn report(&mut self, offer: &Offer, state: NodeState, error: &str) {
        let status = self.about(offer, state, error);
        self.send(agent_message::Kind::Status(status))
            .await
            .unwrap();
    }

    /// The status about an offer.
    pub fn about(&self, offer: &Offer, state: NodeState, error: &str) -> NodeStatus {
        NodeStatus {
            nonce: offer.nonce,
            generation: offer.generation,
            digest: offer.digest.clone(),
            state: state.into(),
            error: error.to_owned(),
            ..self.status()
        }
    }

    /// A status that only names what is confirmed.
    pub fn status(&self) -> NodeStatus {
        let (generation, digest) = self.agent.confirmed.clone().unwrap_or_default();
        NodeStatus {
            confirmed_generation: generation,
            confirmed_digest: digest,
            ..NodeStatus::default()
        }
    }

    /// Reports drift; the records that the controller acknowledges.
    pub async fn drift(&mut self, report: DriftReport) -> Vec<String> {
        self.send(agent_message::Kind::Drift(report)).await.unwrap();
        match self.next().await.unwrap() {
            Some(controller_message::Kind::DriftAck(ack)) => ack.ids,
            other => panic!("an acknowledgement was expected: {other:?}"),
        }
    }

    pub async fn send(&mut self, kind: agent_message::Kind) -> Result<(), BoxError> {
        let message = AgentMessage { kind: Some(kind) };
        Ok(self.out.send(message).await?)
    }
}

async fn assembled(mut chunks: Streaming<Chunk>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        assert!(chunk.data.len() <= CHUNK);
        bytes.extend(chunk.data);
    }
    Ok(bytes)
}
