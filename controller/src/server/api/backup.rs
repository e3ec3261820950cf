//! A backup of the running store, sent to voipctl.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{BackupDone, BackupPart, backup_part::Kind};

use super::failed;
use crate::backup::Taking;
use crate::clock::Clock;
use crate::errors::chain;
use crate::pki::Authority;
use crate::store::Store;

/// The largest part: as a chunk of a ruleset (design: at most 256 KiB).
const PART_BYTES: usize = 256 * 1024;
/// Parts that voipctl has not read yet; more of them wait.
const PARTS: usize = 4;
/// How long voipctl may take to read a part.
const READING: Duration = Duration::from_mins(1);

type Parts = mpsc::Sender<Result<BackupPart, Status>>;

/// Taking backups.
#[derive(Debug, Clone)]
pub(super) struct BackupApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authority: Arc<Authority>,
    /// One backup at a time: each holds old values that writes replace meanwhile.
    pub(super) turn: Arc<Semaphore>,
}

impl BackupApi {
    /// Takes a backup.
    pub(super) async fn backup(
        &self,
    ) -> Result<ReceiverStream<Result<BackupPart, Status>>, Status> {
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else {
            let message = "another backup is being taken";
            return Err(Refusal::new(Reason::Busy, message)
                .hint("try again when it is done")
                .into());
        };
        let now_ms = self.clock.now_ms();
        let taking = Taking::begin(self.store.as_ref(), now_ms, self.authority.fingerprint());
        let mut taking = taking.await.map_err(failed)?;
        let (out, parts) = mpsc::channel(PARTS);
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(status) = send(&mut taking, &out).await {
                tracing::warn!(reason = status.message(), "backup aborted");
                // The reader may have gone.
                let _ = out.try_send(Err(status));
            }
        });
        Ok(ReceiverStream::new(parts))
    }
}

async fn send(taking: &mut Taking, out: &Parts) -> Result<(), Status> {
    let mut sha256 = Sha256::new();
    let mut bytes = 0;
    while let Some(lines) = taking.next().await.map_err(|error| {
        tracing::error!(error = %chain(&error), "cannot read the store for a backup");
        failed(error)
    })? {
        sha256.update(&lines);
        bytes += lines.len() as u64;
        for part in lines.chunks(PART_BYTES) {
            give(out, Kind::Data(part.to_vec())).await?;
        }
    }
    let done = BackupDone {
        entries: taking.entries(),
        bytes,
        sha256: hex::encode(sha256.finalize()),
    };
    give(out, Kind::Done(done)).await
}

async fn give(out: &Parts, kind: Kind) -> Result<(), Status> {
    let part = BackupPart { kind: Some(kind) };
    match tokio::time::timeout(READING, out.send(Ok(part))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the reader hung up")),
        Err(_) => Err(Refusal::new(Reason::TooSlow, "the backup was not read in time").into()),
    }
}
