//! The first admin's certificates: made by root on the controller's host, counted by the controller.
//!
//! The store belongs to the running controller, so that a certificate is handed over as a file in
//! the data directory, which the controller takes at its start and while it runs. Only who may
//! write there, and so could read the CA's key, can do this.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Uid, chown, getuid};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use voipfleet_ruleset::identifiers::OperatorName;

use super::context_file::context_file;
use super::staging_dir::{StagingError, io_error};
use crate::audit::{Audit, Event};
use crate::errors::chain;
use crate::pki::Authority;
use crate::pki::authority::{Leaf, PkiError};
use crate::records::{OperatorKey, OperatorRecord, Taken};
use crate::settings::{self, Files, Settings, SettingsError, write_new};
use crate::store::{Store, StoreError, keys, transact};

const SECRET: u32 = 0o600;
/// How often a running controller looks for a new certificate.
const EVERY: Duration = Duration::from_secs(1);

/// A certificate that the controller has not taken yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdmin {
    name: OperatorName,
    key_hash: String,
    serial: String,
    expires_ms: u64,
    made_ms: u64,
    /// Who made it, in words.
    by: String,
    /// Earlier certificates go on being good.
    keep_others: bool,
}

/// Why no context file was made.
#[derive(Debug, thiserror::Error)]
pub enum NewAdminError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the trust domain in controller.json is invalid")]
    TrustDomain(#[from] voipfleet_ruleset::identifiers::InvalidName),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Write(#[from] StagingError),
    #[error("{path} already exists; choose another file with --context")]
    ContextExists { path: String },
    #[error("{path} cannot be encoded")]
    Encode {
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    pub name: OperatorName,
    pub context: PathBuf,
    /// Gone once the controller has taken it.
    pub handed_over: PathBuf,
    /// Unix time.
    pub expires_ms: u64,
}

impl NewAdmin {
    pub(super) fn of_init(name: &OperatorName, leaf: &Leaf, now_ms: u64) -> Self {
        Self::new(name, leaf, now_ms, false, "init")
    }

    fn new(
        name: &OperatorName,
        leaf: &Leaf,
        now_ms: u64,
        keep_others: bool,
        command: &str,
    ) -> Self {
        let uid = getuid();
        let user = if uid.is_root() { "root" } else { "user" };
        Self {
            name: name.clone(),
            key_hash: leaf.key_hash.clone(),
            serial: leaf.serial.clone(),
            expires_ms: leaf.expires_ms,
            made_ms: now_ms,
            by: format!("{user} (uid {uid}) on the controller's host, {command}"),
            keep_others,
        }
    }

    /// Its file's text.
    pub(super) fn text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Makes a context file for the first admin of an installation. Its earlier certificates count no
/// longer once the controller has taken the new one, unless `keep_others`.
pub fn make(
    files: &Files,
    context: Option<PathBuf>,
    keep_others: bool,
    now_ms: u64,
) -> Result<Made, NewAdminError> {
    let settings = Settings::load(files)?;
    let authority = Authority::load(files.clone(), settings.trust_domain()?)?;
    let context = context.unwrap_or_else(|| files.admin_context());
    if context.exists() {
        let path = context.display().to_string();
        return Err(NewAdminError::ContextExists { path });
    }
    let name = settings.admin.clone();
    let (pair, leaf) = authority.operator(&name, now_ms)?;
    let new = NewAdmin::new(&name, &leaf, now_ms, keep_others, "new-admin");
    let handed_over = files.new_admin();
    let text = new.text().map_err(|source| NewAdminError::Encode {
        path: handed_over.display().to_string(),
        source,
    })?;
    let context_text = context_file(&settings.address, &name, authority.ca_pem(), &pair);
    write_new(&context, SECRET, &context_text).map_err(io_error(&context))?;
    let hand_over = || {
        settings::replace(&handed_over, SECRET, &text)?;
        give_to_owner(files, &handed_over)
    };
    if let Err(error) = hand_over() {
        // Of no use without it.
        let _ = fs::remove_file(&context);
        return Err(NewAdminError::Write(io_error(&handed_over)(error)));
    }
    Ok(Made {
        name,
        context,
        handed_over,
        expires_ms: leaf.expires_ms,
    })
}

/// The controller may run as another user than root.
fn give_to_owner(files: &Files, path: &std::path::Path) -> io::Result<()> {
    let owner = fs::metadata(files.settings())?;
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if getuid().is_root() && !uid.is_root() {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Takes new certificates of the first admin into the store.
#[derive(Debug, Clone)]
pub(crate) struct FirstAdmin {
    files: Files,
    store: Arc<dyn Store>,
    audit: Audit,
    admin: OperatorName,
}

impl FirstAdmin {
    pub(crate) fn new(
        files: &Files,
        store: &Arc<dyn Store>,
        audit: &Audit,
        admin: OperatorName,
    ) -> Self {
        Self {
            files: files.clone(),
            store: Arc::clone(store),
            audit: audit.clone(),
            admin,
        }
    }

    /// Takes what is handed over, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stop.cancelled() => return,
            }
            match self.take_new().await {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    tracing::error!(error = %chain(&error), "new certificate of the first admin not taken; will retry");
                    failed = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Takes the certificate that is handed over, if there is one.
    pub(crate) async fn take_new(&self) -> Result<(), StoreError> {
        let path = self.files.new_admin();
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(StoreError::Value {
                    key: path.display().to_string(),
                    source: error.into(),
                });
            }
        };
        let new: NewAdmin = serde_json::from_str(&text).map_err(|error| StoreError::Value {
            key: path.display().to_string(),
            source: error.into(),
        })?;
        let replaced = self.store_key(&new).await?;
        let others = match (new.keep_others, replaced) {
            (true, _) | (false, 0) => String::new(),
            (false, 1) => "; 1 earlier certificate counts no longer".to_owned(),
            (false, count) => format!("; {count} earlier certificates count no longer"),
        };
        let event = Event::new("FirstAdminCertificate")
            .object(format!("Operator/{}", new.name))
            .detail(format!("by {}: serial {}{others}", new.by, new.serial));
        self.audit.note(event).await;
        tracing::info!(operator = %new.name, serial = new.serial, "new certificate of the first admin");
        // Taken twice, it changes nothing.
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::warn!(%error, path = %path.display(), "file not removed");
        }
        Ok(())
    }

    /// How many earlier certificates it replaces.
    async fn store_key(&self, new: &NewAdmin) -> Result<usize, StoreError> {
        if new.name != self.admin {
            tracing::warn!(
                operator = %new.name,
                admin = %self.admin,
                "the certificate is for another operator than the first admin"
            );
        }
        let key = keys::operator(&new.name);
        transact(self.store.as_ref(), "the operator", async |mut tx| {
            let read = tx.read::<OperatorRecord>(&key).await?;
            let mut record = read.unwrap_or_else(|| OperatorRecord {
                // Its rights come from controller.json: another name there takes them away.
                bindings: Vec::new(),
                keys: Vec::new(),
                taken: Vec::new(),
                added_ms: new.made_ms,
                added_by: new.by.clone(),
            });
            let mut replaced = 0;
            if !new.keep_others {
                let others = record
                    .keys
                    .iter()
                    .filter(|key| key.key_hash != new.key_hash);
                let others: Vec<Taken> = others
                    .map(|key| Taken {
                        key_hash: key.key_hash.clone(),
                        expires_ms: key.expires_ms,
                        at_ms: new.made_ms,
                        by: new.by.clone(),
                    })
                    .collect();
                replaced = others.len();
                record.taken.extend(others);
                record.keys.clear();
            }
            record.add_key(
                OperatorKey {
                    key_hash: new.key_hash.clone(),
                    serial: new.serial.clone(),
                    expires_ms: new.expires_ms,
                    until_ms: None,
                },
                new.made_ms,
            );
            tx.put_json(&key, &record)?;
            Ok(tx.done(replaced))
        })
        .await
    }
}
