//! The enrolment listener: it refuses every machine in the way that the test says.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use voipfleet_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use voipfleet_proto::v1::{EnrolRequest, EnrolResponse};
use voipfleet_protocol::identity::tls;

use super::connection;
use crate::credentials::Credentials;

/// A listener for enrolments on a port of its own, until it is dropped.
#[derive(Debug)]
pub struct RefusingEnrolment {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

struct Refusing(Status);

#[tonic::async_trait]
impl Enrolment for Refusing {
    async fn enrol(&self, _: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        Err(self.0.clone())
    }
}

impl RefusingEnrolment {
    pub async fn start(credentials: &Credentials, refusal: Status) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = tls::ServerCertificate::new(credentials.tls()).unwrap();
        let tls = Arc::new(certificate.enrolment_server().unwrap());
        let incoming = connection::accept(listener, tls);
        let service = EnrolmentServer::new(Refusing(refusal));
        let task = tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .unwrap();
        });
        Self { address, task }
    }
}

impl Drop for RefusingEnrolment {
    fn drop(&mut self) {
        self.task.abort();
    }
}
