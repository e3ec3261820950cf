//! The context file: which controller, and who we are to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use voipfleet_protocol::identity::tls::{self, Credentials};
use voipfleet_protocol::identity::{Identity, of_certificate, validity};

use crate::failure::Failure;
use crate::format::Moment;

/// The longest context file, in bytes: three PEM texts need a tenth of it.
const MAX_CONTEXT_BYTES: u64 = 256 * 1024;

/// What every message about a missing or broken context file ends with.
const GET_ONE: &str =
    "`voipfleet-controller init` writes one for the first operator; then: voipctl context use FILE";

/// A context file's content.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `HOST:PORT` of the controller.
    pub controller: String,
    /// Our name; the certificate's counts.
    pub operator: String,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// Our certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// A context file as it was found.
pub struct Loaded {
    /// What it says.
    pub context: Context,
    /// Its text.
    pub text: String,
    /// What an operator should mend about it, though it works.
    pub warning: Option<String>,
}

/// What our certificate says.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Whom it speaks for.
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
                Failure::controller(format!("there is no context file at {shown}"))
            } else {
                Failure::controller(format!("the context file {shown} cannot be read"))
                    .because(error)
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
                "{shown} is too long for a context file"
            )));
        }
        let context = serde_saphyr::from_str(&text).map_err(|error| {
            Failure::input(format!("{shown} is no context file"))
                .because(error.to_string())
                .hint(GET_ONE)
        })?;
        let warning = (mode & 0o077 != 0).then(|| {
            format!(
                "{shown} holds a private key, and others may read it (mode {mode:04o}); \
                 make it yours alone: chmod 600 {shown}"
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
        // Names and addresses were checked: none needs more quoting than the quotes around it.
        format!(
            "# voipctl's context: which controller, and who we are to it. A secret.\n\
             controller: \"{}\"\noperator: \"{}\"\nca: |\n{}certificate: |\n{}key: |\n{}",
            self.controller,
            self.operator,
            block(&self.ca),
            block(&self.certificate),
            block(&self.key)
        )
    }

    /// What our certificate says.
    pub fn certificate(&self) -> Result<Certificate, Failure> {
        let broken = || Failure::input("the certificate of the context file cannot be read");
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

    /// What tells this installation from every other one: the start of its CA certificate's hash.
    pub fn installation(&self) -> Result<String, Failure> {
        let broken = || Failure::input("the CA certificate of the context file cannot be read");
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
            Failure::input("the certificates of the context file do not work")
                .because(error)
                .hint(GET_ONE)
        })
    }
}

/// A file that is about to be written for this user alone. One that is not written goes again.
pub struct NewFile {
    path: PathBuf,
    file: Option<fs::File>,
}

impl NewFile {
    /// Makes it, empty; never in the place of another one.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = fs::OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|error| {
            let shown = path.display();
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return Failure::input(format!("{shown} exists, and is not written over"))
                    .hint("name another file, or move this one away");
            }
            Failure::input(format!("{shown} cannot be written")).because(error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Writes `text`, and brings it to disk.
    pub fn write(mut self, text: &str) -> Result<(), Failure> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        written.map_err(|error| {
            Failure::input(format!("{} cannot be written", self.path.display())).because(error)
        })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Best effort: it is empty, and ours.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where the context file is: `$VOIPCTL_CONFIG`, else in the XDG config folder.
pub fn default_path() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy as _;
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::input("there is no home folder to look for a context file in")
            .because(error)
            .hint("name one with --context FILE or $VOIPCTL_CONFIG")
    })?;
    Ok(base.config_dir().join("voipctl").join("context.yaml"))
}

/// Puts `text` at `path` for this user alone, whole or not at all.
pub fn install(text: &str, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::input(format!("{} cannot be written", path.display())).because(error)
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let draft = folder.join(format!(".context.{}.new", std::process::id()));
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&draft);
        failed(error)
    })
}
