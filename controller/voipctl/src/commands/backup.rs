//! `voipctl backup FILE`: everything that the controller knows, in one file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use voipfleet_proto::v1::{self, backup_part::Kind};

use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::failure::{ExitStatus, Failure};
use crate::format::thousands;

/// `voipctl backup`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; it must not exist yet
    file: PathBuf,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Backup {
    file: PathBuf,
    entries: u64,
    bytes: u64,
    sha256: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    if args.file.exists() {
        return Err(exists(&args.file));
    }
    let controller = session.controller().await?;
    let mut calls = controller.calls();
    let mut parts = controller
        .answer(calls.backup(v1::BackupRequest {}))
        .await?;
    let mut draft = Draft::new(&args.file)?;
    let done = loop {
        let part = controller.within(ANSWER_TIMEOUT, parts.message()).await?;
        match part.and_then(|part| part.kind) {
            Some(Kind::Data(data)) => draft.write(&data)?,
            Some(Kind::Done(done)) => break done,
            None => {
                return Err(Failure::controller("the backup broke off before its end")
                    .hint("nothing was kept of it; try again"));
            }
        }
    };
    let backup = draft.keep(&done)?;
    if !session.print(&backup)? {
        session.console.data(&format!(
            "{}  {} entries, {} bytes\n",
            backup.file.display(),
            thousands(backup.entries),
            thousands(backup.bytes)
        ));
    }
    session.console.note(
        "the keys are not in it: keep a copy of controller.json, ca/ and server/ of the \
         controller's data directory, apart from backups",
    );
    Ok(ExitStatus::Done)
}

fn exists(file: &Path) -> Failure {
    Failure::input(format!("{} exists", file.display()))
        .hint("a backup never replaces another file; give it a name of its own")
}

/// The file while it is written, beside its place; it goes unless it was kept.
struct Draft {
    path: PathBuf,
    place: PathBuf,
    file: File,
    sha256: Sha256,
    bytes: u64,
}

impl Draft {
    fn new(place: &Path) -> Result<Self, Failure> {
        let mut path = place.as_os_str().to_owned();
        path.push(format!(".{}.part", std::process::id()));
        let path = PathBuf::from(path);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(unwritable(&path))?;
        Ok(Self {
            path,
            place: place.to_owned(),
            file,
            sha256: Sha256::new(),
            bytes: 0,
        })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.file.write_all(data).map_err(unwritable(&self.path))?;
        self.sha256.update(data);
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Checks what came against the controller's word, and puts the file into its place.
    fn keep(self, done: &v1::BackupDone) -> Result<Backup, Failure> {
        let sha256 = hex::encode(self.sha256.clone().finalize());
        if self.bytes != done.bytes || sha256 != done.sha256 {
            return Err(
                Failure::controller("the backup is not what the controller sent")
                    .hint("nothing was kept of it; try again"),
            );
        }
        self.file.sync_all().map_err(unwritable(&self.path))?;
        // Never over a file that came meanwhile: the place is taken first, by an empty file. Not by
        // a link, which a USB stick's file system does not know.
        let place = File::options()
            .write(true)
            .create_new(true)
            .open(&self.place);
        place.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.place),
            _ => unwritable(&self.place)(error),
        })?;
        fs::rename(&self.path, &self.place).map_err(|error| {
            // Of no use to anybody.
            let _ = fs::remove_file(&self.place);
            unwritable(&self.place)(error)
        })?;
        Ok(Backup {
            file: self.place.clone(),
            entries: done.entries,
            bytes: done.bytes,
            sha256,
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Of no use to anybody, and by now under its own name if it is.
        let _ = fs::remove_file(&self.path);
    }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let message = format!("{} cannot be written", path.display());
    |error| Failure::input(message).because(error)
}
