//! TLS 1.3 configurations: who may be on the other end of a connection.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme, version::TLS13,
};
use sha2::{Digest as _, Sha256};

use super::{Identity, TrustDomain, of_certificate};

/// The application protocol of every connection (HTTP/2).
const ALPN: &[u8] = b"h2";

/// Certificates or keys that make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text without the expected part.
    #[error("the PEM text of the {what} cannot be read")]
    Pem {
        /// What the text should hold.
        what: &'static str,
        /// The parser's reason.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Something that rustls refuses.
    #[error("the certificate and key do not work")]
    Rustls(#[from] rustls::Error),
    /// A CA that cannot verify certificates.
    #[error("the CA certificate does not work")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// A certificate without an identity of ours.
    #[error(transparent)]
    Identity(#[from] super::InvalidIdentity),
}

/// A certificate with its key and the CA that both ends trust, PEM.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The certificate; a chain is fine, leaf first.
    pub certificate_pem: &'a str,
    /// The private key, PKCS#8.
    pub key_pem: &'a str,
    /// The CA's certificate.
    pub ca_pem: &'a str,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// The peer of a machine that enrols is a controller's listener for agents and operators, which does
/// not show its CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is the listener for agents and operators, not the one for enrolment")]
pub struct NotEnrolmentListener;

/// SHA-256 of a certificate's DER: what a join token carries of the CA.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The certificates in a PEM text, DER; at least one.
pub fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() {
        return Err(TlsError::Pem {
            what,
            source: rustls::pki_types::pem::Error::NoItemsFound,
        });
    }
    Ok(found)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|source| TlsError::Pem {
        what: "private key",
        source,
    })
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem, "CA certificate")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The server's certificate, which may be replaced while connections are accepted: those that are
/// open keep theirs.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// Alone, for peers that know the CA.
    alone: Arc<Shown>,
    /// With the CA, for machines that know its hash only.
    with_ca: Arc<Shown>,
}

/// What a listener shows.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

impl ServerCertificate {
    pub fn new(credentials: Credentials<'_>) -> Result<Self, TlsError> {
        let shown = |with_ca| {
            let shown = certified(credentials, with_ca)?;
            Ok::<_, TlsError>(Arc::new(Shown(RwLock::new(shown))))
        };
        Ok(Self {
            alone: shown(false)?,
            with_ca: shown(true)?,
        })
    }

    /// Shows another one from the next connection on.
    pub fn replace(&self, credentials: Credentials<'_>) -> Result<(), TlsError> {
        let new = [
            certified(credentials, false)?,
            certified(credentials, true)?,
        ];
        for (shown, new) in [&self.alone, &self.with_ca].into_iter().zip(new) {
            *shown.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    /// The fleet and operator listener: every peer shows a certificate of our CA.
    pub fn server(&self, ca_pem: &str) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(default_provider());
        let roots = Arc::new(roots(ca_pem)?);
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.alone) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// The enrolment listener: peers show nothing; the server shows its CA too, so that a
    /// machine can compare it with the hash in its token.
    pub fn enrolment_server(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.with_ca) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

fn certified(credentials: Credentials<'_>, with_ca: bool) -> Result<Arc<CertifiedKey>, TlsError> {
    let mut chain = certificates(credentials.certificate_pem, "certificate")?;
    if with_ca {
        chain.extend(certificates(credentials.ca_pem, "CA certificate")?);
    }
    let certified = CertifiedKey::from_der(chain, key(credentials.key_pem)?, &default_provider())?;
    Ok(Arc::new(certified))
}

/// The fleet and operator listener, with a certificate that stays.
pub fn server(credentials: Credentials<'_>) -> Result<ServerConfig, TlsError> {
    ServerCertificate::new(credentials)?.server(credentials.ca_pem)
}

/// A client of the controller: an agent or voipctl. The peer must be the controller of the
/// trust domain in our own certificate.
pub fn client(credentials: Credentials<'_>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let chain = certificates(credentials.certificate_pem, "certificate")?;
    let own = chain.first().map(|leaf| of_certificate(leaf)).transpose()?;
    let verifier = ControllerVerifier {
        anchor: Anchor::Roots(roots(credentials.ca_pem)?),
        domain: own.map(|(domain, _)| domain),
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key(credentials.key_pem)?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the proof that a fresh connection is meant to give.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A machine that enrols: the peer must be a controller under the CA with this fingerprint.
pub fn enrolment_client(ca_fingerprint: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let verifier = ControllerVerifier {
        anchor: Anchor::Fingerprint(ca_fingerprint),
        domain: None,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

#[derive(Debug)]
enum Anchor {
    Roots(RootCertStore),
    /// SHA-256 of the CA's DER; the CA itself comes in the server's chain.
    Fingerprint([u8; 32]),
}

/// Proves the controller by CA and SPIFFE ID, whatever name or address it was dialled by.
#[derive(Debug)]
struct ControllerVerifier {
    anchor: Anchor,
    domain: Option<TrustDomain>,
    provider: Arc<CryptoProvider>,
}

impl ControllerVerifier {
    fn anchored(
        &self,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<RootCertStore, rustls::Error> {
        match &self.anchor {
            Anchor::Roots(roots) => Ok(roots.clone()),
            Anchor::Fingerprint(wanted) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| fingerprint(certificate) == *wanted)
                    .ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned())?;
                Ok(roots)
            }
        }
    }
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if matches!(self.anchor, Anchor::Fingerprint(_)) && intermediates.is_empty() {
            // Nothing is proved by that: it only explains why nothing can be.
            if let Ok((_, Identity::Controller)) = of_certificate(end_entity) {
                let why = OtherError(Arc::new(NotEnrolmentListener));
                return Err(CertificateError::Other(why).into());
            }
        }
        let roots = self.anchored(intermediates)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let refused = |why: super::InvalidIdentity| {
            rustls::Error::from(CertificateError::Other(OtherError(Arc::new(why))))
        };
        match of_certificate(end_entity).map_err(refused)? {
            (domain, Identity::Controller)
                if self.domain.as_ref().is_none_or(|own| *own == domain) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
