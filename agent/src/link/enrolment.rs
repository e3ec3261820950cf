//! Enrolment: the machine makes a key, and the controller signs its certificate.

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use voipfleet_proto::channel;
use voipfleet_proto::proxy::Proxy;
use voipfleet_proto::v1::enrolment_client::EnrolmentClient;
use voipfleet_proto::v1::{EnrolRequest, EnrolResponse};
use voipfleet_protocol::identity::{self, Identity, JoinToken, tls};
use voipfleet_ruleset::identifiers::{InvalidName, NodeName};

use super::connection_errors::explain;
use crate::host::clock;
use crate::host::disk::{self, DiskError};
use crate::host::state_dir::{NodeConfig, StateDir, StateError};

/// How long the controller may take to sign.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const MAX_TEXT: usize = 1 << 20;
/// A clock that is further off is worth a warning.
const TOLERATED_MS: u64 = 5000;

/// The enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It is one already.
    #[error("this machine is already node {site}/{node}; add --force to enrol it again")]
    Enrolled {
        site: String,
        /// Its name.
        node: String,
    },
    /// No name for the node.
    #[error("the hostname is not a valid node name; pass --node NAME")]
    Name(#[source] InvalidName),
    /// The disk's reason.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The state folder's reason.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key or the request for a signature.
    #[error("cannot create or use the key")]
    Key(#[from] rcgen::Error),
    /// TLS settings.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The machine has no name of its own.
    #[error("the hostname is {0}, which names no machine; pass --node NAME")]
    NoHostname(String),
    /// The controller was not reached, or is another one.
    #[error("{0}")]
    Controller(String),
    /// The controller answered, and refused.
    #[error("{0}")]
    Refused(String),
    /// The controller's answer does not fit.
    #[error("the controller's answer is not valid: {0}")]
    Answer(String),
}

/// The request of an enrolment.
#[derive(Debug)]
pub struct Request<'a> {
    /// `HOST:PORT` of the enrolment listener.
    pub controller: &'a str,
    pub token: &'a JoinToken,
    /// The node's name; none: from the hostname.
    pub node: Option<NodeName>,
    /// Replace an identity that is there.
    pub force: bool,
    /// The proxy to the controller, now and later; none: directly.
    pub proxy: Option<&'a Proxy>,
}

/// How an enrolment ended.
#[derive(Debug)]
pub struct Enrolled {
    pub config: NodeConfig,
    /// How far this machine's clock is ahead of the controller's, if that is too much.
    pub clock_ahead_ms: Option<i64>,
}

/// The first label of a hostname, in small letters, as a node name.
pub fn node_name(hostname: &str) -> Result<NodeName, EnrollError> {
    let label = hostname.split('.').next().unwrap_or_default();
    let label = label.to_ascii_lowercase();
    if label == "localhost" {
        // The name of every machine that has none.
        return Err(EnrollError::NoHostname(hostname.to_owned()));
    }
    label.parse().map_err(EnrollError::Name)
}

/// Enrols. The key is made here, and stays here; a run that lost the controller's answer is
/// repeated with the same key, by which the controller recognises it.
pub async fn enroll(state: &StateDir, request: Request<'_>) -> Result<Enrolled, EnrollError> {
    if !request.force
        && let (Ok(config), Ok(_)) = (state.config(), state.identity())
    {
        return Err(EnrollError::Enrolled {
            site: config.site.to_string(),
            node: config.node.to_string(),
        });
    }
    let node = match request.node.clone() {
        Some(node) => node,
        None => node_name(&crate::host::hostname())?,
    };
    let pending = Pending::open(state)?;
    let (key, is_new) = pending.key()?;
    let answer = match ask(&request, &node, &key).await {
        // The controller knows nothing of this key: no later run needs it.
        Err(error @ EnrollError::Refused(_)) if is_new => {
            pending.discard()?;
            return Err(error);
        }
        answer => answer?,
    };
    let clock_ahead_ms = clock_ahead(answer.clock_ms, clock::unix_ms(clock::now()));
    let config = NodeConfig {
        proxy: request.proxy.cloned(),
        ..check(&answer, &node, request.token, &key)?
    };
    pending.finish(state, &answer, &config)?;
    Ok(Enrolled {
        config,
        clock_ahead_ms,
    })
}

/// How far `now_ms` is ahead of the controller's clock; none: it is right, or not known.
fn clock_ahead(controller_ms: u64, now_ms: u64) -> Option<i64> {
    let signed = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
    let ahead_ms = signed(now_ms).saturating_sub(signed(controller_ms));
    (controller_ms > 0 && ahead_ms.unsigned_abs() > TOLERATED_MS).then_some(ahead_ms)
}

async fn ask(
    request: &Request<'_>,
    node: &NodeName,
    key: &KeyPair,
) -> Result<EnrolResponse, EnrollError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, node.as_str());
    let message = EnrolRequest {
        token_id: request.token.id().to_owned(),
        token_secret: request.token.secret().to_owned(),
        node: node.to_string(),
        csr_pem: params.serialize_request(key)?.pem()?,
    };
    let config = Arc::new(tls::enrolment_client(request.token.ca_fingerprint())?);
    let wrong = |error: &(dyn std::error::Error + 'static)| {
        EnrollError::Controller(explain(error, request.controller))
    };
    let channel = channel::connect_through(request.proxy, request.controller, config)
        .await
        .map_err(|error| wrong(&*error))?;
    let mut client = EnrolmentClient::new(channel);
    let answer = tokio::time::timeout(ANSWER_LIMIT, client.enrol(message))
        .await
        .map_err(|_| {
            EnrollError::Controller(format!(
                "the controller at {} did not answer within {} s; run the same command again",
                request.controller,
                ANSWER_LIMIT.as_secs()
            ))
        })?;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| match wrong(&status) {
            // A status without a cause was sent by the controller.
            EnrollError::Controller(words) if status.source().is_none() => {
                EnrollError::Refused(words)
            }
            error => error,
        })
}

/// Nothing is kept that would not work: the CA must be the one in the token, and the certificate of
/// that CA, for our key and name.
fn check(
    answer: &EnrolResponse,
    node: &NodeName,
    token: &JoinToken,
    key: &KeyPair,
) -> Result<NodeConfig, EnrollError> {
    let unusable = |why: &str| EnrollError::Answer(why.to_owned());
    let ca = tls::certificates(&answer.ca_pem, "CA certificate")?;
    if ca.len() != 1 || !ca.first().is_some_and(|ca| token.names_ca(ca)) {
        return Err(unusable("its CA is not the one in the token"));
    }
    let key_pem = key.serialize_pem();
    tls::client(tls::Credentials {
        certificate_pem: &answer.certificate_pem,
        key_pem: &key_pem,
        ca_pem: &answer.ca_pem,
    })?;
    let chain = tls::certificates(&answer.certificate_pem, "certificate")?;
    let leaf = chain.first().ok_or_else(|| unusable("no certificate"))?;
    let (_, named) =
        identity::of_certificate(leaf).map_err(|error| unusable(&error.to_string()))?;
    let Identity::Node { site, node: named } = named else {
        return Err(unusable("the certificate names no node"));
    };
    if site.as_str() != answer.site || named != *node {
        return Err(unusable("the certificate names another node"));
    }
    channel::endpoint(&answer.controller).map_err(|error| unusable(&error.to_string()))?;
    Ok(NodeConfig {
        site,
        node: named,
        roles: answer.roles.clone(),
        controller: answer.controller.clone(),
        proxy: None,
    })
}

/// `identity.new`: an identity in the making. The one in use is not touched before the new
/// one is whole.
struct Pending(PathBuf);

impl Pending {
    fn open(state: &StateDir) -> Result<Self, EnrollError> {
        let folder = state.identity_folder().with_extension("new");
        disk::make_private_dir(&folder)?;
        Ok(Self(folder))
    }

    /// The key, and whether it was made just now.
    fn key(&self) -> Result<(KeyPair, bool), EnrollError> {
        let path = self.0.join("key.pem");
        if let Some(pem) = disk::read_text(&path, MAX_TEXT)?
            && let Ok(key) = KeyPair::from_pem(&pem)
        {
            return Ok((key, false));
        }
        let key = KeyPair::generate()?;
        disk::replace(&path, key.serialize_pem().as_bytes())?;
        Ok((key, true))
    }

    fn discard(self) -> Result<(), EnrollError> {
        Ok(remove_folder(&self.0)?)
    }

    fn finish(
        self,
        state: &StateDir,
        answer: &EnrolResponse,
        config: &NodeConfig,
    ) -> Result<(), EnrollError> {
        disk::replace(&self.0.join("cert.pem"), answer.certificate_pem.as_bytes())?;
        disk::replace(&self.0.join("ca.pem"), answer.ca_pem.as_bytes())?;
        state.write_config(config)?;
        // Last: until then the same command can be repeated with the same key, which is how the
        // controller knows the machine that used up the token.
        let folder = state.identity_folder();
        let old = folder.with_extension("old");
        remove_folder(&old)?;
        if folder.exists() {
            disk::rename(&folder, &old)?;
        }
        disk::rename(&self.0, &folder)?;
        remove_folder(&old)?;
        Ok(())
    }
}

fn remove_folder(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(DiskError {
            action: "removed",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_enrolment_is_repeated_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let answer = EnrolResponse::default();
        let config = NodeConfig {
            site: "site-a".parse().unwrap(),
            node: "sip1".parse().unwrap(),
            roles: Vec::new(),
            controller: "controller:7443".to_owned(),
            proxy: Some("http://ada:secret@proxy:3128".parse().unwrap()),
        };
        let (key, is_new) = Pending::open(&state).unwrap().key().unwrap();
        assert!(is_new);
        // The settings cannot be written.
        fs::create_dir(state.config_file()).unwrap();
        let pending = Pending::open(&state).unwrap();
        assert!(pending.finish(&state, &answer, &config).is_err());
        fs::remove_dir(state.config_file()).unwrap();
        let pending = Pending::open(&state).unwrap();
        let (again, is_new) = pending.key().unwrap();
        assert!(!is_new);
        assert_eq!(again.serialize_pem(), key.serialize_pem());
        pending.finish(&state, &answer, &config).unwrap();
        assert_eq!(state.identity().unwrap().key_pem, key.serialize_pem());
        assert_eq!(state.config().unwrap(), config);
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        for (controller_ms, wanted) in [
            (0, None),
            (95_000, None),
            (105_000, None),
            (94_000, Some(6000)),
            (7_300_000, Some(-7_200_000)),
        ] {
            assert_eq!(clock_ahead(controller_ms, 100_000), wanted);
        }
    }

    #[test]
    fn node_name_is_the_first_label_of_the_hostname() {
        assert_eq!(node_name("SIP1.example.org").unwrap().as_str(), "sip1");
        assert!(node_name("").is_err());
        for name in ["localhost", "localhost.localdomain", "LOCALHOST"] {
            let error = node_name(name).unwrap_err().to_string();
            assert!(error.contains("pass --node NAME"), "{error}");
        }
    }
}
