//! Where an installation keeps its files, and `controller.json`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use voipfleet_protocol::identity::TrustDomain;
use voipfleet_ruleset::identifiers::OperatorName;

/// The files of an installation.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The files under a data directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The CA's private key, mode 0600.
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca/ca.key")
    }

    /// The CA's certificate.
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca/ca.pem")
    }

    /// The server's private key, mode 0600.
    pub fn server_key(&self) -> PathBuf {
        self.root.join("server/server.key")
    }

    /// The server's certificate.
    pub fn server_certificate(&self) -> PathBuf {
        self.root.join("server/server.pem")
    }

    /// Addresses and trust domain.
    pub fn settings(&self) -> PathBuf {
        self.root.join("controller.json")
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The folder that lists with `file:` and `refresh:` may come from.
    pub fn feeds(&self) -> PathBuf {
        self.root.join("feeds")
    }

    /// A new certificate of the first admin that the controller has not taken yet, mode 0600.
    pub fn new_admin(&self) -> PathBuf {
        self.root.join("new-admin.json")
    }

    /// The first admin's context for voipctl, unless `init` was told another place.
    pub fn admin_context(&self) -> PathBuf {
        self.root.join("admin.yaml")
    }
}

/// `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

/// A text that is not an [`Address`].
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{0:?} is not HOST:PORT, such as controller.example:7443, 192.0.2.1:7443 or \
     [2001:db8::1]:7443"
)]
pub struct InvalidAddress(String);

impl Address {
    /// The host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }
}

fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let valid = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.contains(':') && is_host_name(host),
        };
        match port {
            Some(port) if valid => Ok(Self {
                host: bracketed.unwrap_or(host).to_owned(),
                port,
            }),
            _ => Err(invalid()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        match host.parse() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}"),
            _ => write!(f, "{host}:{port}"),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// `controller.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The layout of this file.
    pub version: u32,
    /// Part of every certificate of the installation.
    pub trust_domain: String,
    /// Where agents and operators connect.
    pub address: Address,
    /// Where machines enrol.
    pub enrol_address: Address,
    /// The operator who has every right, whatever the store says.
    pub admin: OperatorName,
}

/// The version of `controller.json` that is written and read.
pub const SETTINGS_VERSION: u32 = 1;

/// Why an installation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is none.
    #[error(
        "no installation in {path}: {missing} is missing; create one: voipfleet-controller init --data \
         {path} --address HOST:7443"
    )]
    Missing {
        /// The data directory.
        path: String,
        /// The file that was looked for.
        missing: String,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A secret that others can read.
    #[error("{path} is readable by other users (mode {mode:o}); run: chmod 600 {path}")]
    Open {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// `controller.json` cannot be understood.
    #[error("{path} is damaged; restore it from a backup")]
    Damaged {
        /// The file.
        path: String,
        /// The parser's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Settings {
    /// The trust domain, typed.
    pub fn trust_domain(&self) -> Result<TrustDomain, voipfleet_ruleset::identifiers::InvalidName> {
        self.trust_domain.parse()
    }

    /// Reads and checks an installation: every file there, secrets private.
    pub fn load(files: &Files) -> Result<Self, SettingsError> {
        for path in [
            files.settings(),
            files.ca_certificate(),
            files.server_certificate(),
        ] {
            if !path.exists() {
                return Err(missing(files, &path));
            }
        }
        check_secret(files, &files.ca_key())?;
        check_secret(files, &files.server_key())?;
        let path = files.settings();
        let damaged = |source| SettingsError::Damaged {
            path: path.display().to_string(),
            source,
        };
        let text = read(&path)?;
        let settings: Self = serde_json::from_str(&text).map_err(|e| damaged(e.into()))?;
        if settings.version != SETTINGS_VERSION {
            return Err(damaged("unknown version".into()));
        }
        settings.trust_domain().map_err(|e| damaged(e.into()))?;
        Ok(settings)
    }
}

fn missing(files: &Files, path: &Path) -> SettingsError {
    SettingsError::Missing {
        path: files.root().display().to_string(),
        missing: path
            .strip_prefix(files.root())
            .unwrap_or(path)
            .display()
            .to_string(),
    }
}

fn check_secret(files: &Files, path: &Path) -> Result<(), SettingsError> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(missing(files, path));
        }
        Err(source) => {
            return Err(SettingsError::Read {
                path: path.display().to_string(),
                source,
            });
        }
    };
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SettingsError::Open {
            path: path.display().to_string(),
            mode,
        });
    }
    Ok(())
}

/// Reads a text file.
pub fn read(path: &Path) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.display().to_string(),
        source,
    })
}

/// Creates a file, with `mode` from the start, and brings it to disk.
pub fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Replaces a file atomically, and brings it to disk.
pub fn replace(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&new, mode, text)?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for good in ["controller.example:7443", "192.0.2.1:1", "[2001:db8::1]:7"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "host",
            "host:",
            ":7443",
            "host:0",
            "host:99999",
            "2001:db8::1:7",
            "a b:1",
            "[host]:1",
            "-a:1",
            "a/b:1",
            "a..b:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
