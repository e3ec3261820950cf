//! A controller that answers what a test scripts, over real TLS and gRPC.

mod connection;
mod enrolment;
mod fleet;
mod operator;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use voipfleet_proto::v1::fleet_server::FleetServer;
use voipfleet_proto::v1::operator_server::OperatorServer;
use voipfleet_protocol::identity::tls;

use crate::credentials::Credentials;
use fleet::FleetDouble;
use operator::OperatorDouble;

pub use enrolment::RefusingEnrolment;
pub use fleet::{ControllerSession, Served};
pub use operator::{PeopleScript, Script};

/// What is served, by digest: rulesets and dynamic sets.
type Contents = Arc<Mutex<HashMap<Vec<u8>, Served>>>;

/// A controller on a port of its own, until it is dropped.
#[derive(Debug)]
pub struct FakeController {
    pub address: SocketAddr,
    /// The sessions that agents open. Once this is closed, agents are refused.
    pub sessions: mpsc::Receiver<ControllerSession>,
    contents: Contents,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl FakeController {
    pub async fn start(credentials: &Credentials) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Arc::new(tls::server(credentials.tls()).unwrap());
        let incoming = connection::accept(listener, tls);
        let (opened, sessions) = mpsc::channel(4);
        let contents = Contents::default();
        let script = Arc::<Mutex<Script>>::default();
        let fleet = FleetServer::new(FleetDouble {
            sessions: opened,
            contents: Arc::clone(&contents),
        });
        let operator = OperatorServer::new(OperatorDouble {
            script: Arc::clone(&script),
        });
        let task = tokio::spawn(async move {
            Server::builder()
                .add_service(fleet)
                .add_service(operator.max_decoding_message_size(16 * 1024 * 1024))
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .unwrap();
        });
        Self {
            address,
            sessions,
            contents,
            script,
            task,
        }
    }

    /// Gives these chunks to an agent that fetches `digest`.
    pub fn serve(&self, digest: &[u8], chunks: Vec<Vec<u8>>) {
        self.serve_as(digest, Served::Chunks(chunks));
    }

    pub fn serve_as(&self, digest: &[u8], served: Served) {
        let mut contents = self.contents.lock().unwrap();
        contents.insert(digest.to_vec(), served);
    }

    /// Changes what it answers to operators.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The operators' requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<String> {
        self.script.lock().unwrap().requests.clone()
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        self.task.abort();
    }
}
