//! Keys, certificates, and the CA that issues them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use tonic::transport::Channel;
use voipfleet_proto::channel;
use voipfleet_protocol::identity::tls;

use crate::BoxError;

/// A certificate with its key, and the CA that its owner trusts; PEM.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}

impl Credentials {
    /// As the TLS settings of the product take them.
    pub fn tls(&self) -> tls::Credentials<'_> {
        tls::Credentials {
            certificate_pem: &self.certificate,
            key_pem: &self.key,
            ca_pem: &self.ca,
        }
    }

    /// A channel over mutual TLS.
    pub async fn connect(&self, address: &str) -> Result<Channel, BoxError> {
        let tls = tls::client(self.tls())?;
        channel::connect(address, Arc::new(tls)).await
    }
}

/// A certificate request and its key; PEM.
pub fn certificate_request() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::default();
    let request = params.serialize_request(&key).unwrap();
    (request.pem().unwrap(), key.serialize_pem())
}

/// A CA, as each installation has one.
#[derive(Debug)]
pub struct TestCa(CertifiedIssuer<'static, KeyPair>);

impl TestCa {
    #[allow(clippy::new_without_default, reason = "every one is another CA")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a URI such as `spiffe://voipfleet/controller`, valid until the 21st of
    /// February of `until_year`.
    pub fn issue(&self, uri: &str, until_year: i32) -> Credentials {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_after = date_time_ymd(until_year, 2, 21);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            ca: self.pem(),
        }
    }
}
