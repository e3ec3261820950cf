//! Errors of the connection and of calls, as an operator reads them.

use std::error::Error;
use std::io;

use jiff::SignedDuration;
use rustls::{AlertDescription, CertificateError};
use tonic::Code;
use voipfleet_proto::refusal::Refusal;

use crate::failure::{Failure, chain};
use crate::format::span;

/// The metadata in which the controller sends the request id.
const REQUEST_ID: &str = "voipfleet-request";
const SHOW_CONTEXT: &str = "show the controller and certificate in use: voipctl context";
/// The hint where a certificate must be replaced.
pub const NEW_CONTEXT: &str =
    "ask an admin for a new context file; to install it, see: voipctl context use --help";
/// The hint where the controller is slow.
pub const OVERLOADED: &str = "it may be overloaded: check its log, then try again";

/// The failure to connect.
pub fn of_connection(address: &str, error: Box<dyn Error + Send + Sync>) -> Failure {
    if error.is::<voipfleet_proto::channel::InvalidAddress>() {
        return Failure::input("`controller` in the context file is not an address").because(error);
    }
    explained(address, error.as_ref())
        .unwrap_or_else(|| unreachable(address).because(without_wrapping(error.as_ref())))
}

/// The failure of a call.
pub fn of_status(address: &str, operator: &str, status: &tonic::Status) -> Failure {
    let failure = without_request(address, operator, status);
    // It finds the call in the audit log and in the controller's own log.
    let request = status.metadata().get(REQUEST_ID);
    match request.and_then(|number| number.to_str().ok()) {
        Some(number) => failure.request(number),
        None => failure,
    }
}

fn without_request(address: &str, operator: &str, status: &tonic::Status) -> Failure {
    if let Some(failure) = explained(address, status) {
        return failure;
    }
    if let Some(cause) = transport(status) {
        return Failure::controller(format!(
            "lost the connection to the controller at {address}"
        ))
        .because(cause)
        .hint("check that voipfleet-controller is running there, then try again");
    }
    let refusal = Refusal::of(status);
    let message = &refusal.message;
    let failure = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => Failure::input(message),
        Code::Unauthenticated | Code::PermissionDenied => {
            // A refusal of the controller itself names the operator.
            Failure::controller(match refusal.reason {
                Some(_) => format!("permission denied: {message}"),
                None => format!("permission denied for {operator}: {message}"),
            })
        }
        Code::ResourceExhausted => {
            Failure::controller(format!("the controller is busy: {message}"))
        }
        Code::Aborted => Failure::controller(format!("conflict: {message}")),
        Code::DeadlineExceeded => {
            Failure::controller(format!("the controller at {address} timed out: {message}"))
        }
        Code::Unavailable => Failure::controller(format!(
            "the controller at {address} is unavailable: {message}"
        )),
        Code::Unimplemented => Failure::controller("the controller does not support this command"),
        _ => Failure::controller(format!("internal error of the controller: {message}")),
    };
    let changed = refusal.changed.iter();
    let failure = changed.fold(failure, |failure, changed| {
        failure.detail(format!("{}: {}", changed.subject, changed.description))
    });
    with_hints(failure, &refusal, status.code())
}

/// Adds the controller's own hints, otherwise those of the status code.
fn with_hints(failure: Failure, refusal: &Refusal, code: Code) -> Failure {
    if !refusal.hints.is_empty() {
        return failure.with_hints(refusal.hints.iter().cloned());
    }
    if let Some(time) = refusal.retry_after {
        let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        return failure.hint(format!("try again in {}", span(time)));
    }
    match code {
        Code::Unauthenticated | Code::PermissionDenied => failure.hint(SHOW_CONTEXT),
        Code::ResourceExhausted => failure.hint("try again in a moment"),
        Code::Aborted => failure.hint("review the change, then try again"),
        Code::DeadlineExceeded => failure.hint(OVERLOADED),
        Code::Unavailable => failure.hint("try again when it is back"),
        Code::Unimplemented => failure.hint("update the controller: it is older than this voipctl"),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => failure,
        _ => failure.hint("check the controller's log"),
    }
}

fn unreachable(address: &str) -> Failure {
    Failure::controller(format!("cannot reach the controller at {address}"))
        .hint("check that voipfleet-controller is running there, and the address: voipctl context")
}

/// Explains causes that an operator can fix.
fn explained(address: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    if let Some(alert) = alert(error) {
        return Some(refused(address, alert));
    }
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(why) => Some(untrusted(address, why)),
        other => Some(
            Failure::controller(format!("no TLS 1.3 connection to {address}: {other}"))
                .hint("check that it is the address of a Voipfleet controller: voipctl context"),
        ),
    }
}

/// We do not trust the controller's certificate.
fn untrusted(address: &str, why: &CertificateError) -> Failure {
    let (words, hint) = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "its certificate has expired",
            "check the clocks of both hosts; if they are right, renew it on the controller",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "its certificate is not valid yet",
            "check the clocks of both hosts",
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "its certificate was issued by another CA than the one in this context",
            NEW_CONTEXT,
        ),
        CertificateError::NotValidForName => (
            "its certificate is not that of this installation's controller",
            "check the controller's address: voipctl context",
        ),
        _ => (
            "its certificate is not that of a Voipfleet controller",
            SHOW_CONTEXT,
        ),
    };
    Failure::controller(format!("cannot trust the controller at {address}: {words}")).hint(hint)
}

/// The controller does not accept our certificate.
fn refused(address: &str, alert: AlertDescription) -> Failure {
    let (words, hint) = match alert {
        AlertDescription::CertificateExpired => {
            ("it has expired, or a clock is wrong", NEW_CONTEXT)
        }
        // The second comes when the other CA has the same name.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => (
            "it was issued by another CA than the controller's",
            NEW_CONTEXT,
        ),
        AlertDescription::CertificateRevoked => ("it was revoked", NEW_CONTEXT),
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => ("it is not valid there", NEW_CONTEXT),
        _ => {
            let words = format!("the controller at {address} aborted the TLS handshake: {alert:?}");
            return Failure::controller(words).hint(SHOW_CONTEXT);
        }
    };
    Failure::controller(format!(
        "the controller at {address} rejected our certificate: {words}"
    ))
    .hint(hint)
}

/// The alert with which the peer ended the connection. With TLS 1.3 a client may send before its
/// certificate is checked, so the alert arrives in the middle of HTTP/2, and h2 keeps only the text
/// of the I/O error: rustls has no other form of it to match.
fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    if let Some(rustls::Error::AlertReceived(alert)) = tls_error(error) {
        return Some(*alert);
    }
    let words = chain(error);
    let (_, name) = words.split_once("received fatal alert: ")?;
    [
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateUnknown,
        AlertDescription::BadCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::DecryptError,
        AlertDescription::AccessDenied,
        AlertDescription::HandshakeFailure,
        AlertDescription::ProtocolVersion,
    ]
    .into_iter()
    .find(|known| name.starts_with(&format!("{known:?}")))
}

/// The TLS error among the causes; I/O errors wrap it.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inside = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(inside) = inside
            && let Some(tls) = tls_error(inside)
        {
            return Some(tls);
        }
        next = cause.source();
    }
    None
}

/// What broke the connection, if that is what failed: a status that the controller sent has no
/// source.
fn transport(status: &tonic::Status) -> Option<String> {
    let cause = status.source()?;
    Some(without_wrapping(cause))
}

/// The causes behind tonic's own "transport error", which adds nothing, and without the link to
/// the documentation that rustls appends for programmers.
fn without_wrapping(error: &(dyn Error + 'static)) -> String {
    let words = match error.source() {
        Some(cause) if error.is::<tonic::transport::Error>() => chain(cause),
        _ => chain(error),
    };
    let manual = words.find(": https://").unwrap_or(words.len());
    words.get(..manual).unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_reported_as_such() {
        let words = "peer closed connection without sending TLS close_notify: https://docs.rs/x";
        let broken = io::Error::new(io::ErrorKind::UnexpectedEof, words);
        let status = tonic::Status::from_error(Box::new(broken));
        let failure = of_status("controller:7443", "operator ada", &status);
        assert_eq!(
            chain(&failure),
            "lost the connection to the controller at controller:7443: peer closed connection \
             without sending TLS close_notify"
        );
        assert_eq!(failure.status, crate::failure::ExitStatus::NoController);
    }
}
