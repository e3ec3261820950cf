//! `voipctl audit`: who changed what, and whether the log is intact.

mod chain;
mod kinds;
mod prune;
mod verify;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::audit::{Ending, Hash, Kind, Record, Who};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, duration, first_names, millis, or_dash, thousands};
use crate::table::{Cell, Table};

/// `voipctl audit`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check that no record was altered, removed, added or moved since the last check
    Verify(verify::Args),
    /// Move old records from the controller to a file
    Prune(prune::Args),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only records of this site
    #[arg(long)]
    site: Option<SiteName>,

    /// Only records of this operator
    #[arg(long, value_name = "OPERATOR")]
    who: Option<OperatorName>,

    /// Only this call or event, as in the column WHAT
    #[arg(long, value_name = "NAME")]
    what: Option<String>,

    /// Only the request with this id, which errors of the controller end with
    #[arg(long, value_name = "ID")]
    request: Option<String>,

    /// Only from this time on: 2h (ago), 7d, or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<TimeArg>,

    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<TimeArg>,

    /// The number of records, newest first
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// A time on the command line.
#[derive(Debug, Clone, Copy)]
enum TimeArg {
    Ago(Duration),
    At(Timestamp),
}

impl std::str::FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        duration(text).map(Self::Ago).map_err(|_| {
            "expected how long ago, such as 2h or 7d, or a time: 2026-11-23T12:00:00Z".to_owned()
        })
    }
}

impl std::fmt::Display for TimeArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ago(ago) => write!(f, "{}s", ago.as_secs()),
            Self::At(at) => write!(f, "{at}"),
        }
    }
}

impl TimeArg {
    /// Unix time, milliseconds, by this machine's clock.
    fn ms(self, now: Timestamp) -> u64 {
        let at = match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
        };
        u64::try_from(at.as_millisecond()).unwrap_or_default()
    }

    /// Unix time, milliseconds; 0: it is given as how long ago.
    fn at_ms(self) -> u64 {
        match self {
            Self::At(at) => u64::try_from(at.as_millisecond()).unwrap_or_default(),
            Self::Ago(_) => 0,
        }
    }

    /// Milliseconds ago; 0: it is given as a time. The controller, whose clock stamps the records,
    /// makes a time of it.
    fn ago_ms(self) -> u64 {
        match self {
            Self::At(_) => 0,
            Self::Ago(ago) => millis(ago).max(1),
        }
    }
}

/// The names are a contract.
#[derive(Serialize)]
struct Shown {
    seq: u64,
    at: Moment,
    kind: Kind,
    what: String,
    who: Option<Who>,
    request: Option<String>,
    sites: Vec<String>,
    objects: Vec<String>,
    detail: Option<String>,
    generation_before: Option<u64>,
    generation_after: Option<u64>,
    /// `done`, `refused`, `failed`, `unknown`; null while in progress.
    result: Option<Ending>,
    message: Option<String>,
    count: Option<u64>,
    prev: Hash,
}

impl From<Record> for Shown {
    fn from(record: Record) -> Self {
        Self {
            seq: record.seq,
            at: Moment::of(record.at_ms),
            kind: record.kind,
            what: record.what,
            who: record.who,
            request: record.request,
            sites: record.sites,
            objects: record.objects,
            detail: record.detail,
            generation_before: record.before,
            generation_after: record.after,
            result: record.result,
            message: record.message,
            count: record.count,
            prev: record.prev,
        }
    }
}

impl Shown {
    /// `site-a @4→5`, `Tenant/acme, Tenant/globex and 3 more`; empty for none.
    fn target(&self) -> String {
        const NAMED: usize = 3;
        let names: Vec<&String> = self.sites.iter().chain(&self.objects).collect();
        let mut text = first_names(&names, NAMED);
        if let Some(after) = self.generation_after {
            let _ = match self.generation_before {
                Some(before) if before != after => write!(text, " @{before}→{after}"),
                _ => write!(text, " @{after}"),
            };
        }
        text
    }

    fn result(&self) -> Cell {
        let count = self
            .count
            .map_or_else(String::new, |count| format!(" ×{}", thousands(count)));
        let why = match (&self.message, &self.detail) {
            (Some(text), _) | (None, Some(text)) => format!(": {text}"),
            (None, None) => String::new(),
        };
        let (word, tone) = match self.result {
            Some(Ending::Done) => ("done", Tone::Good),
            Some(Ending::Refused) => ("refused", Tone::Attention),
            Some(Ending::Failed) => ("failed", Tone::Bad),
            Some(Ending::Unknown) => ("unknown", Tone::Bad),
            None => ("in progress", Tone::Attention),
        };
        Cell::toned(format!("{word}{count}{why}"), tone)
    }
}

impl List {
    /// The options that select records, as they were given: ` --site site-a`.
    fn filters(&self) -> String {
        let mut text = String::new();
        let options = [
            ("site", self.site.as_ref().map(ToString::to_string)),
            ("who", self.who.as_ref().map(ToString::to_string)),
            ("what", self.what.clone()),
            ("request", self.request.clone()),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                let _ = write!(text, " --{name} {value}");
            }
        }
        text
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb {
        Some(Verb::Verify(args)) => verify::run(args, session).await,
        Some(Verb::Prune(args)) => prune::run(args, session).await,
        None => list(args.list, session).await,
    }
}

async fn list(args: List, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Records {
        records: Vec<Shown>,
    }
    let controller = session.controller().await?;
    let filters = args.filters();
    let what = args.what.clone();
    let mut request = v1::AuditRequest {
        site: args.site.map(String::from).unwrap_or_default(),
        who: args.who.map(String::from).unwrap_or_default(),
        what: args.what.unwrap_or_default(),
        request: args.request.unwrap_or_default(),
        since_ms: args.since.map_or(0, TimeArg::at_ms),
        until_ms: args.until.map_or(0, TimeArg::at_ms),
        since_ago_ms: args.since.map_or(0, TimeArg::ago_ms),
        until_ago_ms: args.until.map_or(0, TimeArg::ago_ms),
        limit: args.limit,
        before: 0,
    };
    let mut records: Vec<Shown> = Vec::new();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    loop {
        let left = limit.saturating_sub(records.len());
        request.limit = u32::try_from(left).unwrap_or(u32::MAX);
        let mut calls = controller.calls();
        let answer = controller.answer(calls.audit(request.clone()));
        let answer = answer.await?;
        for bytes in &answer.records {
            let record: Record = serde_json::from_slice(bytes).map_err(|error| {
                Failure::controller("cannot parse a record of the audit log")
                    .because(error)
                    .hint("update voipctl, or verify the log: voipctl audit verify")
            })?;
            records.push(record.into());
        }
        request.before = answer.next;
        if answer.next == 0 || records.len() >= limit {
            break;
        }
    }
    let more = request.before != 0;
    if let Some(what) = what.filter(|_| records.is_empty()) {
        kinds::check(&what, &controller).await?;
    }
    if session.format.is_table() {
        if records.is_empty() {
            session.console.note("no matching records");
        }
        let text = table(&records, session.now).render(session.console.out());
        session.console.data(&text);
        if more {
            let ten = args.limit.saturating_mul(10).min(100_000);
            session.console.hint(&format!(
                "for older records: voipctl audit{filters} -n {ten}"
            ));
        }
    } else {
        session.print(&Records { records })?;
    }
    Ok(ExitStatus::Done)
}

fn table(records: &[Shown], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "at (utc)", "age", "who", "what", "target", "request", "result",
    ]);
    for record in records {
        let at = record.at;
        let who = match &record.who {
            Some(who) if who.peer.is_empty() => who.operator.clone(),
            Some(who) if who.operator.is_empty() => format!("unknown ({})", host(&who.peer)),
            Some(who) => format!("{} ({})", who.operator, host(&who.peer)),
            None => "-".to_owned(),
        };
        table.row([
            at.seconds().into(),
            at.age(now).into(),
            who.into(),
            record.what.as_str().into(),
            or_dash(&record.target()).into(),
            record.request.as_deref().unwrap_or("-").into(),
            record.result(),
        ]);
    }
    table
}

/// An address without its port, which means nothing later.
fn host(peer: &str) -> String {
    peer.parse::<std::net::SocketAddr>()
        .map_or_else(|_| peer.to_owned(), |peer| peer.ip().to_string())
}

/// The folder that remembers the last verified record.
fn state_folder(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy as _;
    if let Some(folder) = given {
        return Ok(folder);
    }
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::input("cannot remember what was verified: there is no home directory")
            .because(error)
            .hint("set --state to a folder")
    })?;
    let folder = base.state_dir().unwrap_or_else(|| base.data_dir());
    Ok(folder.join("voipctl"))
}
