//! `voipctl diff SITE@A [SITE@B]`: the differences between two generations.

use serde::Serialize;
use voipfleet_proto::v1;

use super::plan::page::Page;
use super::plan::{Documents, Rulesets};
use super::show::GenerationId;
use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};

/// `voipctl diff`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The earlier generation: SITE@NUMBER
    from: GenerationId,

    /// The later generation [default: what a push would make now]
    to: Option<GenerationId>,

    /// Exit with status 1 if they differ
    #[arg(long)]
    exit_code: bool,
}

#[derive(Serialize)]
struct Differences<'a> {
    site: &'a str,
    from: u64,
    to: Option<u64>,
    documents: Option<Documents<'a>>,
    #[serde(flatten)]
    rulesets: Rulesets<'a>,
    added_nodes: &'a [String],
    removed_nodes: &'a [String],
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    if let Some(to) = args.to.as_ref().filter(|to| to.site != args.from.site) {
        return Err(Failure::input(format!(
            "{} and {to} are generations of different sites",
            args.from
        ))
        .hint(format!(
            "compare generations of one site; to list them: voipctl history {}",
            args.from.site
        )));
    }
    let controller = session.controller().await?;
    let request = v1::DiffGenerationsRequest {
        site: args.from.site.to_string(),
        from: args.from.generation,
        to: args.to.as_ref().map_or(0, |to| to.generation),
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.diff_generations(request)).await?;
    let changes = answer.changes.as_ref();
    let differences = Differences {
        site: &answer.site,
        from: answer.from,
        to: (answer.to != 0).then_some(answer.to),
        documents: answer
            .documents_known
            .then(|| Documents::of(&answer.documents)),
        rulesets: changes.map(Rulesets::of).unwrap_or_default(),
        added_nodes: &answer.added_nodes,
        removed_nodes: &answer.removed_nodes,
    };
    let alike = answer.documents.is_empty()
        && answer.added_nodes.is_empty()
        && answer.removed_nodes.is_empty()
        && changes.is_none_or(|changes| changes.rules.is_empty() && changes.sets.is_empty());
    if !session.print(&differences)? {
        let text = text(&args, &answer, alike, session);
        session.console.data(&text);
        if !answer.documents_known {
            session
                .console
                .note("documents are not compared: they are not recorded for these generations");
        }
    }
    Ok(if args.exit_code && !alike {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

fn text(
    args: &Args,
    answer: &v1::DiffGenerationsResponse,
    alike: bool,
    session: &Session<'_>,
) -> String {
    let mut page = Page::new(session.console.out());
    let to = match &args.to {
        Some(to) => to.to_string(),
        None => "the current documents".to_owned(),
    };
    let alike = if alike { ": no differences" } else { "" };
    page.line(0, Tone::Plain, &format!("{} → {to}{alike}", args.from));
    page.documents(&answer.documents);
    if let Some(changes) = &answer.changes {
        page.rulesets(changes, usize::MAX);
    }
    if !answer.added_nodes.is_empty() || !answer.removed_nodes.is_empty() {
        page.title("nodes");
    }
    for node in &answer.removed_nodes {
        page.line(1, Tone::Bad, &format!("- {node}"));
    }
    for node in &answer.added_nodes {
        page.line(1, Tone::Good, &format!("+ {node}"));
    }
    page.finish()
}
