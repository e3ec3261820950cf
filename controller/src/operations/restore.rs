//! An installation made of a backup and the key files of the one that is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::staging_dir::{StagingDir, StagingError, io_error};
use crate::backup::{FormatError, Header, Reader};
use crate::pki::{Authority, PkiError};
use crate::records::{self, QueueRecord, RolloutRecord, TokenRecord};
use crate::settings::{Files, Settings, SettingsError, read, write_new};
use crate::store::parts::Parts;
use crate::store::{Entry, Filling, Revision, StoreError, Versioned, keys};

/// How far the numbers of transactions jump: none that the lost controller has given since the
/// backup comes again, so that a known number never means another state.
const JUMP: Revision = 1 << 32;

/// What is made.
#[derive(Debug)]
pub struct Restored {
    /// The files.
    pub files: Files,
    /// The backup's header.
    pub header: Header,
    /// Entries of the store.
    pub entries: u64,
    /// Join tokens that were open when the backup was taken: whether they were used since,
    /// unknown.
    pub dropped_tokens: u64,
    /// Operators in the backup, by name: whether they were removed since is unknown.
    pub operators: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The backup cannot be restored.
    #[error("{path} cannot be restored; nothing was written")]
    Format {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: FormatError,
    },
    /// The keys are of another installation.
    #[error(
        "{path} is a backup of another installation than the keys in {keys}: its CA has the \
         SHA-256 {wanted}"
    )]
    OtherKeys {
        /// The file.
        path: String,
        /// The directory.
        keys: String,
        /// The CA that the backup names.
        wanted: String,
    },
    /// The keys cannot be used.
    #[error("the keys in {path} cannot be used")]
    Keys {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    /// The new store.
    #[error("the new store cannot be written")]
    Store(#[from] StoreError),
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Makes the installation `data` of the backup in `file` and the key files in `keys`: a copy of
/// `controller.json`, `ca/` and `server/` of the lost one's data directory. Blocks.
///
/// The file is read to its end before anything is written.
pub fn restore(file: &Path, data: &Path, keys: &Path) -> Result<Restored, RestoreError> {
    let keys = Files::new(keys);
    let ca = fingerprint(&keys)?;
    let header = check(file)?;
    if header.ca != hex::encode(ca) {
        return Err(RestoreError::OtherKeys {
            path: shown(file),
            keys: shown(keys.root()),
            wanted: header.ca,
        });
    }
    let staging = StagingDir::create(data, "restore")?;
    let files = staging.files();
    copy_keys(&keys, &files)?;
    let (entries, dropped_tokens, operators) = fill(file, &files)?;
    Ok(Restored {
        operators,
        files: staging.publish()?,
        header,
        entries,
        dropped_tokens,
    })
}

/// Checks that an installation could run with these keys; the CA's fingerprint.
fn fingerprint(keys: &Files) -> Result<[u8; 32], RestoreError> {
    let load = || -> Result<[u8; 32], PkiError> {
        let settings = Settings::load(keys)?;
        let domain = settings.trust_domain();
        let domain = domain.map_err(|error| SettingsError::Damaged {
            path: shown(&keys.settings()),
            source: error.into(),
        })?;
        Ok(Authority::load(keys.clone(), domain)?.fingerprint())
    };
    load().map_err(|error| RestoreError::Keys {
        path: shown(keys.root()),
        source: error.into(),
    })
}

fn open(file: &Path) -> Result<Reader<BufReader<fs::File>>, RestoreError> {
    let input = fs::File::open(file).map_err(|source| RestoreError::Read {
        path: shown(file),
        source,
    })?;
    Reader::new(BufReader::new(input)).map_err(format_error(file))
}

fn format_error(file: &Path) -> impl FnOnce(FormatError) -> RestoreError {
    let path = shown(file);
    |source| RestoreError::Format { path, source }
}

/// Reads a backup to its end, and keeps nothing of it.
fn check(file: &Path) -> Result<Header, RestoreError> {
    let mut reader = open(file)?;
    while reader.next().map_err(format_error(file))?.is_some() {}
    Ok(reader.header().clone())
}

fn copy_keys(keys: &Files, files: &Files) -> Result<(), RestoreError> {
    for (from, to, mode) in [
        (keys.ca_key(), files.ca_key(), 0o600),
        (keys.ca_certificate(), files.ca_certificate(), 0o644),
        (keys.server_key(), files.server_key(), 0o600),
        (keys.server_certificate(), files.server_certificate(), 0o644),
        (keys.settings(), files.settings(), 0o644),
    ] {
        let text = read(&from).map_err(|error| RestoreError::Keys {
            path: shown(keys.root()),
            source: error.into(),
        })?;
        write_new(&to, mode, &text).map_err(io_error(&to))?;
    }
    Ok(())
}

/// Fills the new store; how many entries there were, how many tokens were left out, and which
/// operators are in it.
fn fill(file: &Path, files: &Files) -> Result<(u64, u64, Vec<String>), RestoreError> {
    // Read again, and checked again: it may be another file by now.
    let parts = parts(file)?;
    let mut reader = open(file)?;
    let (last, taken_ms) = (reader.header().revision, reader.header().at_ms);
    let store = Filling::begin(&files.store())?;
    let (mut entries, mut dropped) = (0, 0);
    let mut operators = Vec::new();
    while let Some(mut entry) = reader.next().map_err(format_error(file))? {
        if is_open_token(&entry)? {
            dropped += 1;
        } else {
            hold_rollout(&mut entry, &parts)?;
            drop_queue(&mut entry, &parts)?;
            store.add(&entry)?;
            operators.extend(
                entry
                    .key
                    .strip_prefix(keys::ALL_OPERATORS)
                    .map(str::to_owned),
            );
            entries += 1;
        }
    }
    // The log continues from where it was in the backup, and must show the gap.
    store.add(&Entry {
        key: keys::RESTORED.to_owned(),
        held: Versioned {
            revision: last,
            value: records::to_json(keys::RESTORED, &taken_ms)?,
        },
    })?;
    store.end(last.saturating_add(JUMP))?;
    Ok((entries, dropped, operators))
}

/// The parts of rollouts and queues in a backup, by their keys.
type PartsOfBackup = BTreeMap<String, Vec<u8>>;

/// Reads the parts of the records that a restore changes.
fn parts(file: &Path) -> Result<PartsOfBackup, RestoreError> {
    let prefixes = [keys::ALL_ROLLOUTS, keys::ALL_QUEUES].map(|owner| format!("part/{owner}"));
    let mut parts = PartsOfBackup::new();
    let mut reader = open(file)?;
    while let Some(entry) = reader.next().map_err(format_error(file))? {
        if prefixes.iter().any(|prefix| entry.key.starts_with(prefix)) {
            parts.insert(entry.key, entry.held.value);
        }
    }
    Ok(parts)
}

/// A record of a backup, which may be in parts.
fn whole<T: DeserializeOwned>(entry: &Entry, parts: &PartsOfBackup) -> Result<T, StoreError> {
    let Some(own) = Parts::of(&entry.key, &entry.held)? else {
        return records::from_json(&entry.key, &entry.held);
    };
    let missing = || StoreError::Corrupt {
        key: entry.key.clone(),
        why: "a part of it is missing",
    };
    let mut value = Vec::new();
    for key in own.keys() {
        value.extend_from_slice(parts.get(&key).ok_or_else(missing)?);
    }
    let revision = entry.held.revision;
    records::from_json(&entry.key, &Versioned { revision, value })
}

/// A rollout that was under way may have failed or been ended since: nothing of it goes on before
/// an operator has looked at it.
fn hold_rollout(entry: &mut Entry, parts: &PartsOfBackup) -> Result<(), StoreError> {
    let Some(site) = entry.key.strip_prefix(keys::ALL_ROLLOUTS) else {
        return Ok(());
    };
    let mut record: RolloutRecord = whole(entry, parts)?;
    if record.hold(site) {
        entry.held.value = records::to_json(&entry.key, &record)?;
    }
    Ok(())
}

/// What waited then may have been pushed or dropped since.
fn drop_queue(entry: &mut Entry, parts: &PartsOfBackup) -> Result<(), StoreError> {
    if !entry.key.starts_with(keys::ALL_QUEUES) {
        return Ok(());
    }
    let mut record: QueueRecord = whole(entry, parts)?;
    if record.drop_all("it comes from a backup, and may have been pushed since") {
        entry.held.value = records::to_json(&entry.key, &record)?;
    }
    Ok(())
}

fn is_open_token(entry: &Entry) -> Result<bool, StoreError> {
    if !entry.key.starts_with(keys::ALL_TOKENS) {
        return Ok(false);
    }
    let token: TokenRecord = records::from_json(&entry.key, &entry.held)?;
    Ok(token.used.is_none())
}
