//! A controller whose every word the test decides, behind real TLS and gRPC.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use voipfleet_agent::host::state_dir::{Identity, NodeConfig, StateDir};
use voipfleet_proto::v1::fleet_server::{Fleet, FleetServer};
use voipfleet_proto::v1::{
    AgentMessage, Chunk, ControllerMessage, FetchLiveSetsRequest, FetchRulesetRequest,
};
use voipfleet_protocol::identity::tls;

/// One installation's CA.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn issue(&self, path: &str, last_year: i32) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let uri = format!("spiffe://voipfleet/{path}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            ca_pem: self.0.pem(),
        }
    }
}

/// What a session consists of: what the agent says, and what the test answers.
pub(crate) struct Session {
    pub(crate) said: Streaming<AgentMessage>,
    pub(crate) say: mpsc::Sender<Result<ControllerMessage, Status>>,
}

/// What whoever asks for a digest is given.
#[derive(Clone)]
pub(crate) enum Served {
    /// These, and then the end.
    Chunks(Vec<Vec<u8>>),
    /// The same one so many times. It counts the bytes that were taken.
    Flood {
        chunk: Vec<u8>,
        times: usize,
        taken: Arc<AtomicU64>,
    },
    /// The first ones, and then an error.
    Broken(Vec<Vec<u8>>),
    /// The first ones, and then nothing more.
    Silent(Vec<Vec<u8>>),
    /// A byte, and after that time another, for ever.
    Drip(Duration),
}

/// What is served, by digest: rulesets and live sets.
type Rulesets = Mutex<HashMap<Vec<u8>, Served>>;

#[derive(Clone)]
struct Scripted {
    sessions: mpsc::Sender<Session>,
    rulesets: Arc<Rulesets>,
}

#[tonic::async_trait]
impl Fleet for Scripted {
    type SessionStream = ReceiverStream<Result<ControllerMessage, Status>>;
    type FetchRulesetStream = ReceiverStream<Result<Chunk, Status>>;
    type FetchLiveSetsStream = ReceiverStream<Result<Chunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (say, stream) = mpsc::channel(16);
        let said = request.into_inner();
        self.sessions
            .send(Session { said, say })
            .await
            .map_err(|_| Status::permission_denied("node site-a/sip1 was deleted"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_ruleset(
        &self,
        request: Request<FetchRulesetRequest>,
    ) -> Result<Response<Self::FetchRulesetStream>, Status> {
        let digest = request.into_inner().digest;
        let served = self.rulesets.lock().unwrap().get(&digest).cloned();
        let served = served.ok_or_else(|| Status::not_found("no such ruleset"))?;
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(served.send(sender));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_live_sets(
        &self,
        request: Request<FetchLiveSetsRequest>,
    ) -> Result<Response<Self::FetchLiveSetsStream>, Status> {
        let digest = request.into_inner().digest;
        let served = self.rulesets.lock().unwrap().get(&digest).cloned();
        let served = served.ok_or_else(|| Status::not_found("no such live sets"))?;
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(served.send(sender));
        Ok(Response::new(ReceiverStream::new(stream)))
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
                    // The slowness is what is tried.
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
        // An agent that has enough goes away.
        for data in chunks {
            let _taken = to.send(Ok(Chunk { data })).await;
        }
        if let Some(end) = end {
            let _taken = to.send(end).await;
        }
    }
}

/// The controller at work on a port of its own.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    pub(crate) sessions: mpsc::Receiver<Session>,
    rulesets: Arc<Rulesets>,
    task: tokio::task::JoinHandle<()>,
}

impl Controller {
    pub(crate) async fn start(issued: &Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Arc::new(tls::server(issued.credentials()).unwrap());
        let (connections, incoming) = mpsc::channel::<io::Result<Tls>>(4);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(tls);
            while let Ok((tcp, _)) = listener.accept().await {
                // One that is refused learns it from the alert.
                if let Ok(stream) = acceptor.accept(tcp).await
                    && connections.send(Ok(Tls(stream))).await.is_err()
                {
                    return;
                }
            }
        });
        let (sender, sessions) = mpsc::channel(4);
        let rulesets: Arc<Rulesets> = Arc::default();
        let service = FleetServer::new(Scripted {
            sessions: sender,
            rulesets: Arc::clone(&rulesets),
        });
        let task = tokio::spawn(async move {
            let incoming = ReceiverStream::new(incoming);
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            sessions,
            rulesets,
            task,
        }
    }

    /// What is given to whoever asks for `digest`.
    pub(crate) fn serve(&self, digest: &[u8], chunks: Vec<Vec<u8>>) {
        self.serve_as(digest, Served::Chunks(chunks));
    }

    pub(crate) fn serve_as(&self, digest: &[u8], served: Served) {
        let mut rulesets = self.rulesets.lock().unwrap();
        rulesets.insert(digest.to_vec(), served);
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What enrolment would have written.
pub(crate) fn enrolled(folder: &Path, issued: &Identity, controller: SocketAddr) -> StateDir {
    let state = StateDir::open(folder).unwrap();
    let identity = state.identity_folder();
    std::fs::create_dir_all(&identity).unwrap();
    std::fs::write(identity.join("key.pem"), &issued.key_pem).unwrap();
    std::fs::write(identity.join("cert.pem"), &issued.certificate_pem).unwrap();
    std::fs::write(identity.join("ca.pem"), &issued.ca_pem).unwrap();
    let config = NodeConfig {
        site: "site-a".parse().unwrap(),
        node: "sip1".parse().unwrap(),
        roles: vec!["sip".to_owned()],
        controller: controller.to_string(),
    };
    let text = serde_json::to_string(&config).unwrap();
    std::fs::write(state.config_file(), text).unwrap();
    state
}

struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
