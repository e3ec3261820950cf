//! `voipctl history SITE`: the generations of a site.

use std::num::NonZeroU32;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_dash, or_null, thousands};
use crate::table::{Cell, Table};

/// `voipctl history`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// The number of generations, newest first [default: all]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<NonZeroU32>,
}

#[derive(Serialize)]
struct History<'a> {
    site: &'a str,
    current: u64,
    generations: Vec<Entry<'a>>,
}

/// A generation; the names are a contract.
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
    changed_documents: &'a [String],
    changed_document_count: Option<u32>,
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
            changed_documents: &entry.changed_documents,
            changed_document_count: entry.changed_document_count,
        }
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::HistoryRequest {
        site: args.site.to_string(),
        limit: args.limit.map_or(0, NonZeroU32::get),
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
            .hint(&format!("to see what a push would do: voipctl plan {site}"));
        return Ok(ExitStatus::Done);
    }
    let mut table = Table::new(&["gen", "pushed", "by", "cause", "runs", "result", "changed"]);
    for entry in &answer.generations {
        table.row([
            Cell::id(Some(entry.generation)),
            Moment::of(entry.at_ms).relative(session.now).into(),
            entry.by.as_str().into(),
            short_cause(entry).into(),
            format!("{}/{}", entry.running, entry.nodes).into(),
            or_dash(&short_result(entry)).into(),
            changed(entry).into(),
        ]);
    }
    let text = table.render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

/// `push`, `back to 4`, with the mode if nothing is enforced.
fn short_cause(entry: &v1::HistoryEntry) -> String {
    let cause = match entry.rollback_to {
        0 => "push".to_owned(),
        to => format!("back to {to}"),
    };
    if entry.observe {
        format!("{cause}, observe")
    } else {
        cause
    }
}

/// `push`, `rollback to 4`, with the mode if nothing is enforced.
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

/// `done`, `halted, 1 failed`; empty if unknown.
fn short_result(entry: &v1::HistoryEntry) -> String {
    let failed = entry.failed.filter(|number| *number > 0);
    let failed = failed.map(|number| format!("{} failed", thousands(number.into())));
    let parts = or_null(entry.result.replace('_', " ")).into_iter();
    parts.chain(failed).collect::<Vec<_>>().join(", ")
}

/// `done (3 applied)`, `halted (2 applied, 1 failed)`; empty if unknown.
pub(super) fn result(entry: &v1::HistoryEntry) -> String {
    let counts: Vec<String> = [(entry.applied, "applied"), (entry.failed, "failed")]
        .into_iter()
        .filter_map(|(number, word)| Some((number?, word)))
        .filter(|(number, word)| *number > 0 || *word == "applied")
        .map(|(number, word)| format!("{} {word}", thousands(number.into())))
        .collect();
    match (entry.result.as_str(), counts.as_slice()) {
        (result, []) => result.replace('_', " "),
        ("", counts) => counts.join(", "),
        (result, counts) => format!("{} ({})", result.replace('_', " "), counts.join(", ")),
    }
}

/// `tenant/acme, site/site-a; 3 nodes, + sip4, - sip1`.
pub(super) fn changed(entry: &v1::HistoryEntry) -> String {
    const NAMED: usize = 2;
    let names: Vec<String> = entry
        .changed_documents
        .iter()
        .map(|name| name.to_lowercase())
        .collect();
    let mut documents = names.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let all = entry.changed_document_count.unwrap_or_default();
    let all = usize::try_from(all).unwrap_or(usize::MAX).max(names.len());
    if let more @ 1.. = all.saturating_sub(documents.len()) {
        documents.push(format!("{} more", thousands(more as u64)));
    }
    let nodes = changed_nodes(entry);
    if documents.is_empty() {
        nodes
    } else {
        format!("{}; {nodes}", documents.join(", "))
    }
}

/// `3 nodes, + sip4, - sip1`.
fn changed_nodes(entry: &v1::HistoryEntry) -> String {
    let short = |nodes: &[String]| match nodes {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(count(many.len(), "node")),
    };
    let parts: Vec<String> = [
        short(&entry.changed_nodes),
        short(&entry.added_nodes).map(|nodes| format!("+ {nodes}")),
        short(&entry.removed_nodes).map(|nodes| format!("- {nodes}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "no node".to_owned()
    } else {
        parts.join(", ")
    }
}
