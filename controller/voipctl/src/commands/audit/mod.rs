//! `voipctl audit`: who changed what, and whether the log is as it was written.

mod chain;
mod prune;
mod verify;

use std::fmt::Write as _;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::audit::{Ending, Hash, Kind, Record, Who};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, or_null};
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
    /// Check that no record was altered, removed, added or moved since we last looked
    Verify(verify::Args),
    /// Write old records to a file, and remove them from the controller
    Prune(prune::Args),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only of this site
    #[arg(long)]
    site: Option<SiteName>,

    /// Only by this operator
    #[arg(long, value_name = "OPERATOR")]
    who: Option<OperatorName>,

    /// Only this call or event, as the table names it
    #[arg(long, value_name = "NAME")]
    what: Option<String>,

    /// Only from then on: 2h (ago), or 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<TimeArg>,

    /// Only before then
    #[arg(long, value_name = "TIME")]
    until: Option<TimeArg>,

    /// The newest so many
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// A moment as people write it.
#[derive(Debug, Clone, Copy)]
enum TimeArg {
    Ago(SignedDuration),
    At(Timestamp),
}

impl std::str::FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        match text.parse::<SignedDuration>() {
            Ok(ago) if ago.is_positive() => Ok(Self::Ago(ago)),
            _ => Err(
                "write how long ago, for example 2h, or a time: 2026-11-23T12:00:00Z".to_owned(),
            ),
        }
    }
}

impl TimeArg {
    /// Unix time, milliseconds.
    fn ms(self, now: Timestamp) -> u64 {
        let at = match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
        };
        u64::try_from(at.as_millisecond()).unwrap_or_default()
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
    /// `done`, `refused`, `failed`, `unknown`; null while it goes on.
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
            request: or_null(record.request),
            sites: record.sites,
            objects: record.objects,
            detail: or_null(record.detail),
            generation_before: record.before,
            generation_after: record.after,
            result: record.result,
            message: or_null(record.message),
            count: record.count,
            prev: record.prev,
        }
    }
}

impl Shown {
    /// `site-a 4→5`, `Tenant/acme, Tenant/globex and 3 more`
    fn target(&self) -> String {
        const NAMED: usize = 3;
        let names: Vec<&str> = self
            .sites
            .iter()
            .chain(&self.objects)
            .map(String::as_str)
            .collect();
        let (first, more) = names.split_at(names.len().min(NAMED));
        let mut text = first.join(", ");
        if !more.is_empty() {
            let _ = write!(text, " and {} more", more.len());
        }
        if let Some(after) = self.generation_after {
            let _ = match self.generation_before {
                Some(before) if before != after => write!(text, " @{before}→{after}"),
                _ => write!(text, " @{after}"),
            };
        }
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    }

    fn result(&self) -> Cell {
        let count = self
            .count
            .map_or_else(String::new, |count| format!(" ×{count}"));
        let why = match (&self.message, &self.detail) {
            (Some(words), _) | (None, Some(words)) => format!(": {words}"),
            (None, None) => String::new(),
        };
        let (word, tone) = match self.result {
            Some(Ending::Done) => ("done", Tone::Good),
            Some(Ending::Refused) => ("refused", Tone::Attention),
            Some(Ending::Failed) => ("failed", Tone::Bad),
            Some(Ending::Unknown) => ("unknown", Tone::Bad),
            None => ("under way", Tone::Attention),
        };
        Cell::toned(format!("{word}{count}{why}"), tone)
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
    let mut request = v1::AuditRequest {
        site: args.site.map(String::from).unwrap_or_default(),
        who: args.who.map(String::from).unwrap_or_default(),
        what: args.what.unwrap_or_default(),
        since_ms: args.since.map_or(0, |since| since.ms(session.now)),
        until_ms: args.until.map_or(0, |until| until.ms(session.now)),
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
                Failure::controller("a record of the audit log cannot be read")
                    .because(error)
                    .hint("update voipctl, or check the log: voipctl audit verify")
            })?;
            records.push(record.into());
        }
        request.before = answer.next;
        if answer.next == 0 || records.len() >= limit {
            break;
        }
    }
    let more = request.before != 0;
    if session.format.is_table() {
        if records.is_empty() {
            session.console.note("no such records");
        }
        let text = table(&records, session.now).render(session.console.out());
        session.console.data(&text);
        if more {
            let ten = args.limit.saturating_mul(10).min(100_000);
            session
                .console
                .hint(&format!("there are older records: voipctl audit -n {ten}"));
        }
    } else {
        session.print(&Records { records })?;
    }
    Ok(ExitStatus::Done)
}

fn table(records: &[Shown], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "at (utc)", "ago", "who", "what", "target", "request", "result",
    ]);
    for record in records {
        let at = record.at;
        let who = match &record.who {
            Some(who) if who.peer.is_empty() => who.operator.clone(),
            Some(who) if who.operator.is_empty() => format!("somebody ({})", host(&who.peer)),
            Some(who) => format!("{} ({})", who.operator, host(&who.peer)),
            None => "-".to_owned(),
        };
        table.row([
            at.seconds().into(),
            at.relative(now).trim_end_matches(" ago").into(),
            who.into(),
            record.what.as_str().into(),
            record.target().into(),
            record.request.as_deref().unwrap_or("-").into(),
            record.result(),
        ]);
    }
    table
}

/// An address without its port, which tells nobody anything later.
fn host(peer: &str) -> String {
    peer.parse::<std::net::SocketAddr>()
        .map_or_else(|_| peer.to_owned(), |peer| peer.ip().to_string())
}

/// Where we keep what we have verified.
fn state_folder(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy as _;
    if let Some(folder) = given {
        return Ok(folder);
    }
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::input("there is no home folder to remember what was verified in")
            .because(error)
            .hint("name one with --state DIR")
    })?;
    let folder = base.state_dir().unwrap_or_else(|| base.data_dir());
    Ok(folder.join("voipctl"))
}
