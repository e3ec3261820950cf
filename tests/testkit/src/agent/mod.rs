//! An agent without a kernel: it speaks the fleet's protocol as a node does.
//!
//! A test drives one message by message through [`AgentSession`], or lets it run by itself as
//! [`RunningAgent`].

mod running;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use voipfleet_proto::channel;
use voipfleet_proto::v1::enrolment_client::EnrolmentClient;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{
    AgentMessage, EnrolRequest, EnrolResponse, Hello, InterfaceAddress, NodeFacts, NodeState,
    NodeStatus, agent_message, controller_message,
};
use voipfleet_protocol::identity::{JoinToken, tls};

use crate::BoxError;
use crate::credentials::{Credentials, certificate_request};

pub use running::{History, RunningAgent};
pub use session::AgentSession;

/// An enrolled node.
#[derive(Debug, Clone)]
pub struct FakeAgent {
    pub site: String,
    pub name: String,
    pub credentials: Credentials,
    /// What it reports of its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// The generation and digest that it has confirmed.
    pub confirmed: Option<(u64, Vec<u8>)>,
    /// Of this run of the agent; a copy of the machine has another one.
    pub instance: String,
}

/// Asks for a certificate, as a machine does.
pub async fn enrol(
    enrol_address: &str,
    token: &str,
    node: &str,
    csr_pem: &str,
) -> Result<EnrolResponse, Status> {
    let token: JoinToken = token.parse().unwrap();
    let tls = tls::enrolment_client(token.ca_fingerprint()).unwrap();
    let channel = channel::connect(enrol_address, Arc::new(tls))
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = EnrolRequest {
        token_id: token.id().to_owned(),
        token_secret: token.secret().to_owned(),
        node: node.to_owned(),
        csr_pem: csr_pem.to_owned(),
    };
    let answer = EnrolmentClient::new(channel).enrol(request).await?;
    Ok(answer.into_inner())
}

impl FakeAgent {
    /// Enrols with a key of its own.
    pub async fn enrol(
        enrol_address: &str,
        token: &str,
        node: &str,
        addresses: Vec<InterfaceAddress>,
    ) -> Result<Self, Status> {
        let (csr, key) = certificate_request();
        let answer = enrol(enrol_address, token, node, &csr).await?;
        assert_eq!(answer.node, node);
        Ok(Self {
            site: answer.site,
            name: answer.node,
            credentials: Credentials {
                certificate: answer.certificate_pem,
                key,
                ca: answer.ca_pem,
            },
            addresses,
            confirmed: None,
            instance: "first".to_owned(),
        })
    }

    /// A copy of the machine: another run of the agent, with other addresses.
    #[must_use]
    pub fn copy(&self, addresses: Vec<InterfaceAddress>) -> Self {
        Self {
            addresses,
            instance: format!("copy of {}", self.instance),
            ..self.clone()
        }
    }

    /// The first message of a session.
    pub fn hello(&self) -> Hello {
        let (generation, digest) = self.confirmed.clone().unwrap_or_default();
        let state = match generation {
            0 => NodeState::Unspecified,
            _ => NodeState::Applied,
        };
        Hello {
            site: self.site.clone(),
            node: self.name.clone(),
            agent_version: "test".to_owned(),
            boot_id: "boot".to_owned(),
            instance: self.instance.clone(),
            generation,
            digest: digest.clone(),
            facts: Some(NodeFacts {
                hostname: self.name.clone(),
                backend: "nft".to_owned(),
                iptables_version: "1.8.9".to_owned(),
                addresses: self.addresses.clone(),
                ..NodeFacts::default()
            }),
            status: Some(NodeStatus {
                state: state.into(),
                generation,
                digest: digest.clone(),
                confirmed_generation: generation,
                confirmed_digest: digest,
                ..NodeStatus::default()
            }),
            dynamic_digest: Vec::new(),
            clock_ms: 0,
        }
    }

    pub async fn client(&self, address: &str) -> Result<FleetClient<Channel>, BoxError> {
        Ok(FleetClient::new(self.credentials.connect(address).await?))
    }

    /// Opens a session with this Hello.
    pub async fn open(&self, address: &str, hello: Hello) -> Result<AgentSession, BoxError> {
        let (out, messages) = mpsc::channel(16);
        let kind = Some(agent_message::Kind::Hello(hello));
        out.send(AgentMessage { kind }).await?;
        let mut client = self.client(address).await?;
        let answers = client.session(ReceiverStream::new(messages)).await?;
        Ok(AgentSession {
            agent: self.clone(),
            client,
            out,
            answers: answers.into_inner(),
            notices: VecDeque::new(),
        })
    }

    /// Opens a session with its own Hello, up to the Welcome.
    pub async fn connect(&self, address: &str) -> Result<AgentSession, BoxError> {
        self.welcomed(address, self.hello()).await
    }

    /// Opens a session with this Hello, up to the Welcome.
    pub async fn welcomed(&self, address: &str, hello: Hello) -> Result<AgentSession, BoxError> {
        let mut session = self.open(address, hello).await?;
        match session.next().await? {
            Some(controller_message::Kind::Welcome(_)) => Ok(session),
            other => Err(format!("{}: not welcomed: {other:?}", self.name).into()),
        }
    }
}
