//! `voipctl apply -f PATH...`: documents into the controller.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_common::policy::{self, Diagnostic, Documents, Source};
use voipfleet_proto::v1;

use crate::Session;
use crate::diagnostics::{any_error, of_wire, show, tally};
use crate::failure::{Failure, Status};
use crate::sources::{self, Sources};
use crate::states;
use crate::wording::count;

/// `voipctl apply`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders of *.yaml and *.yml, or - for stdin
    #[arg(short = 'f', long = "file", required = true, num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Check only; without a context file, against nothing but these documents
    #[arg(long)]
    dry_run: bool,
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
}

/// What became of one document.
#[derive(Debug, Serialize)]
pub struct Change {
    /// `Site`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed`, `unchanged`; `checked` where nothing was compared.
    pub change: &'static str,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<Status, Failure> {
    let read = sources::read(&args.files, session.console)?;
    let applied = if !read.diagnostics.is_empty() {
        let diagnostics = read.diagnostics.clone();
        Applied {
            dry_run: args.dry_run,
            changes: Vec::new(),
            diagnostics,
        }
    } else if args.dry_run && !session.context_path()?.exists() {
        session
            .console
            .note("no context file: checked against these documents alone");
        check_alone(&read.sources)
    } else {
        send(&read, args.dry_run, session).await?
    };
    if !session.print(&applied)? {
        session.console.data(&applied.lines());
    }
    tell(&applied, &read.sources, session);
    if any_error(&applied.diagnostics) {
        return Ok(Status::BadInput);
    }
    let site = applied.changes.iter().find(|change| change.kind == "Site");
    if let Some(site) = site.filter(|_| !args.dry_run && session.format.is_table()) {
        session.console.hint(&format!(
            "bring it onto the nodes: voipctl push {}",
            site.name
        ));
    }
    Ok(Status::Done)
}

/// Sends documents to the controller.
pub async fn send(
    read: &Sources,
    dry_run: bool,
    session: &mut Session<'_>,
) -> Result<Applied, Failure> {
    let controller = session.controller().await?;
    let request = v1::ApplyRequest {
        sources: on_the_wire(read),
        dry_run,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.apply(request)).await?;
    let change = |change: v1::DocumentChange| Change {
        change: states::change(change.change),
        kind: change.kind,
        name: change.name,
    };
    Ok(Applied {
        dry_run,
        changes: answer.changes.into_iter().map(change).collect(),
        diagnostics: answer.diagnostics.into_iter().map(of_wire).collect(),
    })
}

/// Documents as a request carries them.
pub fn on_the_wire(read: &Sources) -> Vec<v1::Source> {
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
    };
    let changes = if any_error(&checked.diagnostics) {
        Vec::new()
    } else {
        checked.documents.iter().map(change).collect()
    };
    Applied {
        dry_run: true,
        changes,
        diagnostics: checked.diagnostics,
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
    if any_error(&applied.diagnostics) {
        parts.push("nothing was changed".to_owned());
    } else {
        parts.push(applied.summary());
    }
    session.console.note(&parts.join("; "));
}

impl Applied {
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
        let counts: Vec<String> = ["created", "changed", "unchanged"]
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
