//! What went wrong between us and the controller, in plain words.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use tonic::Code;

use crate::failure::{Failure, chain};

/// The metadata in which the controller tells the number of a request.
const REQUEST_ID: &str = "voipfleet-request";
const CHECK: &str = "see which controller and certificate voipctl uses: voipctl context";
const NEW_CONTEXT: &str =
    "ask the installation's operator for a new context file, then: voipctl context use FILE";

/// A connection that did not come about.
pub fn of_connection(address: &str, error: Box<dyn Error + Send + Sync>) -> Failure {
    if error.is::<voipfleet_proto::channel::InvalidAddress>() {
        return Failure::input("the context file's controller is no address").because(error);
    }
    explained(address, error.as_ref())
        .unwrap_or_else(|| unreachable(address).because(without_wrapping(error.as_ref())))
}

/// A call that the controller, or the connection to it, did not answer.
pub fn of_status(address: &str, operator: &str, status: &tonic::Status) -> Failure {
    let failure = without_request(address, operator, status);
    // By it the audit log and the controller's own log are searched.
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
            "the connection with the controller at {address} broke"
        ))
        .because(cause)
        .hint("see that the controller runs, then try again; its log says why");
    }
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => with_hint(&message),
        Code::Unauthenticated | Code::PermissionDenied => {
            let refused = with_hint(&format!("the controller refuses {operator}: {message}"));
            let hint = refused.hint.clone().unwrap_or_else(|| CHECK.to_owned());
            refused
                .status(crate::failure::ExitStatus::NoController)
                .hint(hint)
        }
        Code::ResourceExhausted => {
            Failure::controller(format!("the controller is busy: {message}"))
                .hint("wait a little, then try again")
        }
        Code::Aborted => Failure::controller(format!("somebody else was faster: {message}"))
            .hint("look at what changed, then try again"),
        Code::DeadlineExceeded => Failure::controller(format!(
            "the controller at {address} took too long: {message}"
        ))
        .hint("it may be overloaded; look at its log, then try again"),
        Code::Unavailable => Failure::controller(format!(
            "the controller at {address} is not available: {message}"
        ))
        .hint("try again when it is back"),
        Code::Unimplemented => Failure::controller("the controller does not know this command")
            .hint("it is older than this voipctl; update the controller"),
        _ => Failure::controller(format!("the controller failed: {message}"))
            .hint("its log says why"),
    }
}

/// What the controller refuses, in its own words; a last clause that names a command is shown as the hint.
pub fn with_hint(message: &str) -> Failure {
    match message.rsplit_once("; ") {
        Some((message, hint)) if hint.contains("voipctl ") => Failure::input(message).hint(hint),
        _ => Failure::input(message),
    }
}

fn unreachable(address: &str) -> Failure {
    Failure::controller(format!("the controller at {address} cannot be reached")).hint(
        "is voipfleet-controller running there, and is the address right? see: voipctl context",
    )
}

/// Words for causes that an operator can do something about.
fn explained(address: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    if let Some(alert) = alert(error) {
        return Some(refused(address, alert));
    }
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(why) => Some(untrusted(address, why)),
        other => Some(
            Failure::controller(format!("no TLS 1.3 connection with {address}: {other}"))
                .hint("is this the address of a Voipfleet controller? see: voipctl context"),
        ),
    }
}

/// The controller's certificate did not convince us.
fn untrusted(address: &str, why: &CertificateError) -> Failure {
    let (words, hint) = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "its certificate has expired",
            "renew it on the controller, and check the clocks of both machines",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "its certificate is not valid yet",
            "check the clocks of both machines",
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "its certificate is from another CA than this context's",
            NEW_CONTEXT,
        ),
        CertificateError::NotValidForName => (
            "it is not the controller of this context's installation",
            "check the address: voipctl context",
        ),
        _ => (
            "its certificate is not one of a Voipfleet controller",
            CHECK,
        ),
    };
    Failure::controller(format!(
        "the controller at {address} is not trusted: {words}"
    ))
    .hint(hint)
}

/// Our certificate did not convince the controller.
fn refused(address: &str, alert: AlertDescription) -> Failure {
    let (words, hint) = match alert {
        AlertDescription::CertificateExpired => (
            "our certificate has expired, or a clock is wrong",
            NEW_CONTEXT,
        ),
        // The second comes when the other CA has the same name.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => (
            "our certificate is from another CA than the controller's",
            NEW_CONTEXT,
        ),
        AlertDescription::CertificateRevoked => ("our certificate was revoked", NEW_CONTEXT),
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => ("it does not accept our certificate", NEW_CONTEXT),
        _ => {
            let words = format!("the controller at {address} broke off the handshake: {alert:?}");
            return Failure::controller(words).hint(CHECK);
        }
    };
    Failure::controller(format!("the controller at {address} refuses us: {words}")).hint(hint)
}

/// The alert with which the peer ended the connection. TLS 1.3 lets a client speak before its
/// certificate is looked at, so the refusal comes in the middle of HTTP/2, which keeps only the
/// words of it.
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

/// The TLS error somewhere among the causes; I/O errors hold it inside.
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

/// What broke the connection, where that is what failed: a status that the controller sent has
/// no source.
fn transport(status: &tonic::Status) -> Option<String> {
    let cause = status.source()?;
    Some(without_wrapping(cause))
}

/// The causes behind tonic's own "transport error", which says nothing, and without the address
/// of the manual that rustls adds for programmers.
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
    fn a_connection_that_breaks_is_not_the_controllers_failure() {
        let words = "peer closed connection without sending TLS close_notify: https://docs.rs/x";
        let broken = io::Error::new(io::ErrorKind::UnexpectedEof, words);
        let status = tonic::Status::from_error(Box::new(broken));
        let failure = of_status("controller:7443", "operator ada", &status);
        assert_eq!(
            chain(&failure),
            "the connection with the controller at controller:7443 broke: peer closed connection \
             without sending TLS close_notify"
        );
        assert_eq!(failure.status, crate::failure::ExitStatus::NoController);
    }
}
