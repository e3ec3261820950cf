//! `voipctl names`: the addresses of DNS names in documents.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_dash, or_null, thousands};
use crate::table::{Cell, Table};

/// `voipctl names`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Exit with status 1 if a name has no good answer, or none yet
    #[arg(long)]
    exit_code: bool,
}

/// How long a first answer may take, milliseconds: resolvers answer in less than a second.
const FIRST_ANSWER_MS: u64 = 10_000;

/// The names are a contract.
#[derive(Serialize)]
struct Names {
    names: Vec<ResolvedName>,
}

#[derive(Serialize)]
struct ResolvedName {
    name: String,
    state: State,
    addresses: Vec<ResolvedAddress>,
    answered: Moment,
    failing_since: Moment,
    error: Option<String>,
    refused: Vec<String>,
    beyond: u32,
    used_by: Vec<String>,
    unused_since: Moment,
}

#[derive(Serialize)]
struct ResolvedAddress {
    address: String,
    first_seen: Moment,
    last_seen: Moment,
    missing_since: Moment,
}

/// The state of a name or list; the words are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The last answer was good.
    Fresh,
    /// The last answer was bad; the previous one stays in use.
    Stale,
    /// There was never a good answer; or none at all for longer than a resolver takes.
    Unknown,
    /// Its first answer is awaited.
    Pending,
    /// No document uses it.
    Unused,
}

impl State {
    /// From the controller's times; `known`: there was a good answer once.
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
    let request = v1::ListDynamicSetsRequest {};
    let answer = controller
        .answer(controller.calls().list_dynamic_sets(request))
        .await?;
    let names = answer.names.into_iter();
    let names = names.map(|name| ResolvedName::at(name, session.now));
    let names = Names {
        names: names.collect(),
    };
    let bad = names.names.iter().filter(|name| name.state.is_bad());
    let bad = bad.count();
    let pending = names
        .names
        .iter()
        .filter(|name| name.state == State::Pending);
    let pending = pending.count();
    if !session.print(&names)? {
        let all = count(names.names.len(), "name");
        session.console.note(&summary(&all, bad, pending));
        for name in &names.names {
            for line in name.remarks(session.now) {
                session.console.note(&line);
            }
        }
        let text = names.table(session.now).render(session.console.out());
        session.console.data(&text);
    }
    Ok(if args.exit_code && bad + pending > 0 {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

impl ResolvedName {
    /// A name as it is `now`: a first answer that is awaited for too long counts as a bad one.
    fn at(name: v1::ResolvedName, now: jiff::Timestamp) -> Self {
        let known = !name.addresses.is_empty();
        let now_ms = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let silent =
            name.asked_since_ms > 0 && now_ms.saturating_sub(name.asked_since_ms) > FIRST_ANSWER_MS;
        let (failing_ms, error) = if silent {
            (name.asked_since_ms, "no answer yet".to_owned())
        } else {
            (name.failing_since_ms, name.error)
        };
        let addresses = name.addresses.into_iter().map(|address| ResolvedAddress {
            address: address.address,
            first_seen: Moment::of(address.first_ms),
            last_seen: Moment::of(address.last_ms),
            missing_since: Moment::of(address.missing_since_ms),
        });
        Self {
            name: name.name,
            state: State::new(name.unused_since_ms, failing_ms, known),
            addresses: addresses.collect(),
            answered: Moment::of(name.resolved_ms),
            failing_since: Moment::of(failing_ms),
            error: or_null(error),
            refused: name.refused,
            beyond: name.beyond,
            used_by: name.used_by,
            unused_since: Moment::of(name.unused_since_ms),
        }
    }
}

impl ResolvedAddress {
    fn is_leaving(&self) -> bool {
        self.missing_since.is_known()
    }
}

impl ResolvedName {
    /// Lines that do not fit into the table.
    fn remarks(&self, now: jiff::Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        let name = &self.name;
        let failing = format!(
            "failing for {} (since {})",
            self.failing_since.age(now),
            self.failing_since
        );
        match (self.state, &self.error) {
            (State::Stale, Some(error)) => lines.push(format!(
                "{name}: {error}; {failing}, the last good answer stays in use"
            )),
            (State::Unknown, Some(error)) => lines.push(format!(
                "{name}: {error}; {failing}, never resolved, so it admits no address: check the \
                 spelling in the document, and the controller's resolver"
            )),
            (_, Some(error)) => lines.push(format!("{name}: {error}")),
            (_, None) => {}
        }
        if !self.refused.is_empty() {
            let refused = self.refused.join(", ");
            lines.push(format!(
                "{name}: ignored {refused}: not an address that a peer can have"
            ));
        }
        if self.beyond > 0 {
            let beyond = count(self.beyond, "address");
            lines.push(format!(
                "{name}: ignored {beyond} over the limit of one name"
            ));
        }
        let leaving = self.addresses.iter().filter(|address| address.is_leaving());
        lines.extend(leaving.map(|address| {
            format!(
                "{name}: {} missing from answers for {} (since {}); it stays an hour, for carriers \
                 that rotate their answers",
                address.address,
                address.missing_since.age(now),
                address.missing_since
            )
        }));
        lines
    }
}

/// `5 names, 2 failing, 1 without an answer yet`.
pub(super) fn summary(all: &str, bad: usize, pending: usize) -> String {
    let failing = match bad {
        0 => "none failing".to_owned(),
        bad => format!("{} failing", thousands(bad as u64)),
    };
    match pending {
        0 => format!("{all}, {failing}"),
        pending => {
            let pending = thousands(pending as u64);
            format!("{all}, {failing}, {pending} without an answer yet")
        }
    }
}

/// The rows of a table: what fails first.
pub(super) fn bad_first<T>(all: &[T], state: impl Fn(&T) -> State) -> impl Iterator<Item = &T> {
    let (bad, good): (Vec<&T>, Vec<&T>) = all.iter().partition(|one| state(one).is_bad());
    bad.into_iter().chain(good)
}

impl Names {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let mut table = Table::new(&["name", "state", "answered", "used by", "addresses"]);
        for name in bad_first(&self.names, |name| name.state) {
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
