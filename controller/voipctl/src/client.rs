//! The connection to the controller, and its timeouts.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tonic::Response;
use tonic::transport::Channel;
use voipfleet_proto::channel;
use voipfleet_proto::v1;
use voipfleet_proto::v1::operator_client::OperatorClient;

use crate::context::Context;
use crate::failure::Failure;
use crate::grpc_errors::{NEW_CONTEXT, OVERLOADED, of_connection, of_status};

/// The largest request, in bytes: documents with a few long lists. The controller's limit is the
/// same.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer, in bytes: the rendered input of a large site.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// How long one answer may take: a compile of a large site takes much less.
pub const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A connected controller.
pub struct Controller {
    address: String,
    operator: String,
    channel: Channel,
}

impl Controller {
    /// Connects to the controller of `context`.
    pub async fn connect(context: &Context, now: Timestamp) -> Result<Self, Failure> {
        let certificate = context.certificate()?;
        if certificate.expires.is_past(now) {
            return Err(Failure::controller(format!(
                "our certificate expired {}",
                certificate.expires.relative(now)
            ))
            .hint(NEW_CONTEXT));
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

    /// The controller's calls.
    pub fn calls(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Awaits an answer.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        self.within(ANSWER_TIMEOUT, call)
            .await
            .map(Response::into_inner)
    }

    /// The stored documents of a kind (empty: of all), or the one of a name, however long they
    /// are together.
    pub async fn documents(
        &self,
        kind: &str,
        name: &str,
    ) -> Result<v1::GetDocumentsResponse, Failure> {
        let mut all = v1::GetDocumentsResponse::default();
        loop {
            let request = v1::GetDocumentsRequest {
                kind: kind.to_owned(),
                name: name.to_owned(),
                paged: true,
                after: all.next,
                state: all.state,
            };
            let page = self.answer(self.calls().get_documents(request)).await?;
            all.complete = page.complete;
            (all.next, all.state) = (page.next, page.state);
            all.documents.extend(page.documents);
            if all.next == 0 {
                return Ok(all);
            }
        }
    }

    /// Awaits `call`, at most for `limit`.
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
            .hint(OVERLOADED)),
        }
    }
}
