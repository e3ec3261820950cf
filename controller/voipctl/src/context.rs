//! The context file: the controller's address, and our certificate and key.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use voipfleet_protocol::identity::tls::{self, Credentials};
use voipfleet_protocol::identity::{Identity, of_certificate, validity};

use crate::failure::Failure;
use crate::format::Moment;

/// The longest context file, in bytes: three PEM texts need a tenth of it.
const MAX_CONTEXT_BYTES: u64 = 256 * 1024;

/// The hint of every message about a missing or broken context file.
const GET_ONE: &str = "`voipfleet-controller init` writes one for the first admin, `voipctl operator \
                       add` for everyone else; to install it, see: voipctl context use --help";

/// A context file's content.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `HOST:PORT` of the controller.
    pub controller: String,
    /// Our name, for people; the certificate decides.
    pub operator: String,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// Our certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// A context file as it was read.
pub struct Loaded {
    pub context: Context,
    /// Its text.
    pub text: String,
    /// What an operator should fix, although the file works.
    pub warning: Option<String>,
}

/// The content of our certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The operator.
    pub identity: Identity,
    /// The installation.
    pub trust_domain: String,
    /// Its last moment.
    pub expires: Moment,
}

impl Context {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Loaded, Failure> {
        let shown = path.display();
        let unreadable = |error: std::io::Error| {
            let failure = if error.kind() == std::io::ErrorKind::NotFound {
                Failure::controller(format!("no context file at {shown}"))
            } else {
                Failure::controller(format!("cannot read the context file {shown}")).because(error)
            };
            failure.hint(GET_ONE)
        };
        let file = fs::File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        let mut text = String::new();
        file.take(MAX_CONTEXT_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MAX_CONTEXT_BYTES {
            return Err(Failure::input(format!(
                "{shown} is not a context file: it is longer than {} KiB",
                MAX_CONTEXT_BYTES / 1024
            )));
        }
        let context = serde_saphyr::from_str(&text).map_err(|error| {
            Failure::input(format!("{shown} is not a context file"))
                .because(error.to_string())
                .hint(GET_ONE)
        })?;
        let warning = (mode & 0o077 != 0).then(|| {
            format!(
                "{shown} holds a private key and is readable by others (mode {mode:04o}); fix it \
                 with: chmod 600 {shown}"
            )
        });
        Ok(Loaded {
            context,
            text,
            warning,
        })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let block = |pem: &str| {
            let lines = pem.lines().map(|line| format!("  {}\n", line.trim_end()));
            lines.collect::<String>()
        };
        // Names and addresses were validated: double quotes are all the quoting they need.
        format!(
            "# voipctl context: a controller's address, and an operator's key. Keep it secret.\n\
             controller: \"{}\"\noperator: \"{}\"\nca: |\n{}certificate: |\n{}key: |\n{}",
            self.controller,
            self.operator,
            block(&self.ca),
            block(&self.certificate),
            block(&self.key)
        )
    }

    /// Reads our certificate.
    pub fn certificate(&self) -> Result<Certificate, Failure> {
        let broken = || Failure::input("cannot read the certificate in the context file");
        let chain = tls::certificates(&self.certificate, "certificate")
            .map_err(|error| broken().because(error))?;
        let leaf = chain.first().ok_or_else(broken)?;
        let (domain, identity) = of_certificate(leaf).map_err(|error| broken().because(error))?;
        let valid = validity(leaf).ok_or_else(broken)?;
        Ok(Certificate {
            identity,
            trust_domain: domain.to_string(),
            expires: valid.not_after.into(),
        })
    }

    /// Identifies the installation: the start of its CA certificate's hash.
    pub fn installation(&self) -> Result<String, Failure> {
        let broken = || Failure::input("cannot read the CA certificate in the context file");
        let chain = tls::certificates(&self.ca, "CA certificate")
            .map_err(|error| broken().because(error))?;
        let ca = chain.first().ok_or_else(broken)?;
        let hash = hex::encode(tls::fingerprint(ca));
        Ok(hash.chars().take(16).collect())
    }

    /// The TLS configuration for the controller.
    pub fn tls(&self) -> Result<rustls::ClientConfig, Failure> {
        tls::client(Credentials {
            certificate_pem: &self.certificate,
            key_pem: &self.key,
            ca_pem: &self.ca,
        })
        .map_err(|error| {
            Failure::input("cannot use the certificates in the context file")
                .because(error)
                .hint(GET_ONE)
        })
    }
}

/// The context file's default path, in the XDG config folder.
pub fn default_path() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy as _;
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::input("cannot find the context file: there is no home directory")
            .because(error)
            .hint("set --context or $VOIPCTL_CONFIG to a context file")
    })?;
    Ok(base.config_dir().join("voipctl").join("context.yaml"))
}
