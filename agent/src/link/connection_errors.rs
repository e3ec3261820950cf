//! Explains to an operator why a connection failed.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use tonic::Code;

use voipfleet_proto::proxy::ProxyError;
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::identity::tls::NotEnrolmentListener;

/// How a node gets a new certificate: as long as it is known, its name is taken.
pub(super) const ENROL_AGAIN: &str = "delete the node (`voipctl delete node SITE/NODE`; its rules stay in force), create \
     a token (`voipctl token create`), and enrol again: `voipfleet-agent enroll --force`";

/// What an `error` of a connection to `controller` (`HOST:PORT`) means, and what to do.
pub fn explain(error: &(dyn Error + 'static), controller: &str) -> String {
    if let Some(tls) = causes(error).find_map(tls_error) {
        return of_tls(tls, controller);
    }
    if let Some(proxy) = causes(error).find_map(|error| error.downcast_ref::<ProxyError>()) {
        return format!(
            "{}; to use another proxy, or none: --proxy URL or --no-proxy, of voipfleet-agent enroll, \
             or of voipfleet-agent set-controller {controller} once the node is enrolled",
            chain(proxy)
        );
    }
    // h2 keeps the words of the error below it, and drops the error.
    let words = chain(error);
    if let Some(alert) = alert_in(&words) {
        return of_alert(alert, controller);
    }
    if let Some(status) = causes(error).find_map(|e| e.downcast_ref::<tonic::Status>())
        && let Some(text) = of_status(status, controller)
    {
        return text;
    }
    // A call that failed without an answer: there was a connection, and it broke.
    if let Some(status) = causes(error).find_map(|e| e.downcast_ref::<tonic::Status>()) {
        return format!(
            "the connection to the controller at {controller} broke ({}); if that repeats, see \
             the controller's log",
            status.message()
        );
    }
    format!("the controller at {controller} cannot be reached: {words}")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// The source of an `io::Error` is that of the error inside it, not that error.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().map(io::Error::get_ref) {
        Some(Some(inner)) => Some(inner),
        _ => error.source(),
    }
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<rustls::Error>()
}

fn of_tls(error: &rustls::Error, controller: &str) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => of_alert(*alert, controller),
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "the certificate of the controller at {controller} is not from this node's CA: \
                 it is another installation, or the connection is intercepted"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                "the certificate of the controller at {controller} has expired, or this \
                 machine's clock is wrong"
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!(
                    "the certificate of the controller at {controller} is not valid yet: check \
                     the clocks of both machines"
                )
            }
            CertificateError::Other(other) if other.0.is::<NotEnrolmentListener>() => format!(
                "{controller} is the controller's port for agents and operators; give the one for \
                 enrolment (7444 unless the controller was set up otherwise)"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server at {controller} is not the controller of this node")
            }
            other => format!("the certificate of the controller at {controller}: {other}"),
        },
        other => format!("TLS with the controller at {controller} failed: {other}"),
    }
}

fn of_alert(alert: AlertDescription, controller: &str) -> String {
    let again = ENROL_AGAIN;
    match alert {
        AlertDescription::CertificateExpired => format!(
            "the controller at {controller} refuses this node's certificate: it has expired; \
             {again}"
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::DecryptError => format!(
            "the controller at {controller} refuses this node's certificate: it does not know \
             the CA that signed it; {again}"
        ),
        AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            format!("the controller at {controller} refuses this node's certificate; {again}")
        }
        other => format!("the controller at {controller} ended TLS: {other:?}"),
    }
}

/// `received fatal alert: CertificateExpired` or `AlertReceived(CertificateExpired)`,
/// somewhere in a text.
fn alert_in(words: &str) -> Option<AlertDescription> {
    const KNOWN: [AlertDescription; 7] = [
        AlertDescription::CertificateExpired,
        AlertDescription::UnknownCA,
        AlertDescription::BadCertificate,
        AlertDescription::DecryptError,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::AccessDenied,
    ];
    let (_, rest) = words
        .split_once("fatal alert: ")
        .or_else(|| words.split_once("AlertReceived("))?;
    KNOWN
        .into_iter()
        .find(|alert| rest.starts_with(&format!("{alert:?}")))
}

fn of_status(status: &tonic::Status, controller: &str) -> Option<String> {
    let words = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => Some(format!(
            "the controller at {controller} refuses this node: {words}"
        )),
        Code::ResourceExhausted => Some(format!(
            "the controller at {controller} is too busy: {words}"
        )),
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::Unimplemented
        | Code::Aborted => Some(format!("the controller at {controller} refuses: {words}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn common_connection_errors_have_distinct_explanations() {
        let alert = |alert| wrapped(rustls::Error::AlertReceived(alert));
        let bad = |why: CertificateError| wrapped(why.into());
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, words) in [
            (
                alert(AlertDescription::CertificateExpired),
                "has expired; delete the node",
            ),
            (alert(AlertDescription::UnknownCA), "does not know the CA"),
            (bad(CertificateError::UnknownIssuer), "another installation"),
            (bad(CertificateError::Expired), "machine's clock is wrong"),
            (refused, "cannot be reached: connection refused"),
        ] {
            let text = explain(&error, "c.example:7443");
            assert!(text.contains(words), "{text}");
            assert!(text.contains("c.example:7443"), "{text}");
        }
        let deleted = tonic::Status::permission_denied("node site-a/sip1 was deleted");
        assert_eq!(
            explain(&deleted, "c.example:7443"),
            "the controller at c.example:7443 refuses this node: node site-a/sip1 was deleted"
        );
    }

    #[test]
    fn tls_alert_is_found_in_error_text() {
        let error = io::Error::other("h2: received fatal alert: CertificateExpired (x)");
        assert!(explain(&error, "c:1").contains("has expired"));
    }
}
