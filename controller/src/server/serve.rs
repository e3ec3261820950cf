//! The gRPC services on their listeners.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use voipfleet_proto::v1::enrolment_server::EnrolmentServer;
use voipfleet_proto::v1::fleet_server::FleetServer;
use voipfleet_proto::v1::operator_server::OperatorServer;

use super::answers::{self, AnswerBounds};
use super::api::{self, OperatorService};
use super::enrolment::{self, EnrolmentService};
use super::fleet_service::{self, FleetService};
use super::listen::{self, Incoming};
use crate::enrolment::Registrar;
use crate::fleet::Fleet;

/// How long a stop waits for connections to end.
pub const STOPPING: Duration = Duration::from_secs(10);
/// Requests at once on one connection.
const STREAMS: u32 = 64;
/// How long an enrolment connection may last: it carries one request.
const ENROLMENT_AGE: Duration = Duration::from_secs(30);

/// A listener that failed.
#[derive(Debug, thiserror::Error)]
#[error("the listener cannot go on")]
pub struct ServeError(#[source] tonic::transport::Error);

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(listen::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(listen::KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS))
}

/// Serves agents and operators, until `stop`.
pub fn fleet(
    incoming: Incoming,
    fleet: &Fleet,
    operators: OperatorService,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let agents = FleetServer::new(FleetService::new(fleet.clone()))
        .max_decoding_message_size(fleet_service::MAX_MESSAGE_BYTES);
    let operators = OperatorServer::new(operators)
        .max_decoding_message_size(api::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(answers::MAX_ANSWER_BYTES);
    let mut bounded = builder().layer(AnswerBounds::new());
    let router = bounded.add_service(agents).add_service(operators);
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        let ended = router.serve_with_incoming_shutdown(incoming, stopped);
        ended.await.map_err(ServeError)
    })
}

/// Serves machines that enrol, until `stop`.
pub fn enrolment(
    incoming: Incoming,
    registrar: Registrar,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let service = EnrolmentServer::new(EnrolmentService::new(registrar))
        .max_decoding_message_size(enrolment::MAX_MESSAGE_BYTES);
    let router = builder()
        .max_connection_age(ENROLMENT_AGE)
        .max_connection_age_grace(STOPPING)
        .add_service(service);
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        let ended = router.serve_with_incoming_shutdown(incoming, stopped);
        ended.await.map_err(ServeError)
    })
}
