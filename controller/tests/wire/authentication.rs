use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{PushRequest, StatusRequest};
use voipfleet_protocol::identity::Identity;
use voipfleet_testkit::Credentials;

use super::installation::{Installation, SITE, refused};
use super::log::logged;

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

/// A client that is not one of ours: it trusts the CA and asks for nothing else.
fn foreign(ca: &str, own: Option<&Credentials>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            config
                .with_client_auth_cert(vec![certificate.unwrap()], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Whether a call reaches the operator service.
async fn let_in(address: &str, tls: Arc<ClientConfig>) -> bool {
    let Ok(channel) = voipfleet_proto::channel::connect(address, tls).await else {
        return false;
    };
    let request = StatusRequest::default();
    OperatorClient::new(channel).status(request).await.is_ok()
}

/// What a peer sees who is not let in: the words of all causes.
async fn refusal(pair: &Credentials, address: &str) -> String {
    let error: Box<dyn std::error::Error + Send + Sync> = match pair.connect(address).await {
        Err(error) => error,
        // With TLS 1.3 a client learns of its refusal with the first answer.
        Ok(channel) => {
            let answer = OperatorClient::new(channel)
                .status(StatusRequest::default())
                .await;
            Box::new(answer.expect_err("let in"))
        }
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let installation = Installation::start().await;
    let ada = Identity::Operator("ada".parse().unwrap());
    let now_ms = installation.clock.now_ms();
    let mut client = installation.operator().await;
    client.status(StatusRequest::default()).await.unwrap();
    let old = installation.pair(&ada, "voipfleet", now_ms - 2 * YEAR_MS);
    let text = refusal(&old, &installation.address()).await;
    assert!(text.contains("CertificateExpired"), "{text}");
    logged("the peer's certificate has expired").await;
}

/// What was opened with a good certificate does not outlive it.
#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.enrol("a").await;
    let issued_ms = installation.clock.now_ms() - YEAR_MS + 6000;
    let pair = installation.admin_issued(issued_ms).await;
    let channel = pair.connect(&installation.address()).await.unwrap();
    let mut client = OperatorClient::new(channel);
    let push = PushRequest {
        site: "site-a".to_owned(),
        wait_offline_ms: 3_600_000,
        ..PushRequest::default()
    };
    let mut events = client.push(push).await.unwrap().into_inner();
    while let Ok(Some(_)) = events.message().await {}
    logged("connection closed: its certificate has expired").await;

    // Between the end and the cut nothing is answered.
    let mut client = installation.operator().await;
    client.status(StatusRequest::default()).await.unwrap();
    installation.clock.advance_ms(YEAR_MS);
    let message = refused(
        client.status(StatusRequest::default()).await,
        tonic::Code::Unauthenticated,
    );
    assert!(message.contains("has expired"), "{message}");
}

#[tokio::test]
async fn another_ca_is_refused_on_both_ends() {
    let installation = Installation::start().await;
    let other = Installation::start().await;
    // It does not know our CA.
    let text = refusal(&other.admin, &installation.address()).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    logged("the peer does not know this installation's CA").await;
    // It knows ours, but is not of it.
    let mixed = Credentials {
        ca: installation.admin.ca.clone(),
        ..other.admin.clone()
    };
    let text = refusal(&mixed, &installation.address()).await;
    assert!(text.contains("UnknownCA"), "{text}");
    logged("the peer's certificate is not of this installation's CA").await;
}

#[tokio::test]
async fn another_trust_domain_is_refused() {
    let installation = Installation::start().await;
    let ada = Identity::Operator("ada".parse().unwrap());
    let now_ms = installation.clock.now_ms();
    let pair = installation.pair(&ada, "elsewhere", now_ms);
    refusal(&pair, &installation.address()).await;
    let address = installation.address();
    assert!(let_in(&address, foreign(&pair.ca, Some(&installation.admin))).await);
    assert!(!let_in(&address, foreign(&pair.ca, Some(&pair))).await);
    logged("operator ada is of trust domain elsewhere, not of voipfleet").await;
}

#[tokio::test]
async fn a_peer_without_certificate_reaches_the_enrolment_listener_only() {
    let installation = Installation::start().await;
    let address = installation.address();
    assert!(!let_in(&address, foreign(&installation.admin.ca, None)).await);
    logged("the peer showed no certificate").await;
    // The enrolment listener has no other service.
    let fingerprint = installation.authority("voipfleet").fingerprint();
    let tls = voipfleet_protocol::identity::tls::enrolment_client(fingerprint).unwrap();
    let address = installation.enrol_address();
    let channel = voipfleet_proto::channel::connect(&address, Arc::new(tls))
        .await
        .unwrap();
    let answer = OperatorClient::new(channel)
        .status(StatusRequest::default())
        .await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented);
}

/// The controller's own certificate is none for clients: a stolen one opens nothing.
#[tokio::test]
async fn the_servers_certificate_is_refused_as_a_client() {
    let installation = Installation::start().await;
    let read = |path| std::fs::read_to_string(path).unwrap();
    let pair = Credentials {
        certificate: read(installation.files.server_certificate()),
        key: read(installation.files.server_key()),
        ca: installation.admin.ca.clone(),
    };
    refusal(&pair, &installation.address()).await;
    logged("the peer's certificate is not one for clients").await;
}
