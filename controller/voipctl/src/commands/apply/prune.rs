//! `voipctl apply --prune`: what a folder no longer has goes, after it was shown.

use clap::ValueEnum;
use voipfleet_proto::v1;

use super::{Applied, DocumentFiles, Preconditions, send_on};
use crate::Session;
use crate::failure::Failure;
use crate::format::count;
use crate::workspace;

/// Which documents may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Prune {
    /// What the folder had at its last export or apply
    Known,
    /// Every document that is not in the folder
    All,
}

/// What pruning comes to.
pub(super) enum PrunePlan {
    /// These go, with the revisions at which they were shown.
    Goes(Vec<v1::DocumentRevision>),
    /// The folder's own documents are refused already.
    Not(Applied),
}

/// Finds what goes: the controller says which documents the folder has.
pub(super) async fn plan(
    which: Prune,
    read: &DocumentFiles,
    basis: &Preconditions,
    session: &mut Session<'_>,
) -> Result<PrunePlan, Failure> {
    let Some(revisions) = basis.revisions.as_ref().filter(|_| read.whole) else {
        return Err(
            Failure::input("--prune needs a folder, and nothing beside it")
                .hint("for example: voipctl apply -f policies/ --prune"),
        );
    };
    if which == Prune::Known && revisions.is_empty() {
        return Err(Failure::input(
            "it is not known what this folder had: it was never applied or exported",
        )
        .hint("to delete every document that is not in it: --prune=all"));
    }
    // Without the pruning: a document that names one that goes is told of in the next step.
    let shown = send_on(read, basis, true, session).await?;
    if shown.is_refused() {
        return Ok(PrunePlan::Not(shown));
    }
    if which == Prune::Known {
        return Ok(PrunePlan::Goes(basis.missing(&shown)));
    }
    let controller = session.controller().await?;
    let request = v1::GetDocumentsRequest::default();
    let stored = controller
        .answer(controller.calls().get_documents(request))
        .await?;
    let there = shown.present();
    let goes = stored.documents.into_iter().filter_map(|document| {
        let shown = workspace::shown(&document.kind, &document.name);
        let goes = !there.contains(&shown);
        goes.then(|| workspace::revision(&shown, document.revision))?
    });
    Ok(PrunePlan::Goes(goes.collect()))
}

/// Shows what goes, and asks.
pub(super) fn agreed(shown: &Applied, session: &mut Session<'_>) -> Result<bool, Failure> {
    let goes: Vec<&super::Change> = shown
        .changes
        .iter()
        .filter(|change| change.change == "deleted")
        .collect();
    if goes.is_empty() {
        return Ok(true);
    }
    session.console.note(&format!(
        "{} no longer in the folder:",
        count(goes.len(), "document")
    ));
    for change in &goes {
        let line = format!("  {} {}", change.kind.to_lowercase(), change.name);
        session.console.note(&line);
    }
    let what = if goes.len() == 1 { "it" } else { "them" };
    session.confirm(&format!("delete {what}, and apply the rest?"))
}
