//! `voipctl drift [SITE]`: changes on nodes that were not made by the controller.

mod act;
mod author;
mod json;
mod repetition;

use std::time::Duration;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use self::act::{Lines, details};
use self::json::Records;
use self::repetition::repetitions;
use super::status::fetch;
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, duration, millis, printable, thousands};
use crate::labels;

/// `voipctl drift`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site [default: every site]
    site: Option<SiteName>,

    /// Only of this node; may be given several times
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<NodeName>,

    /// Only with a difference of this class; may be given several times
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<Class>,

    /// Only what was reported so long ago or later: 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,

    /// Show each difference, as wanted and as found
    #[arg(short, long)]
    verbose: bool,

    /// The number of acts, newest first
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Exit with status 1 if there are records
    #[arg(long)]
    exit_code: bool,
}

/// A class of drift.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Class {
    Missing,
    Altered,
    Extra,
    Order,
    Policy,
    Set,
    Bypass,
    Unreadable,
}

impl From<Class> for v1::DriftClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Missing => Self::Missing,
            Class::Altered => Self::Altered,
            Class::Extra => Self::Extra,
            Class::Order => Self::Order,
            Class::Policy => Self::Policy,
            Class::Set => Self::Set,
            Class::Bypass => Self::Bypass,
            Class::Unreadable => Self::Unreadable,
        }
    }
}

impl Args {
    fn request(&self) -> v1::DriftRequest {
        let site = self.site.as_ref().map(ToString::to_string);
        let classes = self.classes.iter().copied();
        v1::DriftRequest {
            site: site.unwrap_or_default(),
            limit: self.limit,
            nodes: self.nodes.iter().map(ToString::to_string).collect(),
            classes: classes
                .map(|class| v1::DriftClass::from(class).into())
                .collect(),
            within_ms: self.since.map_or(0, millis),
        }
    }

    /// The same, for more records.
    fn for_more(&self) -> String {
        let site = self.site.iter().map(ToString::to_string);
        let nodes = self.nodes.iter().map(|node| format!("--node {node}"));
        let classes = self.classes.iter().map(|class| {
            let class = v1::DriftClass::from(*class);
            format!("--class {}", labels::class(class.into()))
        });
        let since = self
            .since
            .map(|since| format!("--since {}s", since.as_secs()));
        let limit = format!("--limit {}", self.limit.saturating_mul(10));
        let words = ["voipctl drift".to_owned()].into_iter();
        let words = words.chain(site).chain(nodes).chain(classes);
        let words: Vec<String> = words.chain(since).chain([limit]).collect();
        words.join(" ")
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = args.request();
    let answer = controller.answer(controller.calls().drift(request)).await?;
    let found = !answer.records.is_empty() || !answer.sums.is_empty();
    if let Some(site) = args.site.as_ref().filter(|_| !found) {
        fetch(Some(site), session).await?;
    }
    if session.format.is_table() {
        show_sums(&answer.sums, session);
        if !answer.records.is_empty() || !found {
            show(&answer.records, &args, session);
        }
    } else {
        session.print(&Records::of(&answer))?;
    }
    for repeated in repetitions(&answer.records) {
        session.console.hint(&repeated);
    }
    if answer.more {
        session
            .console
            .hint(&format!("for older records: {}", args.for_more()));
    }
    Ok(if args.exit_code && found {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

/// What a tenant's operator sees: `site-a/sip1: 27 acts, the last 3m ago, all repaired`.
fn show_sums(sums: &[v1::DriftSum], session: &mut Session<'_>) {
    for sum in sums {
        let repaired = match sum.unrepaired {
            0 => "all repaired".to_owned(),
            open => format!("{} not repaired", thousands(open.into())),
        };
        session.console.data(&format!(
            "{}/{}: {}, the last {}, {repaired}\n",
            printable(&sum.site),
            printable(&sum.node),
            count(sum.records, "act"),
            Moment::of(sum.newest_ms).relative(session.now),
        ));
    }
    if !sums.is_empty() {
        session
            .console
            .note("what was changed is not shown: it may concern others than your tenants");
    }
}

fn show(records: &[v1::NodeDrift], args: &Args, session: &mut Session<'_>) {
    if records.is_empty() {
        let filtered = !args.nodes.is_empty() || !args.classes.is_empty() || args.since.is_some();
        let none = if filtered {
            "no such drift recorded"
        } else {
            "no drift recorded"
        };
        return session.console.note(none);
    }
    let is_open = |found: &&v1::NodeDrift| {
        let record = found.record.as_ref();
        record.is_some_and(|record| record.all_repaired_after_ms().is_none())
    };
    let (open, repaired): (Vec<_>, Vec<_>) = records.iter().partition(is_open);
    session.console.note(&format!(
        "{}, {} not repaired",
        count(records.len(), "act"),
        thousands(open.len() as u64)
    ));
    let lines = Lines {
        now: session.now,
        with_site: args.site.is_none(),
        width: session.console.out().width(),
    };
    let mut text = String::new();
    for found in open.into_iter().chain(repaired) {
        if args.verbose && !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&lines.of(found));
        text.push('\n');
        if args.verbose {
            text.push_str(&details(found));
        }
    }
    session.console.data(&text);
}
