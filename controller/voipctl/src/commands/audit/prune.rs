//! `voipctl audit prune`: moves old records into a file.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::audit::Link;

use super::TimeArg;
use super::chain::Download;
use crate::Session;
use crate::atomic_file::{self, Access, AtomicFile};
use crate::failure::{ExitStatus, Failure};
use crate::format::count;

/// `voipctl audit prune`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Records older than this: 365d (ago), or before 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    before: TimeArg,

    /// The new file, which gets one record per line
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
    let controller = session.controller().await?;
    let until = args.before.ms(session.now);
    atomic_file::must_be_new(&args.file)?;
    let mut file = AtomicFile::new(&args.file, Access::Private)?;
    let mut download = Download::begin(&controller).await?;
    let mut last = None;
    let mut records: u64 = 0;
    while let Some(stored) = download.next().await? {
        if stored.record.at_ms >= until {
            break;
        }
        file.write(&stored.bytes)?;
        file.write(b"\n")?;
        last = Some(stored.link);
        records += 1;
    }
    let Some(last) = last else {
        session.console.note("no records are that old");
        return Ok(ExitStatus::Done);
    };
    let question = format!(
        "save {} in {shown}, and remove them from the controller?",
        count(records, "record")
    );
    if !session.confirm(&question)? {
        session.console.note("nothing was saved or removed");
        return Ok(ExitStatus::NotEverywhere);
    }
    // What is removed is on disk first.
    file.create()?;
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
            "removed {} up to number {}; they are in {shown}\n",
            count(pruned.removed, "record"),
            last.seq
        ));
    }
    Ok(ExitStatus::Done)
}
