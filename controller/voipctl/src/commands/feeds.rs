//! `voipctl feeds`: the lists that the controller fetches, and `voipctl feeds fetch LIST`.

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::ListName;

use super::names::{State, bad_first, summary};
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_dash, or_null, span, thousands};
use crate::table::{Cell, Table};

/// `voipctl feeds`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Exit with status 1 if a list cannot be fetched, or never was
    #[arg(long)]
    exit_code: bool,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Fetch a list now
    Fetch {
        /// The list
        list: ListName,

        /// Accept it even if it lost most of its entries
        #[arg(long)]
        accept_shrunk: bool,
    },
}

/// The names are a contract.
#[derive(Serialize)]
struct Feeds {
    feeds: Vec<Feed>,
}

#[derive(Serialize)]
struct Feed {
    list: String,
    state: State,
    source: Option<String>,
    entries: u64,
    fetched: Moment,
    checked: Moment,
    refresh_ms: u64,
    failing_since: Moment,
    error: Option<String>,
    shrunk_to: Option<u64>,
    dropped: Dropped,
    /// Where the entries came from, if the documents name another source.
    fetched_from: Option<String>,
    left_out: Vec<LeftOut>,
    unused_since: Moment,
}

/// Entries that a site leaves out of the list, since they are its own tenants or providers.
#[derive(Serialize)]
struct LeftOut {
    site: String,
    whose: String,
    entries: u64,
    examples: Vec<String>,
}

#[derive(Serialize)]
struct Dropped {
    not_addresses: u64,
    samples: Vec<String>,
    private: u64,
    bogon: u64,
    too_wide: u64,
    twice: u64,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let (reports, fetched) = match args.verb {
        None => {
            let request = v1::ListDynamicSetsRequest {};
            let answer = controller
                .answer(controller.calls().list_dynamic_sets(request))
                .await?;
            (answer.feeds, false)
        }
        Some(Verb::Fetch {
            list,
            accept_shrunk,
        }) => {
            let request = v1::FetchFeedRequest {
                list: list.to_string(),
                accept_shrunk,
            };
            let answer = controller
                .answer(controller.calls().fetch_feed(request))
                .await?;
            (answer.feed.into_iter().collect(), true)
        }
    };
    let feeds = Feeds {
        feeds: reports.into_iter().map(Feed::from).collect(),
    };
    let bad = feeds.feeds.iter().filter(|feed| feed.state.is_bad());
    let bad = bad.count();
    let pending = feeds
        .feeds
        .iter()
        .filter(|feed| feed.state == State::Pending);
    let pending = pending.count();
    if !session.print(&feeds)? {
        if !fetched {
            let all = count(feeds.feeds.len(), "list");
            session.console.note(&summary(&all, bad, pending));
        }
        for feed in &feeds.feeds {
            for line in feed.remarks(session.now) {
                session.console.note(&line);
            }
            if feed.shrunk_to.is_some() {
                let list = &feed.list;
                session.console.hint(&format!(
                    "to accept the short {list}: voipctl feeds fetch {list} --accept-shrunk"
                ));
            }
        }
        let text = feeds.table(session.now).render(session.console.out());
        session.console.data(&text);
    }
    let unanswered = args.exit_code && pending > 0;
    Ok(if unanswered || ((args.exit_code || fetched) && bad > 0) {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

impl From<v1::FeedReport> for Feed {
    fn from(feed: v1::FeedReport) -> Self {
        let known = feed.fetched_ms != 0;
        Self {
            list: feed.list,
            state: State::new(feed.unused_since_ms, feed.failing_since_ms, known),
            source: or_null(feed.source),
            entries: feed.entries,
            fetched: Moment::of(feed.fetched_ms),
            checked: Moment::of(feed.checked_ms),
            refresh_ms: feed.refresh_ms,
            failing_since: Moment::of(feed.failing_since_ms),
            error: or_null(feed.error),
            shrunk_to: feed.shrunk_to,
            dropped: Dropped {
                not_addresses: feed.not_addresses,
                samples: feed.samples,
                private: feed.private,
                bogon: feed.bogon,
                too_wide: feed.too_wide,
                twice: feed.twice,
            },
            fetched_from: or_null(feed.fetched_from),
            left_out: feed.left_out.into_iter().map(LeftOut::from).collect(),
            unused_since: Moment::of(feed.unused_since_ms),
        }
    }
}

impl From<v1::FeedLeftOut> for LeftOut {
    fn from(left_out: v1::FeedLeftOut) -> Self {
        Self {
            site: left_out.site,
            whose: left_out.whose,
            entries: left_out.entries,
            examples: left_out.examples,
        }
    }
}

impl Feed {
    /// Lines that do not fit into the table.
    fn remarks(&self, now: jiff::Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        let list = &self.list;
        if let Some(error) = &self.error {
            let since = self.failing_since;
            let kept = match self.state {
                State::Unknown => "it has no entries yet",
                _ => "the last good entries stay in use",
            };
            lines.push(format!(
                "{list}: {error}; failing for {} (since {since}), {kept}",
                since.age(now)
            ));
        }
        let Dropped {
            not_addresses,
            samples,
            ..
        } = &self.dropped;
        if *not_addresses > 0 {
            let examples: Vec<String> = samples.iter().map(|line| format!("{line:?}")).collect();
            let lines_of = count(*not_addresses, "line");
            let examples = examples.join(", ");
            lines.push(format!("{list}: {lines_of} without an address: {examples}"));
        }
        if let Some(from) = &self.fetched_from {
            lines.push(format!(
                "{list}: its entries still come from {from}; the new source counts once it is pushed"
            ));
        }
        for left_out in &self.left_out {
            let LeftOut {
                site,
                whose,
                entries,
                examples,
            } = left_out;
            let (entries, examples) = (count(*entries, "entry"), examples.join(", "));
            lines.push(format!(
                "{list}: {site} leaves out {entries} with addresses of its {whose}: {examples}"
            ));
        }
        lines
    }
}

impl Dropped {
    /// `2 private, 1 reserved`; empty for none.
    fn describe(&self) -> String {
        let classes = [
            (self.private, "private"),
            (self.bogon, "reserved"),
            (self.too_wide, "too wide"),
            (self.not_addresses, "invalid"),
            (self.twice, "duplicate"),
        ];
        let dropped = classes.iter().filter(|(number, _)| *number > 0);
        let dropped = dropped.map(|(number, class)| format!("{} {class}", thousands(*number)));
        dropped.collect::<Vec<_>>().join(", ")
    }
}

impl Feeds {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let header = [
            "list", "state", "entries", "fetched", "every", "dropped", "source",
        ];
        let mut table = Table::new(&header);
        for feed in bad_first(&self.feeds, |feed| feed.state) {
            let every = i64::try_from(feed.refresh_ms).unwrap_or(i64::MAX);
            let every = match every {
                0 => "-".to_owned(),
                every => span(jiff::SignedDuration::from_millis(every)),
            };
            table.row([
                feed.list.as_str().into(),
                feed.state.cell(),
                Cell::quantity(feed.entries),
                feed.fetched.relative(now).into(),
                every.into(),
                or_dash(&feed.dropped.describe()).into(),
                feed.source.as_deref().unwrap_or("-").into(),
            ]);
        }
        table
    }
}
