//! `voipctl audit prune`: old records go into a file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::audit::Link;

use super::TimeArg;
use super::chain::Download;
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, thousands};

/// `voipctl audit prune`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Records from before then: 365d ago as 8760h, or 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    before: TimeArg,

    /// The file that they go into, a line each; it must not exist
    file: PathBuf,
}

#[derive(Serialize)]
struct Pruned {
    removed: u64,
    last: Link,
    file: PathBuf,
}

/// Runs it.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let shown = args.file.display().to_string();
    let unwritable =
        |error: std::io::Error| Failure::input(format!("{shown} cannot be written")).because(error);
    let controller = session.controller().await?;
    let until = args.before.ms(session.now);
    let mut options = std::fs::OpenOptions::new();
    let made = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file);
    let mut file = std::io::BufWriter::new(made.map_err(unwritable)?);
    let mut download = Download::begin(&controller).await?;
    let mut last = None;
    let mut records: u64 = 0;
    while let Some(stored) = download.next().await? {
        if stored.record.at_ms >= until {
            break;
        }
        file.write_all(&stored.bytes).map_err(unwritable)?;
        file.write_all(b"\n").map_err(unwritable)?;
        last = Some(stored.link);
        records += 1;
    }
    let file = file
        .into_inner()
        .map_err(|error| unwritable(error.into_error()))?;
    file.sync_all().map_err(unwritable)?;
    let Some(last) = last else {
        // Best effort: it is empty, and ours.
        let _ = std::fs::remove_file(&args.file);
        session
            .console
            .note("there are no records from before then");
        return Ok(ExitStatus::Done);
    };
    let question = format!(
        "remove {}, which are now in {shown}, from the controller?",
        count(records, "record")
    );
    if !session.confirm(&question)? {
        session.console.note("nothing was removed; the file stays");
        return Ok(ExitStatus::NotEverywhere);
    }
    let request = v1::PruneAuditRequest {
        last: Some(v1::AuditLink {
            seq: last.seq,
            hash: last.hash.to_string(),
        }),
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.prune_audit(request));
    let pruned = Pruned {
        removed: answer.await?.removed,
        last,
        file: args.file,
    };
    if !session.print(&pruned)? {
        session.console.data(&format!(
            "removed {} up to number {}, which are in {shown}\n",
            count(pruned.removed, "record"),
            thousands(last.seq)
        ));
    }
    Ok(ExitStatus::Done)
}
