//! The CA. Its key is read from disk for each signature and never kept.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use voipfleet_protocol::identity::{Identity, TrustDomain, tls};
use voipfleet_ruleset::identifiers::OperatorName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

use crate::settings::{self, Files, SettingsError};

const DAY: Duration = Duration::from_hours(24);
/// How long the CA is valid.
pub const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
/// How long everything that it signs is valid.
pub const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);
/// Certificates are valid from a little before now: clocks differ.
const BACKDATED: Duration = Duration::from_hours(1);
/// The longest certificate request.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the installation.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The signing library refused.
    #[error("the certificate could not be signed")]
    Sign(#[from] rcgen::Error),
    /// A certificate cannot be kept.
    #[error("{path} cannot be written")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The request is no request, its signature is wrong, or its key is of another kind.
    #[error("unacceptable certificate request: {0}")]
    Request(String),
    /// A certificate or key of our own that cannot be read.
    #[error("a certificate or key of this installation cannot be read")]
    Own(#[from] tls::TlsError),
}

/// A certificate that was just signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`), hexadecimal.
    pub key_hash: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it ends, Unix time in milliseconds.
    pub expires_ms: u64,
}

/// A certificate's key and validity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// SHA-256 of the public key (`SubjectPublicKeyInfo`), hexadecimal.
    pub key_hash: String,
    /// The serial number, hexadecimal.
    pub serial: String,
    /// When it ends, Unix time in milliseconds.
    pub expires_ms: u64,
}

/// Reads a certificate, DER.
pub fn leaf(der: &[u8]) -> Option<Leaf> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(Leaf {
        key_hash: hex::encode(tls::fingerprint(certificate.public_key().raw)),
        serial: hex::encode(certificate.raw_serial()),
        expires_ms: u64::try_from(seconds).ok()?.saturating_mul(1000),
    })
}

/// What a certificate's holder may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Server,
    Client,
}

/// A CA that is about to be made: its key is in memory.
pub struct NewAuthority {
    issuer: Issuer<'static, KeyPair>,
    domain: TrustDomain,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

/// A new key with its certificate.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

fn validity(params: &mut CertificateParams, now_ms: u64, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now_ms / 1000);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + (now + lifetime);
}

fn new_serial() -> SerialNumber {
    // RFC 5280 4.1.2.2: positive, at most 20 bytes; 64 random bits or more make it unguessable.
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn leaf_params(
    identity: &Identity,
    domain: &TrustDomain,
    purpose: Purpose,
    hosts: &[&str],
    now_ms: u64,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, identity.to_string());
    params.distinguished_name = name;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params
        .subject_alt_names
        .push(SanType::URI(identity.uri(domain).try_into()?));
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName((*host).try_into()?),
        });
    }
    params.serial_number = Some(new_serial());
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now_ms, LEAF_LIFETIME);
    Ok(params)
}

impl NewAuthority {
    /// Makes a key and a self-signed certificate.
    pub fn generate(domain: TrustDomain, now_ms: u64) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // A name of its own: two installations of one trust domain must not be mistaken for
        // each other, and a peer of the other one gets "unknown issuer", not "bad signature".
        let number: u32 = rand::random();
        name.push(
            DnType::CommonName,
            format!("Voipfleet CA of {domain} {number:08x}"),
        );
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(new_serial());
        validity(&mut params, now_ms, CA_LIFETIME);
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            domain,
            certificate_pem,
            key_pem,
        })
    }

    /// A key and a certificate for the controller that is reached under `hosts`.
    pub fn server(&self, hosts: &[&str], now_ms: u64) -> Result<Pair, PkiError> {
        self.pair(&Identity::Controller, Purpose::Server, hosts, now_ms)
    }

    /// A key and a certificate for an operator or a node.
    pub fn client(&self, identity: &Identity, now_ms: u64) -> Result<Pair, PkiError> {
        self.pair(identity, Purpose::Client, &[], now_ms)
    }

    fn pair(
        &self,
        identity: &Identity,
        purpose: Purpose,
        hosts: &[&str],
        now_ms: u64,
    ) -> Result<Pair, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf_params(identity, &self.domain, purpose, hosts, now_ms)?;
        Ok(Pair {
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// The CA of a running controller.
#[derive(Debug, Clone)]
pub struct Authority {
    files: Files,
    domain: TrustDomain,
    ca_pem: String,
    fingerprint: [u8; 32],
    /// Unix time.
    expires_ms: u64,
}

impl Authority {
    /// Reads the certificate; the key stays on disk.
    pub fn load(files: Files, domain: TrustDomain) -> Result<Self, PkiError> {
        let ca_pem = settings::read(&files.ca_certificate())?;
        let certificates = tls::certificates(&ca_pem, "CA certificate")?;
        let first = certificates.first();
        let fingerprint = first.map(|ca| tls::fingerprint(ca)).unwrap_or_default();
        let expires_ms = first.and_then(|ca| leaf(ca)).map_or(0, |ca| ca.expires_ms);
        Ok(Self {
            files,
            domain,
            ca_pem,
            fingerprint,
            expires_ms,
        })
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the CA's certificate: what join tokens carry.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// When the CA's certificate ends, Unix time; 0: it cannot be read.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// The trust domain of every certificate that it signs.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Signs the key of a request as `identity`. Nothing else of the request is used. Blocks.
    pub fn sign(
        &self,
        csr: &Request,
        identity: &Identity,
        now_ms: u64,
    ) -> Result<Issued, PkiError> {
        let issuer = self.issuer()?;
        let signed = CertificateSigningRequestParams {
            params: leaf_params(identity, &self.domain, Purpose::Client, &[], now_ms)?,
            public_key: csr.parsed.clone().public_key,
        }
        .signed_by(&issuer)?;
        let leaf = leaf(signed.der())
            .ok_or_else(|| PkiError::Request("its key cannot be read back".to_owned()))?;
        Ok(Issued {
            certificate_pem: signed.pem(),
            key_hash: leaf.key_hash,
            serial: leaf.serial,
            expires_ms: leaf.expires_ms,
        })
    }
}

impl Authority {
    /// The CA with its key, for one signature.
    fn issuer(&self) -> Result<Issuer<'static, SecretKey>, PkiError> {
        let pem = Zeroizing::new(settings::read(&self.files.ca_key())?);
        let key = SecretKey::read(&pem)?;
        Ok(Issuer::from_ca_cert_pem(&self.ca_pem, key)?)
    }

    /// A new certificate for the server's key, which stays, reached under `hosts`. Blocks.
    pub fn renew_server(
        &self,
        key_pem: &str,
        hosts: &[&str],
        now_ms: u64,
    ) -> Result<String, PkiError> {
        let key = SecretKey::read(key_pem)?;
        let identity = Identity::Controller;
        let params = leaf_params(&identity, &self.domain, Purpose::Server, hosts, now_ms)?;
        Ok(params.signed_by(&key, &self.issuer()?)?.pem())
    }

    /// A key and a certificate for an operator. Blocks.
    pub fn operator(&self, name: &OperatorName, now_ms: u64) -> Result<(Pair, Leaf), PkiError> {
        let identity = Identity::Operator(name.clone());
        let key = SecretKey(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let params = leaf_params(&identity, &self.domain, Purpose::Client, &[], now_ms)?;
        let signed = params.signed_by(&key, &self.issuer()?)?;
        let leaf = leaf(signed.der())
            .ok_or_else(|| PkiError::Request("the new certificate cannot be read".to_owned()))?;
        let pair = Pair {
            certificate_pem: signed.pem(),
            key_pem: key.0.serialize_pem(),
        };
        Ok((pair, leaf))
    }
}

/// A private key that is wiped from memory when it is no longer needed.
struct SecretKey(KeyPair);

impl SecretKey {
    fn read(pem: &str) -> Result<Self, PkiError> {
        let mut der =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|source| tls::TlsError::Pem {
                what: "private key",
                source,
            })?;
        let key = KeyPair::try_from(&der);
        der.zeroize();
        Ok(Self(key?))
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// A certificate request whose signature was checked.
#[derive(Debug, Clone)]
pub struct Request {
    parsed: CertificateSigningRequestParams,
    key_hash: String,
}

impl Request {
    /// Reads a request, PEM.
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        if pem.len() > MAX_CSR_BYTES {
            return Err(PkiError::Request(format!(
                "it is longer than {MAX_CSR_BYTES} bytes"
            )));
        }
        let parsed = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| PkiError::Request(error.to_string()))?;
        let algorithm = parsed.public_key.algorithm();
        let good = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ];
        if !good.contains(&algorithm) {
            return Err(PkiError::Request(
                "its key is not ECDSA P-256, ECDSA P-384 or Ed25519".to_owned(),
            ));
        }
        let key_hash = hex::encode(tls::fingerprint(
            &parsed.public_key.subject_public_key_info(),
        ));
        Ok(Self { parsed, key_hash })
    }

    /// SHA-256 of the public key, hexadecimal.
    pub fn key_hash(&self) -> &str {
        &self.key_hash
    }
}
