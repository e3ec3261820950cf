//! `voipctl audit verify`: checks the chain against what was verified before.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use voipfleet_protocol::audit::{Broken, Hash, Link};

use super::chain::{Download, broken};
use super::state_folder;
use crate::Session;
use crate::atomic_file::{self, Access};
use crate::failure::{ExitStatus, Failure};
use crate::format::count;

/// `voipctl audit verify`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The hash of a record that the log must still contain
    #[arg(long, value_name = "HASH")]
    head: Option<Hash>,

    /// The folder that remembers the last verified record [default: in the XDG state folder]
    #[arg(
        long,
        value_name = "DIR",
        env = "VOIPCTL_STATE",
        hide_env_values = true
    )]
    state: Option<PathBuf>,
}

/// The names are a contract.
#[derive(Serialize)]
struct Verified {
    whole: bool,
    records: u64,
    head: Link,
    /// The last pruned record; null if none was pruned.
    pruned: Option<Link>,
    /// The last record verified before; null the first time.
    before: Option<Link>,
}

fn load(path: &Path) -> Result<Option<Link>, Failure> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let failure = Failure::input(format!("cannot read {}", path.display()));
            return Err(failure.because(error));
        }
    };
    let link = serde_json::from_slice(&text).map_err(|error| {
        Failure::input(format!("{} is damaged", path.display()))
            .because(error)
            .hint("delete it to start again; truncation before this check then goes unnoticed")
    })?;
    Ok(Some(link))
}

/// Runs it.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let context = session.context()?;
    let path = state_folder(args.state)?.join(format!("audit-{}.json", context.installation()?));
    let known = load(&path)?;
    let controller = session.controller().await?;
    let mut download = Download::begin(&controller).await?;
    let anchor = download.anchor;
    let mut given = args.head.is_none_or(|head| head == anchor.hash);
    if let Some(known) = known.filter(|known| known.seq == anchor.seq && *known != anchor) {
        return Err(broken(&Broken::Rewritten(known.seq)));
    }
    let mut records = 0;
    while let Some(stored) = download.next().await? {
        records += 1;
        let link = stored.link;
        if let Some(known) = known.filter(|known| known.seq == link.seq && *known != link) {
            return Err(broken(&Broken::Rewritten(known.seq)));
        }
        given |= args.head == Some(link.hash);
    }
    let head = download.end()?;
    if let Some(known) = known.filter(|known| known.seq > head.seq) {
        let (found, known) = (head.seq, known.seq);
        return Err(broken(&Broken::CutOff { found, known }));
    }
    if let (false, Some(hash)) = (given, args.head) {
        let failure =
            Failure::controller(format!("no record of the audit log has the hash {hash}"));
        return Err(failure.status(ExitStatus::NotEverywhere).hint(
            "the log was rewritten or truncated, or the record was pruned; to see prunes: voipctl \
             audit --what PruneAudit",
        ));
    }
    let text = serde_json::to_string(&head)
        .map_err(|error| Failure::input("cannot encode what was verified").because(error))?;
    atomic_file::write(&path, (text + "\n").as_bytes(), Access::Private)?;
    let verified = Verified {
        whole: true,
        records,
        head,
        pruned: (anchor.seq > 0).then_some(anchor),
        before: known,
    };
    if session.print(&verified)? {
        return Ok(ExitStatus::Done);
    }
    report(&verified, session);
    Ok(ExitStatus::Done)
}

fn report(verified: &Verified, session: &mut Session<'_>) {
    let head = verified.head;
    session.console.data(&format!(
        "the audit log is intact: {}, the last is {} with hash\n{}\n",
        count(verified.records, "record"),
        head.seq,
        head.hash
    ));
    if let Some(pruned) = verified.pruned {
        session.console.note(&format!(
            "records up to {} were pruned; to see by whom: voipctl audit --what PruneAudit",
            pruned.seq
        ));
    }
    match (verified.before, verified.pruned) {
        (Some(before), Some(pruned)) if before.seq < pruned.seq => session.console.warning(
            "the last verified record is among the pruned ones: changes to records between that \
             check and the prune cannot be detected",
        ),
        (Some(before), _) => session.console.note(&format!(
            "record {}, verified before, is unchanged",
            before.seq
        )),
        (None, _) => session
            .console
            .note("first check from here: from now on, a truncated end will be detected"),
    }
}
