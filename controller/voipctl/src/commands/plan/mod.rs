//! `voipctl plan SITE`: what a push would change, before anything is sent.

mod json;
pub mod page;

use std::path::PathBuf;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

pub use json::{Documents, Rulesets};

use super::apply::{self, Applied};
use crate::Session;
use crate::client::Controller;
use crate::console::style::Tone;
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count};
use page::Page;

/// `voipctl plan`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 done; with --exit-code 0 nothing would change, 1 something would;
2 bad usage or bad input; 3 the controller cannot be reached or refuses us.")]
pub struct Args {
    /// The site
    site: SiteName,

    /// As if these documents were stored: files, folders of *.yaml and *.yml, or - for stdin
    #[arg(short = 'f', long = "file", num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Exit with 1 if anything would change
    #[arg(long)]
    exit_code: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let mut sources = Vec::new();
    if !args.files.is_empty() {
        let read = document_files::read(&args.files, session.console)?;
        if checked(&read, session).await?.is_none() {
            return Ok(ExitStatus::BadInput);
        }
        sources = apply::on_the_wire(&read);
    }
    let controller = session.controller().await?;
    let plan = fetch(&args.site, sources, &controller).await?;
    if !session.print(&json::Plan::of(&plan))? {
        show(&plan, session);
        tell_held(&plan, session);
    }
    if args.exit_code && !is_empty(&plan) {
        return Ok(ExitStatus::NotEverywhere);
    }
    Ok(ExitStatus::Done)
}

/// What storing documents would do; none: they could not be stored, and their mistakes are shown.
pub async fn checked(
    read: &DocumentFiles,
    session: &mut Session<'_>,
) -> Result<Option<Applied>, Failure> {
    let applied = if read.diagnostics.is_empty() {
        apply::send(read, true, session).await?
    } else {
        Applied::nothing(true, read.diagnostics.clone())
    };
    if applied.is_refused() {
        session.print(&applied)?;
        apply::tell(&applied, &read.sources, session);
        return Ok(None);
    }
    Ok(Some(applied))
}

/// Refuses a push that shows its plan to nobody. `look` shows what would change.
pub fn can_ask(look: &str, session: &Session<'_>) -> Result<(), Failure> {
    let why = if !session.format.is_table() {
        "a push whose output is for programs asks no question"
    } else if !session.console.answers() {
        "nobody is there to look at the plan of this push"
    } else {
        return Ok(());
    };
    Err(Failure::input(why).hint(format!(
        "add --yes to push without asking; what would change: {look}"
    )))
}

/// Asks for the plan of the way back to a generation; 0: the last good one before the newest.
pub async fn fetch_back(
    site: &SiteName,
    to: u64,
    controller: &Controller,
) -> Result<v1::PlanResponse, Failure> {
    let request = v1::PlanRequest {
        site: site.to_string(),
        sources: Vec::new(),
        to,
        back: true,
    };
    controller.answer(controller.calls().plan(request)).await
}

/// Asks for the plan of a push of the documents with `sources`.
pub async fn fetch(
    site: &SiteName,
    sources: Vec<v1::Source>,
    controller: &Controller,
) -> Result<v1::PlanResponse, Failure> {
    let request = v1::PlanRequest {
        site: site.to_string(),
        sources,
        to: 0,
        back: false,
    };
    controller.answer(controller.calls().plan(request)).await
}

/// Whether a push would change nothing, neither on the nodes nor in the documents.
pub fn is_empty(plan: &v1::PlanResponse) -> bool {
    plan.documents.is_empty() && rules_stay(plan)
}

/// Whether every node runs what a push would give it.
fn rules_stay(plan: &v1::PlanResponse) -> bool {
    let stays = |node: &v1::PlannedNode| node.state() == v1::PlannedState::Unchanged;
    !plan.changed && plan.nodes.iter().all(stays)
}

/// Says that a push would have to wait.
pub fn tell_held(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    if !plan.held.is_empty() {
        session.console.warning(&plan.held);
    }
}

/// Shows a plan to people; its warnings go to stderr.
pub fn show(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    let text = text(plan, session);
    session.console.data(&text);
    for warning in &plan.warnings {
        session.console.warning(warning);
    }
}

/// Shows the documents of a plan, by field.
pub fn show_documents(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    let mut page = Page::new(session.console.out());
    let site = &plan.site;
    if plan.documents.is_empty() {
        let same = format!(
            "{site}: its documents would be those of generation {}",
            plan.current
        );
        page.line(0, Tone::Plain, &same);
    } else {
        page.line(0, Tone::Plain, &format!("{site}: with these documents"));
        page.documents(&plan.documents);
    }
    let text = page.finish();
    session.console.data(&text);
}

fn text(plan: &v1::PlanResponse, session: &Session<'_>) -> String {
    let mut page = Page::new(session.console.out());
    page.line(0, Tone::Plain, &headline(plan));
    page.documents(&plan.documents);
    let all = plan.nodes.len();
    if let Some(changes) = &plan.changes {
        page.rulesets(changes, all);
    }
    live(plan, session.now, &mut page);
    nodes(plan, &mut page);
    page.finish()
}

fn headline(plan: &v1::PlanResponse) -> String {
    let site = &plan.site;
    let known = if plan.documents_at == 0 && plan.current > 0 && plan.changed {
        "; it is not known of which documents that was made"
    } else {
        ""
    };
    if is_empty(plan) {
        let current = plan.current;
        return format!("{site}: nothing to do, every node runs generation {current}");
    }
    if plan.to > 0 {
        let (to, generation, current) = (plan.to, plan.generation, plan.current);
        return format!(
            "{site}: what generation {to} held would be generation {generation}, after {current}"
        );
    }
    match (plan.changed, plan.current) {
        (true, 0) => format!(
            "{site}: a push would be generation {}, the first",
            plan.generation
        ),
        (true, current) => format!(
            "{site}: a push would be generation {}, after {current}{known}",
            plan.generation
        ),
        (false, current) if rules_stay(plan) => format!(
            "{site}: no node's rules would change; the documents would be those of generation \
             {current}"
        ),
        (false, current) => {
            format!("{site}: a push would give generation {current} to nodes without it")
        }
    }
}

/// What names and feeds stand for now: it changes without a push.
fn live(plan: &v1::PlanResponse, now: jiff::Timestamp, page: &mut Page<'_>) {
    if plan.live.is_empty() {
        return;
    }
    page.title("names and feeds");
    for source in &plan.live {
        let new = if source.added { ", new" } else { "" };
        let what = match source.addresses.len() as u64 {
            0 => "nothing".to_owned(),
            shown if shown == source.entries => source.addresses.join(", "),
            _ => format!("{} entries", source.entries),
        };
        let (tone, when) = if source.error.is_empty() && source.at_ms > 0 {
            (Tone::Plain, Moment::of(source.at_ms).relative(now))
        } else {
            let at = Moment::of(source.at_ms).relative(now);
            (Tone::Attention, format!("last good answer {at}"))
        };
        page.line(1, tone, &format!("{}{new}: {what} ({when})", source.source));
    }
}

fn nodes(plan: &v1::PlanResponse, page: &mut Page<'_>) {
    let of = |state: v1::PlannedState| plan.nodes.iter().filter(move |n| n.state() == state);
    let affected = plan.nodes.len() - of(v1::PlannedState::Unchanged).count();
    page.title("nodes");
    if plan.nodes.is_empty() {
        page.line(1, Tone::Plain, "none yet");
    }
    let width = plan
        .nodes
        .iter()
        .map(|node| node.node.len())
        .max()
        .unwrap_or(0);
    for node in &plan.nodes {
        let (what, tone) = match node.state() {
            v1::PlannedState::Unchanged => ("not affected".to_owned(), Tone::Good),
            v1::PlannedState::Changed => ("changes".to_owned(), Tone::Attention),
            v1::PlannedState::First => (
                "gets its first rules: what they do not open is closed".to_owned(),
                Tone::Attention,
            ),
            v1::PlannedState::Unknown | v1::PlannedState::Unspecified => (
                format!(
                    "changes; it runs generation {}, of which this controller holds no rules: not \
                     compared",
                    node.generation
                ),
                Tone::Attention,
            ),
        };
        let offline = match (node.connected, node.state()) {
            (true, _) => "",
            (false, v1::PlannedState::Unchanged) => ", offline",
            (false, _) => ", offline: when it returns",
        };
        let error = if node.error.is_empty() {
            String::new()
        } else {
            format!("; last try: {}", node.error)
        };
        let name = format!("{:width$}", node.node);
        page.line(1, tone, &format!("{name}  {what}{offline}{error}"));
    }
    if plan.steps.len() > 1 && affected > 0 {
        for (at, step) in plan.steps.iter().enumerate() {
            let nodes = step.nodes.join(", ");
            page.line(1, Tone::Plain, &format!("batch {}: {nodes}", at + 1));
        }
    }
    let stay = plan.nodes.len() - affected;
    page.line(
        0,
        Tone::Plain,
        &format!("{} would change, {stay} would not", count(affected, "node")),
    );
}
