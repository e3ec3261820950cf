//! The connection to the controller, and its time limits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tonic::Response;
use tonic::transport::Channel;
use voipfleet_proto::channel;
use voipfleet_proto::v1::operator_client::OperatorClient;

use crate::context::Context;
use crate::failure::Failure;
use crate::grpc_errors::{of_connection, of_status};

/// The largest request, bytes: documents with a few long lists. The controller takes no more.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer, bytes: the rendered input of a large site. The controller sends no more.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// How long one answer may take: a compile of a large site is well below.
pub const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A controller that answers.
pub struct Controller {
    address: String,
    operator: String,
    channel: Channel,
}

impl Controller {
    /// Dials the controller of `context`.
    pub async fn connect(context: &Context, now: Timestamp) -> Result<Self, Failure> {
        let certificate = context.certificate()?;
        if certificate.expires.is_past(now) {
            return Err(Failure::controller(format!(
                "our certificate expired {}",
                certificate.expires.relative(now)
            ))
            .hint("ask the installation's operator for a new context file, then: voipctl context use FILE"));
        }
        let tls = Arc::new(context.tls()?);
        let address = context.controller.clone();
        let dialled = channel::connect(&address, tls).await;
        let channel = dialled.map_err(|error| of_connection(&address, error))?;
        Ok(Self {
            address,
            operator: certificate.identity.to_string(),
            channel,
        })
    }

    /// The calls that the controller offers.
    pub fn calls(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Awaits one answer.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        self.within(ANSWER_TIMEOUT, call)
            .await
            .map(Response::into_inner)
    }

    /// Awaits `call` for so long at most.
    pub async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => {
                answer.map_err(|status| of_status(&self.address, &self.operator, &status))
            }
            Err(_) => Err(Failure::controller(format!(
                "the controller at {} did not answer within {} s",
                self.address,
                limit.as_secs()
            ))
            .hint("it may be overloaded; look at its log, then try again")),
        }
    }
}
