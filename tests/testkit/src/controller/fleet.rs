//! The fleet's service: the test answers each session, and says what fetches get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use voipfleet_proto::v1::fleet_server::Fleet;
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, FetchDynamicSetsRequest, FetchRulesetRequest,
};

use super::Contents;

/// The controller's end of a session.
#[derive(Debug)]
pub struct ControllerSession {
    /// From the agent.
    pub messages: Streaming<AgentMessage>,
    /// To the agent.
    pub answers: mpsc::Sender<Result<ControllerMessage, Status>>,
}

/// What a fetch gets.
#[derive(Debug, Clone)]
pub enum Served {
    /// These, and then the end.
    Chunks(Vec<Vec<u8>>),
    /// The same chunk many times.
    Flood {
        chunk: Vec<u8>,
        times: usize,
        /// Counts the bytes that the agent took.
        taken: Arc<AtomicU64>,
    },
    /// These, and then an error.
    Broken(Vec<Vec<u8>>),
    /// These, and then nothing more.
    Silent(Vec<Vec<u8>>),
    /// One byte after each such pause, for ever.
    Drip(Duration),
}

#[derive(Debug, Clone)]
pub(super) struct FleetDouble {
    pub(super) sessions: mpsc::Sender<ControllerSession>,
    pub(super) contents: Contents,
}

type Chunks = ReceiverStream<Result<Chunk, Status>>;

impl FleetDouble {
    fn fetch(&self, digest: &[u8], missing: &str) -> Result<Response<Chunks>, Status> {
        let served = self.contents.lock().unwrap().get(digest).cloned();
        let served = served.ok_or_else(|| Status::not_found(missing))?;
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(served.send(sender));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Fleet for FleetDouble {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;
    type FetchRulesetStream = Chunks;
    type FetchDynamicSetsStream = Chunks;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, stream) = mpsc::channel(16);
        let messages = request.into_inner();
        self.sessions
            .send(ControllerSession { messages, answers })
            .await
            .map_err(|_| Status::permission_denied("node site-a/sip1 was deleted"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_ruleset(
        &self,
        request: Request<FetchRulesetRequest>,
    ) -> Result<Response<Chunks>, Status> {
        self.fetch(&request.into_inner().digest, "no such ruleset")
    }

    async fn fetch_dynamic_sets(
        &self,
        request: Request<FetchDynamicSetsRequest>,
    ) -> Result<Response<Chunks>, Status> {
        self.fetch(&request.into_inner().digest, "no such dynamic sets")
    }
}

impl Served {
    async fn send(self, to: mpsc::Sender<Result<Chunk, Status>>) {
        let (chunks, end) = match self {
            Served::Chunks(chunks) => (chunks, None),
            Served::Broken(chunks) => (chunks, Some(Err(Status::internal("broken on purpose")))),
            Served::Silent(chunks) => {
                for data in chunks {
                    let _taken = to.send(Ok(Chunk { data })).await;
                }
                return to.closed().await;
            }
            Served::Drip(pause) => {
                while to.send(Ok(Chunk { data: vec![7] })).await.is_ok() {
                    // The slowness is what is tested.
                    tokio::time::sleep(pause).await;
                }
                return;
            }
            Served::Flood {
                chunk,
                times,
                taken,
            } => {
                for _ in 0..times {
                    let data = chunk.clone();
                    if to.send(Ok(Chunk { data })).await.is_err() {
                        return;
                    }
                    taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
                return;
            }
        };
        // An agent that has read enough closes the stream.
        for data in chunks {
            let _taken = to.send(Ok(Chunk { data })).await;
        }
        if let Some(end) = end {
            let _taken = to.send(end).await;
        }
    }
}
