//! `voipctl plan SITE`: what a push would change.

mod json;
pub mod page;

use std::path::PathBuf;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

pub use json::{Documents, Rulesets};

use super::apply::{self, Applied};
use super::cluster::pending_lines;
use super::expiries;
use crate::Session;
use crate::client::Controller;
use crate::console::style::Tone;
use crate::diagnostics;
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, by_text, count, node_list, thousands};
use crate::output_format::Format;
use page::Page;

/// `voipctl plan`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// Plan as if these documents were stored: files, folders, or - for stdin
    #[arg(short = 'f', long = "file", num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Exit with status 1 if anything would change
    #[arg(long)]
    exit_code: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let mut sources = Vec::new();
    let mut diagnostics = Vec::new();
    if !args.files.is_empty() {
        let read = document_files::read(&args.files, session.console)?;
        let Some(applied) = checked(&read, session).await? else {
            return Ok(ExitStatus::BadInput);
        };
        diagnostics = applied.diagnostics;
        sources = apply::on_the_wire(&read);
    }
    let controller = session.controller().await?;
    let plan = fetch(&args.site, sources, &controller).await?;
    if !session.print(&json::Plan::of(&plan, &diagnostics))? {
        show(&plan, session);
        report_held(&plan, session);
    }
    if args.exit_code && !is_empty(&plan) {
        return Ok(ExitStatus::NotEverywhere);
    }
    Ok(ExitStatus::Done)
}

/// What storing documents would do, after their warnings are shown; `None` if they have errors,
/// which are shown then.
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
        apply::report(&applied, &read.sources, session);
        return Ok(None);
    }
    if session.format.is_table() {
        diagnostics::show(session.console, &applied.diagnostics, &read.sources);
    }
    Ok(Some(applied))
}

/// Fails if a plan cannot be confirmed interactively. `preview` is a command that shows it.
pub fn require_prompt(preview: &str, session: &Session<'_>) -> Result<(), Failure> {
    let why = match session.format {
        Format::Json => "cannot ask for confirmation with -o json",
        Format::Yaml => "cannot ask for confirmation with -o yaml",
        Format::Table if !session.console.answers() => {
            "refusing to push without confirmation: stdin or stderr is not a terminal"
        }
        Format::Table => return Ok(()),
    };
    Err(Failure::input(why).hint(format!(
        "pass --yes to skip the question; to see what would change: {preview}"
    )))
}

/// Asks for the plan of a rollback; 0: to the last good generation before the current one.
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

/// Whether every node already has the rules that a push would give it.
fn rules_stay(plan: &v1::PlanResponse) -> bool {
    let stays = |node: &v1::PlannedNode| node.state() == v1::PlannedState::Unchanged;
    !plan.changed && plan.nodes.iter().all(stays)
}

/// Why a push of the plan is refused for now.
pub fn held(plan: &v1::PlanResponse) -> Failure {
    Failure::input(&plan.held).with_hints(plan.held_hints.iter().cloned())
}

/// Reports that a push would have to wait.
pub fn report_held(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    if plan.held.is_empty() {
        return;
    }
    session.console.warning(&plan.held);
    for hint in &plan.held_hints {
        session.console.hint(hint);
    }
}

/// Shows the sum of a plan, in one line, and its warnings (on stderr).
pub fn show_sum(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    let mut page = Page::new(session.console.out());
    page.line(0, Tone::Plain, &sum(plan));
    let sum = page.finish();
    session.console.data(&sum);
    for warning in &plan.warnings {
        session.console.warning(warning);
    }
    expiries::warn([plan.expiries.as_slice()], session);
}

/// Shows a plan: the sum, the warnings (on stderr), then the changes.
pub fn show(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    show_sum(plan, session);
    let mut page = Page::new(session.console.out());
    page.documents(&plan.documents);
    if let Some(changes) = &plan.changes {
        page.rulesets(changes, plan.nodes.len());
    }
    dynamic_sets(plan, session.now, &mut page);
    pending(plan, &mut page);
    nodes(plan, &mut page);
    let changes = page.finish();
    session.console.data(&changes);
}

/// Shows the documents of a plan, by field.
pub fn show_documents(plan: &v1::PlanResponse, session: &mut Session<'_>) {
    let mut page = Page::new(session.console.out());
    let site = &plan.site;
    if plan.documents.is_empty() {
        let same = format!(
            "{site}: no document would change since generation {}",
            plan.current
        );
        page.line(0, Tone::Plain, &same);
    } else {
        page.line(0, Tone::Plain, &format!("{site}: changes of documents"));
        page.documents(&plan.documents);
    }
    let text = page.finish();
    session.console.data(&text);
}

fn headline(plan: &v1::PlanResponse) -> String {
    let (site, generation, current) = (&plan.site, plan.generation, plan.current);
    let unknown = if plan.documents_at == 0 && current > 0 && plan.changed {
        "; its documents are not recorded"
    } else {
        ""
    };
    if is_empty(plan) {
        return format!("{site}: nothing to do: every node runs generation {current}");
    }
    if plan.to > 0 {
        let to = plan.to;
        return format!(
            "{site}: rolling back to {to} would create generation {generation} (now: {current})"
        );
    }
    match (plan.changed, current) {
        (true, 0) => format!("{site}: a push would create generation {generation}, the first"),
        (true, _) => {
            format!("{site}: a push would create generation {generation} (now: {current}{unknown})")
        }
        (false, _) if rules_stay(plan) => {
            format!("{site}: only documents would change, no rules of generation {current}")
        }
        (false, _) => {
            format!("{site}: a push would bring the remaining nodes to generation {current}")
        }
    }
}

/// The nodes that a push would change.
fn affected(plan: &v1::PlanResponse) -> usize {
    let changes = |node: &&v1::PlannedNode| node.state() != v1::PlannedState::Unchanged;
    plan.nodes.iter().filter(changes).count()
}

/// The headline, with what changes in numbers.
fn sum(plan: &v1::PlanResponse) -> String {
    if is_empty(plan) {
        return headline(plan);
    }
    let (change, all) = (affected(plan), plan.nodes.len());
    let mut parts = vec![match (change, all) {
        (_, 0) => "no nodes yet".to_owned(),
        (0, _) => "no node changes".to_owned(),
        (1, 1) => "its node changes".to_owned(),
        (change, all) if change == all => format!("all {} change", count(all, "node")),
        (change, all) => {
            let all = thousands(all as u64);
            format!("{} of {all} nodes change", thousands(change as u64))
        }
    }];
    if !plan.documents.is_empty() {
        parts.push(count(plan.documents.len(), "document"));
    }
    parts.extend(access_sum(plan));
    if !plan.warnings.is_empty() {
        parts.push(count(plan.warnings.len(), "warning"));
    }
    let observe = if plan.observe {
        "; mode observe: nothing is dropped"
    } else {
        ""
    };
    format!("{}: {}{observe}", headline(plan), parts.join(", "))
}

/// `access: 2 gain, 1 loses`; none: nobody's access changes.
fn access_sum(plan: &v1::PlanResponse) -> Option<String> {
    let access = || plan.changes.iter().flat_map(|changes| &changes.access);
    let gain = access().filter(|access| access.gains).count();
    let lose = access().count() - gain;
    let part = |number: usize, one: &str, many: &str| {
        let verb = if number == 1 { one } else { many };
        (number > 0).then(|| format!("{} {verb}", thousands(number as u64)))
    };
    let parts = [part(gain, "gains", "gain"), part(lose, "loses", "lose")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("access: {}", parts.join(", ")))
}

/// The present addresses of names and feeds, which change without a push.
fn dynamic_sets(plan: &v1::PlanResponse, now: jiff::Timestamp, page: &mut Page<'_>) {
    if plan.dynamic.is_empty() {
        return;
    }
    page.title("names and feeds");
    for source in &plan.dynamic {
        let new = if source.added { ", new" } else { "" };
        let what = match source.addresses.len() as u64 {
            0 => "nothing".to_owned(),
            shown if shown == source.entries => source.addresses.join(", "),
            _ => count(source.entries, "entry"),
        };
        let (tone, when) = if source.error.is_empty() && source.at_ms > 0 {
            (Tone::Plain, Moment::of(source.at_ms).relative(now))
        } else {
            let at = Moment::of(source.at_ms).relative(now);
            (Tone::Attention, format!("last good answer {at}"))
        };
        let source = page::source_name(&source.source);
        page.line(1, tone, &format!("{source}{new}: {what} ({when})"));
    }
}

/// Addresses that nodes report and that would be no members of the cluster.
fn pending(plan: &v1::PlanResponse, page: &mut Page<'_>) {
    if is_empty(plan) || plan.pending.is_empty() {
        return;
    }
    page.title("not members of the cluster");
    for line in pending_lines(&plan.pending) {
        page.line(1, Tone::Plain, &line);
    }
}

fn nodes(plan: &v1::PlanResponse, page: &mut Page<'_>) {
    page.title("nodes");
    if plan.nodes.is_empty() {
        page.line(1, Tone::Plain, "none yet");
    }
    let line = |node: &v1::PlannedNode| {
        let (what, tone) = match node.state() {
            v1::PlannedState::Unchanged => ("unchanged".to_owned(), Tone::Good),
            v1::PlannedState::Changed => ("changes".to_owned(), Tone::Attention),
            v1::PlannedState::First if plan.observe => (
                "first rules, in mode observe: nothing is closed".to_owned(),
                Tone::Attention,
            ),
            v1::PlannedState::First => (
                "first rules: what they do not open is closed".to_owned(),
                Tone::Attention,
            ),
            v1::PlannedState::Unknown | v1::PlannedState::Unspecified => (
                format!(
                    "changes (not compared: the controller has no rules of generation {}, which it \
                     runs)",
                    node.generation
                ),
                Tone::Attention,
            ),
        };
        let offline = match (node.connected, node.state()) {
            (true, _) => "",
            (false, v1::PlannedState::Unchanged) => ", offline",
            (false, _) => ", offline: on reconnecting",
        };
        let error = if node.error.is_empty() {
            String::new()
        } else {
            format!("; last attempt: {}", node.error)
        };
        (format!("{what}{offline}{error}"), tone)
    };
    let lines = plan.nodes.iter().map(|node| (&node.node, line(node)));
    for (nodes, (what, tone)) in by_text(lines) {
        page.line(1, tone, &format!("{}: {what}", node_list(&nodes)));
    }
    if plan.steps.len() > 1 && affected(plan) > 0 {
        for (at, step) in plan.steps.iter().enumerate() {
            let nodes = node_list(&step.nodes);
            page.line(1, Tone::Plain, &format!("batch {}: {nodes}", at + 1));
        }
    }
}
