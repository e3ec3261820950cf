//! A small agent that speaks the protocol and has no kernel.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use voipfleet_proto::channel;
use voipfleet_proto::v1::enrolment_client::EnrolmentClient;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, DriftReport, EnrolRequest, EnrolResponse,
    FetchLiveSetsRequest, FetchRulesetRequest, Hello, InterfaceAddress, LiveNotice, NodeFacts,
    NodeState, NodeStatus, Offer, agent_message, controller_message,
};
use voipfleet_protocol::identity::{JoinToken, tls};
use voipfleet_ruleset::ruleset::{LiveSets, Ruleset};

use super::installation::{Installation, Pair, SITE};

/// A request for a certificate, and its key; PEM.
pub(crate) fn csr() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let csr = params.serialize_request(&key).unwrap();
    (csr.pem().unwrap(), key.serialize_pem())
}

pub(crate) async fn enrol(
    installation: &Installation,
    token: &str,
    node: &str,
    csr_pem: &str,
) -> Result<EnrolResponse, Status> {
    let token: JoinToken = token.parse().unwrap();
    let tls = tls::enrolment_client(token.ca_fingerprint()).unwrap();
    let address = installation.enrol_address();
    let channel = channel::connect(&address, Arc::new(tls)).await.unwrap();
    let request = EnrolRequest {
        token_id: token.id().to_owned(),
        token_secret: token.secret().to_owned(),
        node: node.to_owned(),
        csr_pem: csr_pem.to_owned(),
    };
    let mut client = EnrolmentClient::new(channel);
    Ok(client.enrol(request).await?.into_inner())
}

/// An enrolled node, and what it has confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) pair: Pair,
    pub(crate) confirmed: Option<(u64, Vec<u8>)>,
}

/// An installation with the documents of [`SITE`], and its only node, connected.
pub(crate) async fn connected() -> (Installation, Node, Session) {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = Node::enrol(&installation, "a").await;
    let session = node.connect(&installation).await;
    (installation, node, session)
}

impl Node {
    pub(crate) async fn enrol(installation: &Installation, name: &str) -> Self {
        let token = installation.token("").await;
        let (csr, key_pem) = csr();
        let answer = enrol(installation, &token, name, &csr).await.unwrap();
        assert_eq!(
            (answer.site.as_str(), answer.node.as_str()),
            ("site-a", name)
        );
        Self {
            name: name.to_owned(),
            pair: Pair {
                certificate: answer.certificate_pem,
                key: key_pem,
                ca: answer.ca_pem,
            },
            confirmed: None,
        }
    }

    pub(crate) async fn client(
        &self,
        installation: &Installation,
    ) -> FleetClient<tonic::transport::Channel> {
        let channel = self.pair.connect(&installation.address()).await.unwrap();
        FleetClient::new(channel)
    }

    pub(crate) fn hello(&self) -> Hello {
        let (generation, digest) = self.confirmed.clone().unwrap_or_default();
        let last = self.name.bytes().last().unwrap_or_default();
        Hello {
            site: "site-a".to_owned(),
            node: self.name.clone(),
            agent_version: "test".to_owned(),
            boot_id: "boot".to_owned(),
            generation,
            digest: digest.clone(),
            facts: Some(NodeFacts {
                hostname: self.name.clone(),
                backend: "nft".to_owned(),
                iptables_version: "1.8.9".to_owned(),
                addresses: vec![InterfaceAddress {
                    interface: "eth1".to_owned(),
                    address: vec![10, 0, 0, last],
                    prefix_length: 24,
                }],
                ..NodeFacts::default()
            }),
            status: Some(NodeStatus {
                state: if generation == 0 {
                    NodeState::Unspecified
                } else {
                    NodeState::Applied
                }
                .into(),
                generation,
                digest: digest.clone(),
                confirmed_generation: generation,
                confirmed_digest: digest,
                ..NodeStatus::default()
            }),
            live_digest: Vec::new(),
        }
    }

    /// Connects, says Hello and is welcomed.
    pub(crate) async fn connect(&self, installation: &Installation) -> Session {
        let mut session = self.say(installation, self.hello()).await;
        let first = session.next().await.unwrap();
        assert!(
            matches!(first, Some(controller_message::Kind::Welcome(_))),
            "{first:?}"
        );
        session
    }

    /// Connects and says Hello.
    pub(crate) async fn say(&self, installation: &Installation, hello: Hello) -> Session {
        let (out, messages) = mpsc::channel(16);
        let kind = Some(agent_message::Kind::Hello(hello));
        out.send(AgentMessage { kind }).await.unwrap();
        let mut client = self.client(installation).await;
        let answers = client.session(ReceiverStream::new(messages)).await.unwrap();
        Session {
            node: self.clone(),
            client,
            out,
            answers: answers.into_inner(),
            notices: VecDeque::new(),
        }
    }
}

/// An open session.
pub(crate) struct Session {
    pub(crate) node: Node,
    pub(crate) client: FleetClient<tonic::transport::Channel>,
    out: mpsc::Sender<AgentMessage>,
    answers: Streaming<ControllerMessage>,
    /// Of live sets, read and not asked for yet.
    notices: VecDeque<LiveNotice>,
}

impl Session {
    /// The next message that is no notice of live sets.
    pub(crate) async fn next(&mut self) -> Result<Option<controller_message::Kind>, Status> {
        loop {
            match self.read().await? {
                Some(controller_message::Kind::Live(notice)) => self.notices.push_back(notice),
                other => return Ok(other),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<controller_message::Kind>, Status> {
        let message = self.answers.message().await?;
        Ok(message.and_then(|message| message.kind))
    }

    /// The next notice of live sets.
    pub(crate) async fn notice(&mut self) -> LiveNotice {
        if let Some(notice) = self.notices.pop_front() {
            return notice;
        }
        match self.read().await.unwrap() {
            Some(controller_message::Kind::Live(notice)) => notice,
            other => panic!("{other:?}"),
        }
    }

    /// Notices of live sets that came before what was read last.
    pub(crate) fn noticed(&self) -> usize {
        self.notices.len()
    }

    pub(crate) async fn fetch_live(&mut self, digest: &[u8]) -> Result<LiveSets, Status> {
        let request = FetchLiveSetsRequest {
            digest: digest.to_vec(),
        };
        let chunks = self.client.fetch_live_sets(request).await?.into_inner();
        let sets = LiveSets::decode(&whole(chunks).await?).unwrap();
        assert_eq!(sets.digest().as_bytes().as_slice(), digest);
        Ok(sets)
    }

    /// Does what an agent does with live sets that it was told of: brings `held` to them, and
    /// says so.
    pub(crate) async fn take(&mut self, notice: &LiveNotice, held: Option<&LiveSets>) -> LiveSets {
        let sets = match &notice.delta {
            Some(delta) => {
                let held = held.unwrap();
                assert_eq!(held.digest().as_bytes().as_slice(), notice.delta_from);
                held.apply_delta(&delta.try_into().unwrap()).unwrap()
            }
            None => self.fetch_live(&notice.digest).await.unwrap(),
        };
        assert_eq!(sets.digest().as_bytes().as_slice(), notice.digest);
        self.say_live(&notice.digest, "").await;
        sets
    }

    /// Says which live sets it holds, and why not those that it was told of.
    pub(crate) async fn say_live(&mut self, digest: &[u8], error: &str) {
        let (generation, confirmed) = self.node.confirmed.clone().unwrap_or_default();
        let status = NodeStatus {
            confirmed_generation: generation,
            confirmed_digest: confirmed,
            live_digest: digest.to_vec(),
            live_error: error.to_owned(),
            ..NodeStatus::default()
        };
        self.send(agent_message::Kind::Status(status)).await;
    }

    pub(crate) async fn offer(&mut self) -> Offer {
        match self.next().await.unwrap() {
            Some(controller_message::Kind::Offer(offer)) => offer,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of the session.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    pub(crate) async fn fetch(&mut self, digest: &[u8]) -> Result<Vec<u8>, Status> {
        let request = FetchRulesetRequest {
            digest: digest.to_vec(),
        };
        whole(self.client.fetch_ruleset(request).await?.into_inner()).await
    }

    /// Does what an agent does with an offer, and remembers it.
    pub(crate) async fn apply(&mut self, offer: &Offer) {
        self.answer(offer, NodeState::Applying, "").await;
        let bytes = self.fetch(&offer.digest).await.unwrap();
        assert_eq!(bytes.len() as u64, offer.size);
        let ruleset = Ruleset::decode(&bytes).unwrap();
        assert_eq!(ruleset.digest().as_bytes().as_slice(), offer.digest);
        assert_eq!(ruleset.node.as_str(), self.node.name);
        self.node.confirmed = Some((offer.generation, offer.digest.clone()));
        self.answer(offer, NodeState::Applied, "").await;
    }

    pub(crate) async fn answer(&mut self, offer: &Offer, state: NodeState, error: &str) {
        let (generation, digest) = self.node.confirmed.clone().unwrap_or_default();
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
        self.send(agent_message::Kind::Status(status)).await;
    }

    pub(crate) async fn drift(&mut self, report: DriftReport) -> Vec<String> {
        self.send(agent_message::Kind::Drift(report)).await;
        match self.next().await.unwrap() {
            Some(controller_message::Kind::DriftAck(ack)) => ack.ids,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, kind: agent_message::Kind) {
        let message = AgentMessage { kind: Some(kind) };
        self.out.send(message).await.unwrap();
    }
}

async fn whole(mut chunks: Streaming<Chunk>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        assert!(chunk.data.len() <= 256 * 1024);
        bytes.extend(chunk.data);
    }
    Ok(bytes)
}
