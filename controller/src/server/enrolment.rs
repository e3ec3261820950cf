//! The gRPC service of the enrolment listener.

use tonic::{Code, Request, Response, Status};
use voipfleet_proto::v1::{EnrolRequest, EnrolResponse, enrolment_server::Enrolment};

use crate::enrolment::{EnrolError, Registrar};
use crate::log_limit::{LogLimit, short};
use crate::pki::PkiError;
use crate::server::listen::Peer;

/// The largest request: a certificate request of at most 16 KiB and short texts.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most of a name from a stranger that the log repeats.
const SHOWN: usize = 80;

/// The service.
#[derive(Debug, Clone)]
pub struct EnrolmentService {
    registrar: Registrar,
    lines: LogLimit,
}

impl EnrolmentService {
    /// The service of a registrar.
    pub fn new(registrar: Registrar) -> Self {
        Self {
            registrar,
            lines: LogLimit::new("enrolment"),
        }
    }
}

fn code(error: &EnrolError) -> Code {
    match error {
        EnrolError::UnknownToken => Code::Unauthenticated,
        EnrolError::Expired { .. } | EnrolError::Used { .. } | EnrolError::OtherName { .. } => {
            Code::PermissionDenied
        }
        EnrolError::Name(_) | EnrolError::Pki(PkiError::Request(_)) => Code::InvalidArgument,
        EnrolError::Taken(_) => Code::AlreadyExists,
        EnrolError::Busy => Code::ResourceExhausted,
        EnrolError::Pki(_) | EnrolError::Store(_) | EnrolError::Audit(_) => Code::Internal,
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<EnrolResponse>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .map_or_else(String::new, |peer| peer.address.to_string());
        let request = request.into_inner();
        let error = match self.registrar.enrol(&request).await {
            Ok(answer) => return Ok(Response::new(answer)),
            Err(error) => error,
        };
        let node: String = request.node.chars().take(SHOWN).collect();
        let token: String = request.token_id.chars().take(SHOWN).collect();
        let reason = crate::errors::chain(&error);
        if self.lines.admits("strangers") {
            let reason = short(&reason);
            tracing::warn!(peer, node, token, reason, "enrolment refused");
        }
        self.registrar.refused(peer, &node, &token, reason).await;
        let code = code(&error);
        if code == Code::Internal {
            return Err(Status::internal(
                "the controller could not enrol this machine; check its log",
            ));
        }
        Err(Status::new(code, error.to_string()))
    }
}
