//! The gRPC service that agents call.

use std::pin::Pin;

use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::fleet_server;
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, FetchDynamicSetsRequest, FetchRulesetRequest, Reason,
};
use voipfleet_protocol::identity::Identity;
use voipfleet_ruleset::ruleset::Digest;

use super::listen::Peer;
use crate::errors::chain;
use crate::fleet::{Chunks, FetchError, Fleet, NotAdmitted, SessionEnd};
use crate::pki::authority::Leaf;
use crate::records::NodeId;
use crate::server::rpc_status::failed;

/// The largest message of an agent.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Debug, Clone)]
pub struct FleetService {
    fleet: Fleet,
}

impl FleetService {
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet }
    }

    /// The node that a request comes from: only the certificate counts, and its key must be
    /// the one that was enrolled.
    async fn node<T>(&self, request: &Request<T>) -> Result<(NodeId, Peer, Leaf), Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Refusal::new(Reason::Internal, "the connection has no peer"))?;
        let Some(proven) = &peer.proven else {
            let message = "this call needs a certificate";
            return Err(Refusal::new(Reason::CertificateRequired, message).into());
        };
        let Identity::Node { site, node } = &proven.identity else {
            let identity = &proven.identity;
            tracing::warn!(peer = %peer.address, %identity, "only nodes may make this call");
            let message =
                format!("only nodes may make this call; this certificate is for {identity}");
            return Err(Refusal::new(Reason::WrongIdentity, message).into());
        };
        let id = NodeId {
            site: site.clone(),
            node: node.clone(),
        };
        match self.fleet.admit(&id, &proven.leaf).await {
            Ok(()) => Ok((id, peer.clone(), proven.leaf.clone())),
            Err(refusal) => {
                if self.fleet.may_log(&id) {
                    let reason = chain(&refusal);
                    tracing::warn!(node = %id, peer = %peer.address, reason, "node refused");
                }
                Err(not_admitted(refusal))
            }
        }
    }
}

fn not_admitted(error: NotAdmitted) -> Status {
    let reason = match &error {
        NotAdmitted::Deleted => Reason::NodeDeleted,
        NotAdmitted::Expired => Reason::CertificateExpired,
        NotAdmitted::OtherKey => Reason::NodeKeyReplaced,
        NotAdmitted::Store(_) => Reason::StoreFailed,
    };
    match error {
        NotAdmitted::Store(error) => failed(error),
        error => Refusal::new(reason, error.to_string()).into(),
    }
}

fn ended(error: SessionEnd) -> Status {
    let message = error.to_string();
    match error {
        SessionEnd::Stopping => Refusal::new(Reason::Stopping, message).into(),
        SessionEnd::NotHello | SessionEnd::SecondHello => {
            Refusal::new(Reason::InvalidRequest, message).into()
        }
        SessionEnd::NoHello | SessionEnd::NotReading => {
            Refusal::new(Reason::TooSlow, message).into()
        }
        SessionEnd::OtherNode(_) => Refusal::new(Reason::WrongIdentity, message).into(),
        SessionEnd::Duplicate(_) => Refusal::new(Reason::NodeDuplicate, message).into(),
        SessionEnd::Replaced(_) => Refusal::new(Reason::Conflict, message).into(),
        SessionEnd::HungUp | SessionEnd::Connection(_) => Status::new(Code::Cancelled, message),
        SessionEnd::NotAdmitted(error) => not_admitted(error),
        SessionEnd::Store(error) => failed(error),
    }
}

fn not_fetched(error: FetchError) -> Status {
    let message = error.to_string();
    match error {
        FetchError::Stopping => Refusal::new(Reason::Stopping, message).into(),
        FetchError::Busy | FetchError::OwnBusy => Refusal::new(Reason::Busy, message).into(),
        FetchError::Replaced | FetchError::NotCurrent => {
            Status::new(Code::FailedPrecondition, message)
        }
        FetchError::OtherNode => Refusal::new(Reason::NotPermitted, message).into(),
        FetchError::Lost => Status::new(Code::DataLoss, message),
        FetchError::NotReading => Refusal::new(Reason::TooSlow, message).into(),
        FetchError::Store(error) => failed(error),
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    let invalid = |error| Refusal::new(Reason::InvalidRequest, chain(&error)).into();
    Digest::try_from(bytes).map_err(invalid)
}

fn chunks(fetched: Result<Chunks, FetchError>) -> Result<Response<Answers<Chunk>>, Status> {
    let chunks = fetched.map_err(not_fetched)?;
    let chunks = chunks.map(|chunk| chunk.map_err(not_fetched));
    Ok(Response::new(Box::pin(chunks)))
}

#[tonic::async_trait]
impl fleet_server::Fleet for FleetService {
    type SessionStream = Answers<ControllerMessage>;
    type FetchRulesetStream = Answers<Chunk>;
    type FetchDynamicSetsStream = Answers<Chunk>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (id, peer, leaf) = self.node(&request).await?;
        let inbound = request.into_inner();
        let inbound =
            inbound.map(|message| message.map_err(|error| SessionEnd::Connection(error.into())));
        let messages = self.fleet.serve(id, peer.address, leaf, inbound);
        let messages = ReceiverStream::new(messages.map_err(ended)?);
        let messages = messages.map(|message| message.map_err(ended));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn fetch_ruleset(
        &self,
        request: Request<FetchRulesetRequest>,
    ) -> Result<Response<Self::FetchRulesetStream>, Status> {
        let (id, ..) = self.node(&request).await?;
        let digest = digest(&request.get_ref().digest)?;
        chunks(self.fleet.fetch(&id, digest).await)
    }

    async fn fetch_dynamic_sets(
        &self,
        request: Request<FetchDynamicSetsRequest>,
    ) -> Result<Response<Self::FetchDynamicSetsStream>, Status> {
        let (id, ..) = self.node(&request).await?;
        let digest = digest(&request.get_ref().digest)?;
        chunks(self.fleet.fetch_dynamic(&id, digest).await)
    }
}
