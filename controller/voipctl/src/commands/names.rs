//! `voipctl names`: what the DNS names in documents stand for.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_dash, or_null, printable};
use crate::table::{Cell, Table};

/// `voipctl names`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Exit with 1 if a name has no good answer
    #[arg(long)]
    exit_code: bool,
}

/// The names are a contract.
#[derive(Serialize)]
struct Names {
    names: Vec<Resolved>,
}

#[derive(Serialize)]
struct Resolved {
    name: String,
    state: State,
    addresses: Vec<Known>,
    answered: Moment,
    failing_since: Moment,
    error: Option<String>,
    refused: Vec<String>,
    beyond: u32,
    used_by: Vec<String>,
    unused_since: Moment,
}

#[derive(Serialize)]
struct Known {
    address: String,
    first_seen: Moment,
    last_seen: Moment,
    missing_since: Moment,
}

/// How a name or a list stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The last answer was good.
    Fresh,
    /// It was not; what was known before is kept.
    Stale,
    /// It was not, and nothing is known.
    Unknown,
    /// Nobody has asked yet.
    Pending,
    /// No document has it.
    Unused,
}

impl State {
    /// From what the controller says; `known`: there was a good answer once.
    pub(super) fn new(unused_ms: u64, failing_ms: u64, known: bool) -> Self {
        match (unused_ms, failing_ms, known) {
            (1.., ..) => State::Unused,
            (0, 0, true) => State::Fresh,
            (0, 0, false) => State::Pending,
            (0, 1.., true) => State::Stale,
            (0, 1.., false) => State::Unknown,
        }
    }

    pub(super) fn is_bad(self) -> bool {
        matches!(self, State::Stale | State::Unknown)
    }

    pub(super) fn cell(self) -> Cell {
        match self {
            State::Fresh => Cell::toned("fresh", Tone::Good),
            State::Stale => Cell::toned("stale", Tone::Bad),
            State::Unknown => Cell::toned("unknown", Tone::Bad),
            State::Pending => Cell::toned("pending", Tone::Attention),
            State::Unused => Cell::from("unused"),
        }
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::LiveSourcesRequest {};
    let answer = controller
        .answer(controller.calls().live_sources(request))
        .await?;
    let names = Names {
        names: answer.names.into_iter().map(Resolved::from).collect(),
    };
    let bad = names.names.iter().filter(|name| name.state.is_bad());
    let bad = bad.count();
    if !session.print(&names)? {
        let text = names.table(session.now).render(session.console.out());
        session.console.data(&text);
        for name in &names.names {
            for line in name.remarks(session.now) {
                session.console.note(&printable(&line));
            }
        }
        let all = count(names.names.len(), "name");
        session
            .console
            .note(&format!("{all}, {bad} without a good answer"));
    }
    Ok(if args.exit_code && bad > 0 {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

impl From<v1::ResolvedName> for Resolved {
    fn from(name: v1::ResolvedName) -> Self {
        let known = !name.addresses.is_empty();
        let addresses = name.addresses.into_iter().map(|address| Known {
            address: address.address,
            first_seen: Moment::of(address.first_ms),
            last_seen: Moment::of(address.last_ms),
            missing_since: Moment::of(address.missing_since_ms),
        });
        Self {
            name: name.name,
            state: State::new(name.unused_since_ms, name.failing_since_ms, known),
            addresses: addresses.collect(),
            answered: Moment::of(name.resolved_ms),
            failing_since: Moment::of(name.failing_since_ms),
            error: or_null(name.error),
            refused: name.refused,
            beyond: name.beyond,
            used_by: name.used_by,
            unused_since: Moment::of(name.unused_since_ms),
        }
    }
}

impl Known {
    fn is_leaving(&self) -> bool {
        self.missing_since != Moment::of(0)
    }
}

impl Resolved {
    /// What an operator should know beside the table.
    fn remarks(&self, now: jiff::Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        let name = &self.name;
        let since = format!(
            "{} ({})",
            self.failing_since.relative(now),
            self.failing_since
        );
        match (self.state, &self.error) {
            (State::Stale, Some(error)) => lines.push(format!(
                "{name}: {error}; no good answer since {since}, what was known stays"
            )),
            (State::Unknown, Some(error)) => lines.push(format!(
                "{name}: {error}; there was never a good answer since {since}, so it lets nobody \
                 in: look at the document's spelling, and at the controller's resolver"
            )),
            (_, Some(error)) => lines.push(format!("{name}: {error}")),
            (_, None) => {}
        }
        if !self.refused.is_empty() {
            let refused = self.refused.join(", ");
            lines.push(format!("{name}: not taken, no peer can have it: {refused}"));
        }
        if self.beyond > 0 {
            let beyond = self.beyond;
            lines.push(format!(
                "{name}: {beyond} more addresses in the answer than a name may have"
            ));
        }
        let leaving = self.addresses.iter().filter(|address| address.is_leaving());
        lines.extend(leaving.map(|address| {
            format!(
                "{name}: {} is left out of answers since {} ({}); it stays an hour, for carriers \
                 that take turns",
                address.address,
                address.missing_since.relative(now),
                address.missing_since
            )
        }));
        lines
    }
}

impl Names {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let mut table = Table::new(&["name", "state", "answered", "used by", "addresses"]);
        for name in &self.names {
            let addresses: Vec<&str> = name
                .addresses
                .iter()
                .map(|address| address.address.as_str())
                .collect();
            table.row([
                name.name.as_str().into(),
                name.state.cell(),
                name.answered.relative(now).into(),
                or_dash(&name.used_by.join(", ")).into(),
                or_dash(&addresses.join(", ")).into(),
            ]);
        }
        table
    }
}
