//! Why a handshake failed, in plain words.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// The reason for an operator's log.
pub(super) fn words(error: &io::Error) -> String {
    let Some(reason) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the peer hung up during the TLS handshake".to_owned()
            }
            _ => format!("the TLS handshake failed: {error}"),
        };
    };
    match reason {
        Error::NoCertificatesPresented => {
            "the peer showed no certificate; machines enrol on the enrolment listener".to_owned()
        }
        Error::InvalidCertificate(why) => certificate(why),
        Error::AlertReceived(alert) => refused_by_peer(*alert),
        Error::PeerIncompatible(_) => {
            format!("the peer speaks no TLS 1.3 that we accept: {reason}")
        }
        Error::InvalidMessage(_) => "the peer does not speak TLS".to_owned(),
        _ => format!("the TLS handshake failed: {reason}"),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired; enrol the node again".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet; compare the clocks of both machines"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the peer's certificate is not of this installation's CA".to_owned()
        }
        CertificateError::BadSignature => "the peer's certificate has a wrong signature".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is not one for clients".to_owned()
        }
        other => format!("the peer's certificate is not acceptable: {other}"),
    }
}

fn refused_by_peer(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "the peer does not know this installation's CA: it belongs to another one, or its \
             join token does"
                .to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the peer says that this controller's certificate has expired; compare the clocks, \
             and make a new one"
                .to_owned()
        }
        other => format!("the peer refused this controller's certificate ({other:?})"),
    }
}
