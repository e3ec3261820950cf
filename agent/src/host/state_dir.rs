//! The agent's folder: its configuration, key and ledger, and the lock on all of it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use voipfleet_proto::proxy::Proxy;
use voipfleet_protocol::identity::tls::Credentials;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use super::disk::{self, DiskError};

/// Where the agent keeps its state by default.
pub const DEFAULT_STATE: &str = "/var/lib/voipfleet-agent";

const MAX_TEXT: usize = 1 << 20;
/// A child of a killed agent holds its lock until it has become another program: a start just after
/// that waits.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The result of the enrolment: `agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    pub site: SiteName,
    /// The node's name in it.
    pub node: NodeName,
    /// Its roles at the enrolment; for people only, the controller has the current ones.
    pub roles: Vec<String>,
    /// `HOST:PORT` of the controller's fleet listener.
    pub controller: String,
    /// The HTTP proxy through which it is dialled; none: directly.
    #[serde(default, with = "proxy_url", skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// A proxy as its URL.
mod proxy_url {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use voipfleet_proto::proxy::Proxy;

    // Serde's attribute asks for a reference to the option.
    #[allow(clippy::ref_option)]
    pub(super) fn serialize<S: Serializer>(
        proxy: &Option<Proxy>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match proxy {
            Some(proxy) => serializer.serialize_str(&proxy.to_url()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Proxy>, D::Error> {
        let url = Option::<String>::deserialize(deserializer)?;
        let proxy = url.map(|url| url.parse()).transpose();
        proxy.map_err(serde::de::Error::custom)
    }
}

/// PEM texts of `identity/`.
#[derive(Clone)]
pub struct Identity {
    /// The private key.
    pub key_pem: String,
    /// The node's certificate.
    pub certificate_pem: String,
    /// The CA's certificate.
    pub ca_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity { .. }")
    }
}

impl Identity {
    /// For a TLS configuration.
    pub fn credentials(&self) -> Credentials<'_> {
        Credentials {
            certificate_pem: &self.certificate_pem,
            key_pem: &self.key_pem,
            ca_pem: &self.ca_pem,
        }
    }
}

/// The folder does not hold what is needed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk's reason.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There was no enrolment.
    #[error(
        "this machine is not enrolled ({} is missing): run `voipfleet-agent enroll` with a \
         token of `voipctl token create`",
        _0.display()
    )]
    NotEnrolled(PathBuf),
    /// Not what enrolment wrote.
    #[error("{} is not a valid configuration of the agent", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another agent uses this folder.
    #[error(
        "another voipfleet-agent uses {}; stop it first (systemctl stop voipfleet-agent)",
        _0.display()
    )]
    Busy(PathBuf),
}

/// The folder.
#[derive(Debug, Clone)]
pub struct StateDir {
    folder: PathBuf,
}

/// Held by the one that may change the kernel and the ledger; released when dropped, and by
/// the kernel when the process ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File); // held for its lock

impl StateDir {
    /// The state in `folder`, which is made if need be, closed to others.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        disk::make_private_dir(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The state in `folder`, as it is; nothing is made.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The folder of the ledger.
    pub fn ledger(&self) -> PathBuf {
        self.folder.join("ledger")
    }

    /// The folder of key and certificates.
    pub fn identity_folder(&self) -> PathBuf {
        self.folder.join("identity")
    }

    /// The file of [`NodeConfig`].
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("agent.json")
    }

    /// Writes the file of [`NodeConfig`], as a whole.
    pub fn write_config(&self, config: &NodeConfig) -> Result<(), StateError> {
        let path = self.config_file();
        let text = serde_json::to_string_pretty(config);
        let mut text = text.map_err(|source| StateError::Config {
            path: path.clone(),
            source,
        })?;
        text.push('\n');
        disk::replace(&path, text.as_bytes())?;
        Ok(())
    }

    /// Makes sure that no other agent uses this folder.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.folder.join("lock");
        let failed = |source| DiskError {
            action: "locked",
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .or_else(|error| self.lock_to_read(error))
            .map_err(failed)?;
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StateError::Busy(self.folder.clone()));
                }
                Err(TryLockError::Error(source)) => return Err(failed(source).into()),
            }
        }
    }

    /// A disk that takes no writes, because it is full or was mounted read-only after an error,
    /// must not keep the node from its rules: reading them is all that a boot needs. The file,
    /// or else the folder, is locked as it is.
    fn lock_to_read(&self, error: std::io::Error) -> std::io::Result<File> {
        match error.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                File::open(self.folder.join("lock")).or_else(|_| File::open(&self.folder))
            }
            _ => Err(error),
        }
    }

    /// The result of the enrolment.
    pub fn config(&self) -> Result<NodeConfig, StateError> {
        let path = self.config_file();
        let Some(text) = disk::read_text(&path, MAX_TEXT)? else {
            return Err(StateError::NotEnrolled(path));
        };
        serde_json::from_str(&text).map_err(|source| StateError::Config { path, source })
    }

    /// Its key and certificates.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let file = |name: &str| -> Result<String, StateError> {
            let path = self.identity_folder().join(name);
            disk::read_text(&path, MAX_TEXT)?.ok_or(StateError::NotEnrolled(path))
        };
        Ok(Identity {
            key_pem: file("key.pem")?,
            certificate_pem: file("cert.pem")?,
            ca_pem: file("ca.pem")?,
        })
    }
}
