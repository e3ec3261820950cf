//! The gRPC service that agents call.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use voipfleet_proto::v1::fleet_server;
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, FetchLiveSetsRequest, FetchRulesetRequest,
};
use voipfleet_protocol::identity::Identity;
use voipfleet_ruleset::ruleset::Digest;

use super::Fleet;
use super::session::Session;
use crate::errors::chain;
use crate::pki::authority::Leaf;
use crate::records::{self, NodeId, NodeRecord};
use crate::server::listen::Peer;
use crate::store::keys;

/// Messages to one node that it has not read yet: Welcome, an offer, and answers to drift
/// reports. More of them wait, and with them the reading of what the node sends.
const OUTBOX: usize = 8;

/// The largest message of an agent.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// The service.
#[derive(Debug, Clone)]
pub struct FleetService {
    fleet: Fleet,
}

impl FleetService {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self { fleet }
    }

    /// The node that a request comes from: only the certificate counts, and its key must be
    /// the one that was enrolled.
    async fn node<T>(&self, request: &Request<T>) -> Result<(NodeId, Peer, Leaf), Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Status::internal("the connection has no peer"))?;
        let Some(proven) = &peer.proven else {
            return Err(Status::unauthenticated("this call needs a certificate"));
        };
        if proven.leaf.expires_ms <= self.fleet.inner.clock.now_ms() {
            return Err(Status::unauthenticated(
                "this node's certificate has expired; enrol it again",
            ));
        }
        let Identity::Node { site, node } = &proven.identity else {
            let identity = &proven.identity;
            tracing::warn!(peer = %peer.address, %identity, "only nodes may make this call");
            return Err(Status::permission_denied(format!(
                "only nodes may make this call, and this certificate is of {identity}"
            )));
        };
        let id = NodeId {
            site: site.clone(),
            node: node.clone(),
        };
        match self.fleet.admit(&id, &proven.leaf).await {
            Ok(()) => Ok((id, peer.clone(), proven.leaf.clone())),
            Err(refusal) => {
                let reason = refusal.message();
                tracing::warn!(node = %id, peer = %peer.address, reason, "node refused");
                Err(refusal)
            }
        }
    }
}

impl Fleet {
    /// Whether a certificate speaks for a node: there is such a node, and it enrolled with this
    /// key.
    pub(super) async fn admit(&self, id: &NodeId, leaf: &Leaf) -> Result<(), Status> {
        let key = keys::node(&id.site, &id.node);
        let record = records::read::<NodeRecord>(self.inner.store.as_ref(), &key)
            .await
            .map_err(crate::rpc_status::failed)?;
        match record {
            None => Err(Status::permission_denied(
                "this node was deleted; enrol it again",
            )),
            Some(read) if read.record.key_hash != leaf.key_hash => Err(Status::permission_denied(
                "this node was enrolled again with another key; enrol this machine under another \
                 name",
            )),
            Some(_) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl fleet_server::Fleet for FleetService {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;
    type FetchRulesetStream = ReceiverStream<Result<Chunk, Status>>;
    type FetchLiveSetsStream = ReceiverStream<Result<Chunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.fleet.inner.stop.is_cancelled() {
            return Err(Status::unavailable("controller is stopping"));
        }
        let (id, peer, leaf) = self.node(&request).await?;
        let (out, messages) = mpsc::channel(OUTBOX);
        let session = Session::new(
            self.fleet.clone(),
            id.clone(),
            peer.address,
            leaf,
            out.clone(),
        );
        let inbound = request.into_inner();
        self.fleet.inner.sessions.spawn(async move {
            if let Err(end) = session.run(inbound).await {
                let reason = end.message().to_owned();
                tracing::info!(node = %id, peer = %peer.address, reason, "session ended");
                // A full outbox means that the node does not read: it learns by the closing.
                let _ = out.try_send(Err(end));
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_ruleset(
        &self,
        request: Request<FetchRulesetRequest>,
    ) -> Result<Response<Self::FetchRulesetStream>, Status> {
        let (id, _, _) = self.node(&request).await?;
        let digest = Digest::try_from(request.get_ref().digest.as_slice())
            .map_err(|error| Status::invalid_argument(chain(&error)))?;
        Ok(Response::new(self.fleet.fetch(&id, digest).await?))
    }

    async fn fetch_live_sets(
        &self,
        request: Request<FetchLiveSetsRequest>,
    ) -> Result<Response<Self::FetchLiveSetsStream>, Status> {
        let (id, _, _) = self.node(&request).await?;
        let digest = Digest::try_from(request.get_ref().digest.as_slice())
            .map_err(|error| Status::invalid_argument(chain(&error)))?;
        Ok(Response::new(self.fleet.fetch_live(&id, digest).await?))
    }
}
