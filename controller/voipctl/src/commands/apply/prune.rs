//! `voipctl apply --prune`: deletes documents that a folder no longer has, after showing them.

use clap::ValueEnum;
use voipfleet_proto::v1;

use super::{Applied, ChangeKind, DocumentFiles, Preconditions, send_on};
use crate::Session;
use crate::failure::Failure;
use crate::format::count;
use crate::workspace;

/// Which documents may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Prune {
    /// What the folder had at its last export or apply
    Known,
    /// Every document that is not in the folder
    All,
}

/// The result of planning a prune.
pub(super) enum PrunePlan {
    /// The documents to delete, with the revisions at which they were shown.
    Delete(Vec<v1::DocumentRevision>),
    /// The folder's own documents are refused already.
    Refused(Applied),
}

/// Finds what to delete; the controller lists the documents that the folder has.
pub(super) async fn plan(
    which: Prune,
    read: &DocumentFiles,
    basis: &Preconditions,
    session: &mut Session<'_>,
) -> Result<PrunePlan, Failure> {
    let Some(revisions) = basis.revisions.as_ref().filter(|_| read.whole) else {
        return Err(
            Failure::input("--prune needs one folder, and nothing else, after -f")
                .hint("to prune by a folder, see: voipctl apply --help"),
        );
    };
    if which == Prune::Known && revisions.is_empty() {
        return Err(
            Failure::input("cannot prune: this folder was never applied or exported")
                .hint("pass --prune=all to delete every document that is not in it"),
        );
    }
    // Without the deletions: a document that refers to a deleted one is reported in the next step.
    let shown = send_on(read, basis, true, session).await?;
    if shown.is_refused() {
        return Ok(PrunePlan::Refused(shown));
    }
    if which == Prune::Known {
        return Ok(PrunePlan::Delete(basis.missing(&shown)));
    }
    let controller = session.controller().await?;
    let stored = controller.documents("", "").await?;
    let there = shown.present();
    let deleted = stored.documents.into_iter().filter_map(|document| {
        let shown = workspace::shown(&document.kind, &document.name);
        let deleted = !there.contains(&shown);
        deleted.then(|| workspace::revision(&shown, document.revision))?
    });
    Ok(PrunePlan::Delete(deleted.collect()))
}

/// Shows what would be deleted, and asks.
pub(super) fn confirmed(shown: &Applied, session: &mut Session<'_>) -> Result<bool, Failure> {
    let deleted: Vec<&super::Change> = shown
        .changes
        .iter()
        .filter(|change| change.change == ChangeKind::Deleted)
        .collect();
    if deleted.is_empty() {
        return Ok(true);
    }
    session.console.note(&format!(
        "{} no longer in the folder:",
        count(deleted.len(), "document")
    ));
    for change in &deleted {
        let line = format!("  {} {}", change.kind.to_lowercase(), change.name);
        session.console.note(&line);
    }
    let what = if deleted.len() == 1 { "it" } else { "them" };
    session.confirm(&format!("delete {what} and apply the rest?"))
}
