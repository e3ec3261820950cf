//! A node that enrols, keeps its session, and takes every offer. It has no kernel: what it
//! fetches is decoded and its digest compared, and then it says that it runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use voipfleet_proto::channel;
use voipfleet_proto::v1::enrolment_client::EnrolmentClient;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{
    AgentMessage, ControllerMessage, CreateTokenRequest, EnrolRequest, FetchRulesetRequest, Hello,
    InterfaceAddress, NodeFacts, NodeState, NodeStatus, Offer, agent_message, controller_message,
};
use voipfleet_protocol::identity::{JoinToken, tls};
use voipfleet_ruleset::ruleset::Ruleset;

use super::Installation;
use super::installation::client;

/// An enrolled node.
#[derive(Debug, Clone)]
pub struct Node {
    site: String,
    name: String,
    address: [u8; 4],
    certificate: String,
    key: String,
    ca: String,
}

/// What a connected node has come to.
#[derive(Debug)]
pub struct Connected {
    generation: Arc<AtomicU64>,
    session: JoinHandle<Result<()>>,
}

impl Connected {
    /// The generation that it runs; 0: none yet.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether its session has ended.
    pub fn has_ended(&self) -> bool {
        self.session.is_finished()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Node {
    /// Makes a token, a key and a request, and enrols.
    pub async fn enrol(
        installation: &Installation,
        site: &str,
        name: &str,
        role: &str,
        address: [u8; 4],
    ) -> Result<Self> {
        let request = CreateTokenRequest {
            site: site.to_owned(),
            roles: vec![role.to_owned()],
            ttl_ms: 0,
            node: name.to_owned(),
        };
        let token = installation.operator().await?.create_token(request).await?;
        let token: JoinToken = token.into_inner().token.parse()?;
        let key = rcgen::KeyPair::generate()?;
        let csr_pem = rcgen::CertificateParams::default()
            .serialize_request(&key)?
            .pem()?;
        let tls = Arc::new(tls::enrolment_client(token.ca_fingerprint())?);
        let channel = dial(installation.enrol_address(), tls).await?;
        let request = EnrolRequest {
            token_id: token.id().to_owned(),
            token_secret: token.secret().to_owned(),
            node: name.to_owned(),
            csr_pem,
        };
        let answer = EnrolmentClient::new(channel).enrol(request).await?;
        let answer = answer.into_inner();
        Ok(Self {
            site: site.to_owned(),
            name: name.to_owned(),
            address,
            certificate: answer.certificate_pem,
            key: key.serialize_pem(),
            ca: answer.ca_pem,
        })
    }

    /// Connects and is welcomed; then takes offers on a task of its own.
    pub async fn connect(&self, installation: &Installation) -> Result<Connected> {
        let tls = client(&self.certificate, &self.key, &self.ca)?;
        let mut fleet = FleetClient::new(dial(installation.address(), tls).await?);
        let (out, messages) = mpsc::channel(16);
        out.send(message(agent_message::Kind::Hello(self.hello())))
            .await?;
        let answers = fleet.session(ReceiverStream::new(messages)).await?;
        let mut answers = answers.into_inner();
        let first = answers.message().await?.and_then(|message| message.kind);
        ensure!(
            matches!(first, Some(controller_message::Kind::Welcome(_))),
            "{}: not welcomed",
            self.name
        );
        let generation = Arc::new(AtomicU64::new(0));
        let session = Session {
            fleet,
            out,
            confirmed: (0, Vec::new()),
            live: Vec::new(),
            generation: Arc::clone(&generation),
        };
        Ok(Connected {
            generation,
            session: tokio::spawn(session.run(answers)),
        })
    }

    fn hello(&self) -> Hello {
        Hello {
            site: self.site.clone(),
            node: self.name.clone(),
            agent_version: "simulated".to_owned(),
            boot_id: "simulated".to_owned(),
            facts: Some(NodeFacts {
                hostname: self.name.clone(),
                backend: "nft".to_owned(),
                iptables_version: "1.8.9".to_owned(),
                addresses: vec![InterfaceAddress {
                    interface: "eth1".to_owned(),
                    address: self.address.to_vec(),
                    prefix_length: 16,
                }],
                ..NodeFacts::default()
            }),
            ..Hello::default()
        }
    }
}

async fn dial(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<Channel> {
    channel::connect(address, tls)
        .await
        .map_err(|error| anyhow::anyhow!("no connection to {address}: {error}"))
}

fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

struct Session {
    fleet: FleetClient<Channel>,
    out: mpsc::Sender<AgentMessage>,
    confirmed: (u64, Vec<u8>),
    live: Vec<u8>,
    generation: Arc<AtomicU64>,
}

impl Session {
    async fn run(mut self, mut answers: Streaming<ControllerMessage>) -> Result<()> {
        while let Some(said) = answers.message().await? {
            match said.kind {
                Some(controller_message::Kind::Offer(offer)) => self.take(&offer).await?,
                Some(controller_message::Kind::Live(notice)) => {
                    self.live = notice.digest;
                    self.say(0, 0, &[], NodeState::Applied).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn take(&mut self, offer: &Offer) -> Result<()> {
        self.say(
            offer.nonce,
            offer.generation,
            &offer.digest,
            NodeState::Applying,
        )
        .await?;
        if self.confirmed.1 != offer.digest {
            let ruleset = self.fetch(&offer.digest).await?;
            ensure!(
                ruleset.digest().as_bytes().as_slice() == offer.digest,
                "another ruleset than was offered"
            );
        }
        self.confirmed = (offer.generation, offer.digest.clone());
        self.generation.store(offer.generation, Ordering::SeqCst);
        self.say(
            offer.nonce,
            offer.generation,
            &offer.digest,
            NodeState::Applied,
        )
        .await
    }

    async fn fetch(&mut self, digest: &[u8]) -> Result<Ruleset> {
        let request = FetchRulesetRequest {
            digest: digest.to_vec(),
        };
        let mut chunks = self.fleet.fetch_ruleset(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend(chunk.data);
        }
        Ruleset::decode(&bytes).context("a fetched ruleset")
    }

    async fn say(
        &self,
        nonce: u64,
        generation: u64,
        digest: &[u8],
        state: NodeState,
    ) -> Result<()> {
        let status = NodeStatus {
            nonce,
            generation,
            digest: digest.to_vec(),
            state: state.into(),
            confirmed_generation: self.confirmed.0,
            confirmed_digest: self.confirmed.1.clone(),
            live_digest: self.live.clone(),
            ..NodeStatus::default()
        };
        self.out
            .send(message(agent_message::Kind::Status(status)))
            .await?;
        Ok(())
    }
}
