//! `voipctl backup FILE`: saves the controller's store in one file.

use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use voipfleet_proto::v1::{self, backup_part::Kind};

use crate::Session;
use crate::atomic_file::{self, Access, AtomicFile};
use crate::client::ANSWER_TIMEOUT;
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, thousands};

/// `voipctl backup`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new file
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Backup {
    file: PathBuf,
    entries: u64,
    bytes: u64,
    sha256: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    atomic_file::must_be_new(&args.file)?;
    let controller = session.controller().await?;
    let mut calls = controller.calls();
    let mut parts = controller
        .answer(calls.backup(v1::BackupRequest {}))
        .await?;
    let mut draft = Draft::new(args.file)?;
    let done = loop {
        let part = controller.within(ANSWER_TIMEOUT, parts.message()).await?;
        match part.and_then(|part| part.kind) {
            Some(Kind::Data(data)) => draft.write(&data)?,
            Some(Kind::Done(done)) => break done,
            None => {
                return Err(Failure::controller("the backup was interrupted")
                    .hint("no file was written; try again"));
            }
        }
    };
    let backup = draft.keep(&done)?;
    if !session.print(&backup)? {
        session.console.data(&format!(
            "{}: {}, {} bytes\n",
            backup.file.display(),
            count(backup.entries, "entry"),
            thousands(backup.bytes)
        ));
    }
    session.console.note(
        "it does not contain the keys: keep a separate copy of controller.json, ca/ and server/ \
         from the controller's data directory",
    );
    Ok(ExitStatus::Done)
}

/// The file while it is written. Dropped before [`Draft::keep`], it leaves nothing behind.
struct Draft {
    path: PathBuf,
    file: AtomicFile,
    sha256: Sha256,
    bytes: u64,
}

impl Draft {
    fn new(path: PathBuf) -> Result<Self, Failure> {
        Ok(Self {
            file: AtomicFile::new(&path, Access::Private)?,
            path,
            sha256: Sha256::new(),
            bytes: 0,
        })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.file.write(data)?;
        self.sha256.update(data);
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Checks the length and hash against the controller's, and puts the file into its place.
    fn keep(self, done: &v1::BackupDone) -> Result<Backup, Failure> {
        let sha256 = hex::encode(self.sha256.finalize());
        if self.bytes != done.bytes || sha256 != done.sha256 {
            return Err(Failure::controller(
                "the backup was corrupted on its way: wrong size or hash",
            )
            .hint("no file was written; try again"));
        }
        self.file.create()?;
        Ok(Backup {
            file: self.path,
            entries: done.entries,
            bytes: done.bytes,
            sha256,
        })
    }
}
