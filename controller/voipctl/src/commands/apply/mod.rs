//! `voipctl apply -f PATH...`: stores documents in the controller.

mod conflict;
mod expected_revisions;
mod prune;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::Serialize;
use voipfleet_policy::{self as policy, Diagnostic, Documents, Source};
use voipfleet_proto::v1;

use crate::Session;
use crate::diagnostics::{any_error, of_wire, show, tally};
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, thousands};
use crate::workspace;

pub use conflict::Conflict;
use expected_revisions::{Expected, Preconditions};
use prune::Prune;

/// `voipctl apply`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders (their *.yaml and *.yml files), or - for stdin
    #[arg(short = 'f', long = "file", required = true, num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Check only; without a context file, these documents alone
    #[arg(long)]
    dry_run: bool,

    /// Also delete documents that the folder had at its last export or apply and has no longer;
    /// with --prune=all, every document that is not in the folder
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "known")]
    prune: Option<Prune>,

    /// Apply only if the document is at this revision (0: does not exist); may be repeated
    #[arg(long, value_name = "KIND/NAME=REVISION")]
    expect_revision: Vec<Expected>,

    /// Replace documents even if they were changed concurrently
    #[arg(long)]
    overwrite: bool,
}

/// The result of an apply, or of a dry run.
#[derive(Debug, Serialize)]
pub struct Applied {
    pub dry_run: bool,
    pub changes: Vec<Change>,
    /// With an error among them, nothing was stored.
    pub diagnostics: Vec<Diagnostic>,
    /// With any, nothing was stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
}

/// The change of one document.
#[derive(Debug, Serialize)]
pub struct Change {
    /// `Site`, …
    pub kind: String,
    pub name: String,
    pub change: ChangeKind,
    /// The stored revision; `None` after a deletion or without a controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<NonZeroU64>,
}

/// What an apply did to a document; the words are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not stored before.
    Created,
    /// It was stored with another content.
    Changed,
    /// It was stored like this.
    Unchanged,
    /// It is no longer stored.
    Deleted,
    /// It was checked without a controller, and compared with nothing.
    Checked,
    /// A word of a newer controller.
    Unknown,
}

impl ChangeKind {
    const ALL: [Self; 6] = [
        Self::Created,
        Self::Changed,
        Self::Deleted,
        Self::Unchanged,
        Self::Checked,
        Self::Unknown,
    ];

    fn of(change: v1::Change) -> Self {
        match change {
            v1::Change::Created => Self::Created,
            v1::Change::Changed => Self::Changed,
            v1::Change::Unchanged => Self::Unchanged,
            v1::Change::Deleted => Self::Deleted,
            v1::Change::Unspecified => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::Checked => "checked",
            Self::Unknown => "unknown",
        }
    }
}

impl Change {
    /// `tenant/acme`.
    fn shown(&self) -> String {
        workspace::shown(&self.kind, &self.name)
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let read = document_files::read(&args.files, session.console)?;
    let applied = if !read.diagnostics.is_empty() {
        let diagnostics = read.diagnostics.clone();
        Applied::nothing(args.dry_run, diagnostics)
    } else if args.dry_run && args.prune.is_none() && !session.context_path()?.exists() {
        session
            .console
            .note("no context file: checking these documents alone");
        check_alone(&read.sources)
    } else {
        let mut preconditions =
            Preconditions::of(&read, session)?.with(&args.expect_revision, args.overwrite)?;
        if let Some(which) = args.prune {
            match prune::plan(which, &read, &preconditions, session).await? {
                prune::PrunePlan::Delete(deleted) => preconditions.prune = deleted,
                prune::PrunePlan::Refused(applied) => {
                    return finish(&args, &applied, &read, session);
                }
            }
            let shown = send_on(&read, &preconditions, true, session).await?;
            if shown.is_refused() {
                return finish(&args, &shown, &read, session);
            }
            if !args.dry_run && !prune::confirmed(&shown, session)? {
                session.console.note("nothing was changed");
                return Ok(ExitStatus::NotEverywhere);
            }
        }
        let applied = send_on(&read, &preconditions, args.dry_run, session).await?;
        if args.prune.is_none() && read.whole {
            preconditions.report_missing(&applied, session);
        }
        applied
    };
    finish(&args, &applied, &read, session)
}

/// Shows the result of an apply.
fn finish(
    args: &Args,
    applied: &Applied,
    read: &DocumentFiles,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    report(applied, &read.sources, session);
    if !session.print(applied)? {
        session.console.data(&applied.lines());
    }
    if applied.is_refused() {
        return Ok(ExitStatus::BadInput);
    }
    let news = |change: &Change| change.change != ChangeKind::Unchanged;
    let hints = !args.dry_run && session.format.is_table() && applied.changes.iter().any(news);
    let mut changes = applied.changes.iter();
    let site = changes.find(|change| change.kind == "Site" && change.change != ChangeKind::Deleted);
    if let Some(site) = site.filter(|_| hints) {
        session.console.hint(&format!(
            "push the change to the nodes: voipctl push {}",
            site.name
        ));
    }
    Ok(ExitStatus::Done)
}

/// Sends documents to the controller, with the revisions that their folder expects.
pub async fn send(
    read: &DocumentFiles,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let preconditions = Preconditions::of(read, session)?;
    send_on(read, &preconditions, dry_run, session).await
}

/// Stores documents, if each is still at the revision that a dry run found.
pub async fn send_as_shown(
    read: &DocumentFiles,
    shown: &Applied,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let mut preconditions = Preconditions::of(read, session)?;
    preconditions.expected = shown
        .changes
        .iter()
        .map(|change| v1::DocumentRevision {
            kind: change.kind.clone(),
            name: change.name.clone(),
            revision: change.revision.map_or(0, NonZeroU64::get),
        })
        .collect();
    send_on(read, &preconditions, false, session).await
}

/// Sends documents to the controller, and records the new revisions.
async fn send_on(
    read: &DocumentFiles,
    preconditions: &Preconditions,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let controller = session.controller().await?;
    let request = v1::ApplyRequest {
        sources: on_the_wire(read),
        dry_run,
        expected: preconditions.expected.clone(),
        prune: preconditions.prune.clone(),
        rest_is_new: preconditions.rest_is_new,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.apply(request)).await?;
    let change = |change: v1::DocumentChange| Change {
        change: ChangeKind::of(change.change()),
        kind: change.kind,
        name: change.name,
        revision: NonZeroU64::new(change.revision),
    };
    let applied = Applied {
        dry_run,
        changes: answer.changes.into_iter().map(change).collect(),
        diagnostics: answer.diagnostics.into_iter().map(of_wire).collect(),
        conflicts: answer.conflicts.into_iter().map(Conflict::of).collect(),
    };
    if !dry_run && !applied.is_refused() {
        expected_revisions::record(read, &applied, session);
    }
    Ok(applied)
}

/// Documents in the form of a request.
pub fn on_the_wire(read: &DocumentFiles) -> Vec<v1::Source> {
    let source = |source: &Source| v1::Source {
        path: source.path.clone(),
        text: source.text.clone(),
    };
    read.sources.iter().map(source).collect()
}

/// Checks documents without a controller.
fn check_alone(sources: &[Source]) -> Applied {
    let checked = policy::check(sources, &Documents::default());
    let change = |document: &policy::Document| Change {
        kind: document.kind().to_string(),
        name: document.name().to_owned(),
        change: ChangeKind::Checked,
        revision: None,
    };
    let changes = if any_error(&checked.diagnostics) {
        Vec::new()
    } else {
        checked.documents.iter().map(change).collect()
    };
    Applied {
        changes,
        ..Applied::nothing(true, checked.diagnostics)
    }
}

/// Shows the diagnostics, the conflicts and the summary on stderr.
pub fn report(applied: &Applied, sources: &[Source], session: &mut Session<'_>) {
    if session.format.is_table() {
        show(session.console, &applied.diagnostics, sources);
    }
    conflict::show(&applied.conflicts, session);
    let mut parts = Vec::new();
    let tally = tally(&applied.diagnostics);
    if !tally.is_empty() {
        parts.push(tally);
    }
    if applied.is_refused() {
        parts.push("nothing was changed".to_owned());
    } else {
        parts.push(applied.summary());
    }
    session.console.note(&parts.join("; "));
}

impl Applied {
    /// Nothing was changed, because of these diagnostics.
    pub fn nothing(dry_run: bool, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            dry_run,
            changes: Vec::new(),
            diagnostics,
            conflicts: Vec::new(),
        }
    }

    /// The documents that exist after it, `tenant/acme`.
    fn present(&self) -> BTreeSet<String> {
        let present = self
            .changes
            .iter()
            .filter(|change| change.change != ChangeKind::Deleted);
        present.map(Change::shown).collect()
    }

    /// Whether errors or conflicts kept the documents from being stored.
    pub fn is_refused(&self) -> bool {
        any_error(&self.diagnostics) || !self.conflicts.is_empty()
    }

    fn lines(&self) -> String {
        let width = self
            .changes
            .iter()
            .map(|change| change.change.as_str().len())
            .max()
            .unwrap_or(0);
        let line = |change: &Change| {
            let kind = change.kind.to_lowercase();
            let what = change.change.as_str();
            format!("{what:width$}  {kind} {}\n", change.name)
        };
        self.changes.iter().map(line).collect()
    }

    /// `3 documents: 1 created, 2 unchanged`.
    fn summary(&self) -> String {
        let documents = count(self.changes.len(), "document");
        let of = |kind: ChangeKind| {
            let changes = self.changes.iter();
            changes.filter(|change| change.change == kind).count() as u64
        };
        let counts: Vec<String> = ChangeKind::ALL
            .into_iter()
            .filter(|kind| of(*kind) > 0)
            .map(|kind| format!("{} {}", thousands(of(kind)), kind.as_str()))
            .collect();
        let counts = if counts.is_empty() {
            String::new()
        } else {
            format!(": {}", counts.join(", "))
        };
        let end = if self.dry_run {
            "; nothing was stored (dry run)"
        } else {
            ""
        };
        format!("{documents}{counts}{end}")
    }
}
