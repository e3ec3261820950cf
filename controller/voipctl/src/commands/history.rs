//! `voipctl history SITE`: the generations that are kept.

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_null};
use crate::table::{Cell, Table};

/// `voipctl history`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// Only the newest so many
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: u32,
}

#[derive(Serialize)]
struct History<'a> {
    site: &'a str,
    current: u64,
    generations: Vec<Entry<'a>>,
}

/// A generation for programs.
#[derive(Serialize)]
pub(super) struct Entry<'a> {
    generation: u64,
    at: Moment,
    by: &'a str,
    cause: &'static str,
    rollback_to: Option<u64>,
    documents: Option<u64>,
    mode: &'static str,
    nodes: u32,
    running: u32,
    applied: Option<u32>,
    failed: Option<u32>,
    result: Option<String>,
    changed_nodes: &'a [String],
    added_nodes: &'a [String],
    removed_nodes: &'a [String],
}

impl<'a> Entry<'a> {
    pub(super) fn of(entry: &'a v1::HistoryEntry) -> Self {
        Self {
            generation: entry.generation,
            at: Moment::of(entry.at_ms),
            by: &entry.by,
            cause: if entry.rollback_to == 0 {
                "push"
            } else {
                "rollback"
            },
            rollback_to: (entry.rollback_to != 0).then_some(entry.rollback_to),
            documents: (entry.documents != 0).then_some(entry.documents),
            mode: if entry.observe { "observe" } else { "enforce" },
            nodes: entry.nodes,
            running: entry.running,
            applied: entry.applied,
            failed: entry.failed,
            result: or_null(entry.result.clone()),
            changed_nodes: &entry.changed_nodes,
            added_nodes: &entry.added_nodes,
            removed_nodes: &entry.removed_nodes,
        }
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::HistoryRequest {
        site: args.site.to_string(),
        limit: args.limit,
    };
    let answer = controller
        .answer(controller.calls().history(request))
        .await?;
    let history = History {
        site: &answer.site,
        current: answer.current,
        generations: answer.generations.iter().map(Entry::of).collect(),
    };
    if session.print(&history)? {
        return Ok(ExitStatus::Done);
    }
    if answer.generations.is_empty() {
        let site = &args.site;
        session.console.note(&format!("{site} was never pushed"));
        session
            .console
            .hint(&format!("see what a push would do: voipctl plan {site}"));
        return Ok(ExitStatus::Done);
    }
    let mut table = Table::new(&[
        "generation",
        "when",
        "by",
        "cause",
        "nodes",
        "result",
        "changed",
    ]);
    for entry in &answer.generations {
        let at = Moment::of(entry.at_ms);
        table.row([
            Cell::number(entry.generation),
            format!("{} ({at})", at.relative(session.now)).into(),
            entry.by.as_str().into(),
            cause(entry).into(),
            format!("{} of {} run it", entry.running, entry.nodes).into(),
            result(entry).into(),
            changed(entry).into(),
        ]);
    }
    let text = table.render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

/// `push`, `rollback to 4`, and the mode where nothing is enforced.
pub(super) fn cause(entry: &v1::HistoryEntry) -> String {
    let cause = match entry.rollback_to {
        0 => "push".to_owned(),
        to => format!("rollback to {to}"),
    };
    if entry.observe {
        format!("{cause}, observe")
    } else {
        cause
    }
}

pub(super) fn result(entry: &v1::HistoryEntry) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(or_null(entry.result.replace('_', " ")));
    parts.extend(entry.applied.map(|number| format!("{number} applied")));
    parts.extend(
        entry
            .failed
            .filter(|n| *n > 0)
            .map(|n| format!("{n} failed")),
    );
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

/// `rules of 3 nodes, + sip4, - sip1`.
pub(super) fn changed(entry: &v1::HistoryEntry) -> String {
    let mut parts = Vec::new();
    match entry.changed_nodes.as_slice() {
        [] => {}
        [one] => parts.push(format!("rules of {one}")),
        many => parts.push(format!("rules of {}", count(many.len(), "node"))),
    }
    for (sign, nodes) in [('+', &entry.added_nodes), ('-', &entry.removed_nodes)] {
        match nodes.as_slice() {
            [] => {}
            [one] => parts.push(format!("{sign} {one}")),
            many => parts.push(format!("{sign} {}", count(many.len(), "node"))),
        }
    }
    if parts.is_empty() {
        "no rules".to_owned()
    } else {
        parts.join(", ")
    }
}
