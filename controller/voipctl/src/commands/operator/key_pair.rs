//! A key pair that is generated locally.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::failure::Failure;

/// A new key, and the request to sign it; PEM.
pub(super) struct NewKeyPair {
    pub(super) key_pem: String,
    pub(super) csr_pem: String,
}

impl NewKeyPair {
    pub(super) fn generate() -> Result<Self, Failure> {
        let failed = |error: rcgen::Error| Failure::input("cannot generate a key").because(error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // The controller uses only the key: it sets the certificate's name and lifetime itself.
        let request = CertificateParams::default()
            .serialize_request(&key)
            .map_err(failed)?;
        Ok(Self {
            csr_pem: request.pem().map_err(failed)?,
            key_pem: key.serialize_pem(),
        })
    }
}
