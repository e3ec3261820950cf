//! `voipctl apply -f PATH...`: documents into the controller.

mod conflict;
mod expected_revisions;
mod prune;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use voipfleet_policy::{self as policy, Diagnostic, Documents, Source};
use voipfleet_proto::v1;

use crate::Session;
use crate::diagnostics::{any_error, of_wire, show, tally};
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};
use crate::format::count;
use crate::labels;
use crate::workspace;

pub use conflict::Conflict;
use expected_revisions::{Expected, Preconditions};
use prune::Prune;

/// `voipctl apply`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders with their *.yaml and *.yml, or - for stdin
    #[arg(short = 'f', long = "file", required = true, num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Check only; without a context file, against nothing but these documents
    #[arg(long)]
    dry_run: bool,

    /// Also delete what the folder no longer has: what it had at its last export or apply, or
    /// with --prune=all every other document
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "known")]
    prune: Option<Prune>,

    /// Only if the document is still at this revision, 0: if there is none; may be repeated
    #[arg(long, value_name = "KIND/NAME=REVISION")]
    expect_revision: Vec<Expected>,

    /// Replace what somebody else has changed since the folder was exported or applied, or the
    /// file was fetched
    #[arg(long)]
    overwrite: bool,
}

/// What an apply did, or would do.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// Nothing was stored.
    pub dry_run: bool,
    /// What became of each document.
    pub changes: Vec<Change>,
    /// The mistakes; with an error among them nothing was stored.
    pub diagnostics: Vec<Diagnostic>,
    /// What somebody else changed; with any nothing was stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
}

/// What became of one document.
#[derive(Debug, Serialize)]
pub struct Change {
    /// `Site`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed`, `unchanged`, `deleted`; `checked` where nothing was compared.
    pub change: &'static str,
    /// Where the controller has it now.
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: u64,
}

// Serde's attribute asks for a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(revision: &u64) -> bool {
    *revision == 0
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
            .note("no context file: checked against these documents alone");
        check_alone(&read.sources)
    } else {
        let mut basis =
            Preconditions::of(&read, session)?.with(&args.expect_revision, args.overwrite)?;
        if let Some(which) = args.prune {
            match prune::plan(which, &read, &basis, session).await? {
                prune::PrunePlan::Goes(goes) => basis.prune = goes,
                prune::PrunePlan::Not(applied) => return finish(&args, &applied, &read, session),
            }
            let shown = send_on(&read, &basis, true, session).await?;
            if shown.is_refused() {
                return finish(&args, &shown, &read, session);
            }
            if !args.dry_run && !prune::agreed(&shown, session)? {
                session.console.note("nothing was changed");
                return Ok(ExitStatus::NotEverywhere);
            }
        }
        let applied = send_on(&read, &basis, args.dry_run, session).await?;
        if args.prune.is_none() && read.whole {
            basis.tell_missing(&applied, session);
        }
        applied
    };
    finish(&args, &applied, &read, session)
}

/// Shows what an apply did.
fn finish(
    args: &Args,
    applied: &Applied,
    read: &DocumentFiles,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    if !session.print(applied)? {
        session.console.data(&applied.lines());
    }
    tell(applied, &read.sources, session);
    if applied.is_refused() {
        return Ok(ExitStatus::BadInput);
    }
    let news = |change: &Change| change.change != "unchanged";
    let asks = !args.dry_run && session.format.is_table() && applied.changes.iter().any(news);
    let mut changes = applied.changes.iter();
    let site = changes.find(|change| change.kind == "Site" && change.change != "deleted");
    if let Some(site) = site.filter(|_| asks) {
        session.console.hint(&format!(
            "bring it onto the nodes: voipctl push {}",
            site.name
        ));
    }
    Ok(ExitStatus::Done)
}

/// Sends documents to the controller, on what their folder stands on.
pub async fn send(
    read: &DocumentFiles,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let basis = Preconditions::of(read, session)?;
    send_on(read, &basis, dry_run, session).await
}

/// Stores documents, if each of them is still at the revision that a dry run found it at.
pub async fn send_as_shown(
    read: &DocumentFiles,
    shown: &Applied,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let mut basis = Preconditions::of(read, session)?;
    basis.expected = shown
        .changes
        .iter()
        .map(|change| v1::DocumentRevision {
            kind: change.kind.clone(),
            name: change.name.clone(),
            revision: change.revision,
        })
        .collect();
    send_on(read, &basis, false, session).await
}

/// Sends documents to the controller; what was stored is what their folder stands on now.
async fn send_on(
    read: &DocumentFiles,
    basis: &Preconditions,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let controller = session.controller().await?;
    let request = v1::ApplyRequest {
        sources: on_the_wire(read),
        dry_run,
        expected: basis.expected.clone(),
        prune: basis.prune.clone(),
        rest_is_new: basis.rest_is_new,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.apply(request)).await?;
    let change = |change: v1::DocumentChange| Change {
        change: labels::change(change.change),
        kind: change.kind,
        name: change.name,
        revision: change.revision,
    };
    let applied = Applied {
        dry_run,
        changes: answer.changes.into_iter().map(change).collect(),
        diagnostics: answer.diagnostics.into_iter().map(of_wire).collect(),
        conflicts: answer.conflicts.into_iter().map(Conflict::of).collect(),
    };
    if !dry_run && !applied.is_refused() {
        expected_revisions::note(read, &applied, session);
    }
    Ok(applied)
}

/// Documents as a request carries them.
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
        change: "checked",
        revision: 0,
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

/// Shows the mistakes and the summary on stderr.
pub fn tell(applied: &Applied, sources: &[Source], session: &mut Session<'_>) {
    if session.format.is_table() {
        show(session.console, &applied.diagnostics, sources);
    }
    let mut parts = Vec::new();
    let tally = tally(&applied.diagnostics);
    if !tally.is_empty() {
        parts.push(tally);
    }
    conflict::show(&applied.conflicts, session);
    if applied.is_refused() {
        parts.push("nothing was changed".to_owned());
    } else {
        parts.push(applied.summary());
    }
    session.console.note(&parts.join("; "));
}

impl Applied {
    /// Nothing became of the documents; these are the mistakes.
    pub fn nothing(dry_run: bool, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            dry_run,
            changes: Vec::new(),
            diagnostics,
            conflicts: Vec::new(),
        }
    }

    /// The documents that there are after it, `tenant/acme`.
    fn present(&self) -> BTreeSet<String> {
        let present = self
            .changes
            .iter()
            .filter(|change| change.change != "deleted");
        present.map(Change::shown).collect()
    }

    /// Mistakes or conflicts kept it from being stored.
    pub fn is_refused(&self) -> bool {
        any_error(&self.diagnostics) || !self.conflicts.is_empty()
    }

    fn lines(&self) -> String {
        let width = self
            .changes
            .iter()
            .map(|change| change.change.len())
            .max()
            .unwrap_or(0);
        let line = |change: &Change| {
            let kind = change.kind.to_lowercase();
            format!("{:width$}  {kind} {}\n", change.change, change.name)
        };
        self.changes.iter().map(line).collect()
    }

    fn summary(&self) -> String {
        let documents = count(self.changes.len(), "document");
        let of = |word: &str| {
            self.changes
                .iter()
                .filter(|change| change.change == word)
                .count()
        };
        let counts: Vec<String> = ["created", "changed", "deleted", "unchanged"]
            .into_iter()
            .filter(|word| of(word) > 0)
            .map(|word| format!("{} {word}", of(word)))
            .collect();
        let what = if counts.is_empty() {
            "checked".to_owned()
        } else {
            counts.join(", ")
        };
        let end = if self.dry_run {
            "; nothing was stored (dry run)"
        } else {
            ""
        };
        format!("{documents}: {what}{end}")
    }
}
