//! `voipctl drift [SITE]`: changes on nodes that were not made by the controller.

use std::fmt::Write as _;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::status::fetch;
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_null, printable, thousands, took};
use crate::labels;

/// `voipctl drift`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site [default: every site]
    site: Option<SiteName>,

    /// The number of records, newest first
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Exit with status 1 if there are records
    #[arg(long)]
    exit_code: bool,
}

/// The names are a contract.
#[derive(Serialize)]
struct Records {
    records: Vec<Record>,
    /// Of sites of which the caller sees its tenants only.
    sums: Vec<Sum>,
}

/// Drift of a node, counted.
#[derive(Serialize)]
struct Sum {
    site: String,
    node: String,
    records: u32,
    unrepaired: u32,
    newest: Moment,
}

#[derive(Serialize)]
struct Record {
    site: String,
    node: String,
    at: Moment,
    class: &'static str,
    family: Option<&'static str>,
    table: Option<String>,
    chain: Option<String>,
    rule: Option<String>,
    wanted: Option<String>,
    observed: Option<String>,
    by: Option<Author>,
    repaired_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct Author {
    #[serde(flatten)]
    process: Process,
    /// The first ancestor that is neither a firewall tool nor a shell.
    started_by: Option<Process>,
}

/// What could be read about a process before it ended.
#[derive(Serialize)]
struct Process {
    pid: u32,
    comm: String,
    exe: Option<String>,
    unit: Option<String>,
    user: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let site = args
        .site
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let request = v1::DriftRequest {
        site: site.clone(),
        limit: args.limit.saturating_add(1),
    };
    let answer = controller.answer(controller.calls().drift(request)).await?;
    let sums: Vec<Sum> = answer.sums.into_iter().map(Sum::from).collect();
    let mut records: Vec<Record> = answer.records.into_iter().map(record).collect();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = records.len() > limit;
    records.truncate(limit);
    let found = !records.is_empty() || !sums.is_empty();
    if let Some(site) = args.site.as_ref().filter(|_| !found) {
        fetch(Some(site), session).await?;
    }
    if session.format.is_table() {
        for sum in &sums {
            session.console.data(&sum.line(session.now));
        }
        if !sums.is_empty() {
            session
                .console
                .note("what was changed is not shown: it may concern others than your tenants");
        }
        if !records.is_empty() {
            let (unrepaired, repaired): (Vec<_>, Vec<_>) = records
                .iter()
                .partition(|record| record.repaired_after_ms.is_none());
            session.console.note(&format!(
                "{}, {} not repaired",
                count(records.len(), "record"),
                thousands(unrepaired.len() as u64)
            ));
            let shown = unrepaired.into_iter().chain(repaired);
            let blocks: Vec<String> = shown
                .map(|record| record.block(session.now, site.is_empty()))
                .collect();
            session.console.data(&blocks.join("\n"));
        } else if !found {
            session.console.note("no drift recorded");
        }
    } else {
        session.print(&Records { records, sums })?;
    }
    if more {
        session.console.hint(&format!(
            "for older records: voipctl drift{} --limit {}",
            args.site
                .as_ref()
                .map_or_else(String::new, |site| format!(" {site}")),
            args.limit.saturating_mul(10)
        ));
    }
    Ok(if args.exit_code && found {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

impl From<v1::DriftSum> for Sum {
    fn from(sum: v1::DriftSum) -> Self {
        Self {
            site: sum.site,
            node: sum.node,
            records: sum.records,
            unrepaired: sum.unrepaired,
            newest: Moment::of(sum.newest_ms),
        }
    }
}

impl Sum {
    /// `site-a/sip1: 27 changes, the last 3m ago, all repaired`.
    fn line(&self, now: jiff::Timestamp) -> String {
        let changes = count(self.records, "change");
        let repaired = match self.unrepaired {
            0 => "all repaired".to_owned(),
            open => format!("{} not repaired", thousands(open.into())),
        };
        let newest = self.newest.relative(now);
        let (site, node) = (printable(&self.site), printable(&self.node));
        format!("{site}/{node}: {changes}, the last {newest}, {repaired}\n")
    }
}

fn record(drift: v1::NodeDrift) -> Record {
    let record = drift.record.unwrap_or_default();
    Record {
        site: drift.site,
        node: drift.node,
        at: Moment::of(record.at_ms),
        class: labels::class(record.class),
        family: labels::family(record.family),
        table: or_null(record.table),
        chain: or_null(record.chain),
        rule: or_null(record.rule),
        wanted: or_null(record.wanted),
        observed: or_null(record.observed),
        by: record.by.map(Author::from),
        repaired_after_ms: record.repaired_after_ms,
    }
}

impl From<v1::Author> for Author {
    fn from(author: v1::Author) -> Self {
        Self {
            process: Process {
                pid: author.pid,
                comm: author.comm,
                exe: or_null(author.executable),
                unit: or_null(author.unit),
                user: or_null(author.user),
            },
            started_by: author.started_by.map(|starter| Process {
                pid: starter.pid,
                comm: starter.comm,
                exe: or_null(starter.executable),
                unit: or_null(starter.unit),
                user: or_null(starter.user),
            }),
        }
    }
}

impl Author {
    /// `cron (root, crond.service), using iptables (pid 4711)`.
    fn describe(&self) -> String {
        let itself = &self.process;
        match &self.started_by {
            Some(starter) => {
                let (comm, pid) = (&itself.comm, itself.pid);
                format!("{}, using {comm} (pid {pid})", starter.describe())
            }
            None => itself.describe(),
        }
    }
}

impl Process {
    /// `cron (root, crond.service)`; `iptables (pid 4711)` where no more is known.
    fn describe(&self) -> String {
        let known = [self.user.as_deref(), self.unit.as_deref()];
        let known: Vec<&str> = known.into_iter().flatten().collect();
        if known.is_empty() {
            format!("{} (pid {})", self.comm, self.pid)
        } else {
            format!("{} ({})", self.comm, known.join(", "))
        }
    }
}

impl Record {
    /// A headline, then the rule as it should be and as it was found.
    fn block(&self, now: jiff::Timestamp, with_site: bool) -> String {
        let site = if with_site {
            format!("{}/", self.site)
        } else {
            String::new()
        };
        let mut head = format!(
            "{site}{}  {}  {}",
            self.node,
            self.at.relative(now),
            self.class
        );
        let place = [self.family, self.table.as_deref(), self.chain.as_deref()];
        let place: Vec<&str> = place.into_iter().flatten().collect();
        if !place.is_empty() {
            let _ = write!(head, "  {}", place.join(" "));
        }
        let repaired = match self.repaired_after_ms {
            Some(ms) => format!("after {}", took(ms)),
            None => "not yet".to_owned(),
        };
        let by = match &self.by {
            Some(author) => author.describe(),
            None => "unknown".to_owned(),
        };
        let mut text = printable(&head) + "\n";
        for (title, value) in [
            ("rule", self.rule.as_deref().unwrap_or_default()),
            ("wanted", self.wanted.as_deref().unwrap_or("nothing")),
            ("observed", self.observed.as_deref().unwrap_or("nothing")),
            ("by", &by),
            ("repaired", &repaired),
        ] {
            for (index, line) in printable(value).lines().enumerate() {
                let title = if index == 0 { title } else { "" };
                let _ = writeln!(text, "  {title:8}  {line}");
            }
        }
        text
    }
}
