//! `voipctl rollout status|watch|pause|resume|abort`: the rollout of a push.

mod abort;
mod pause;
mod resume;
mod status;
mod watch;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, or_null};

/// `voipctl rollout`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the running or last rollout
    Status {
        /// The site [default: every site]
        site: Option<SiteName>,
    },
    /// Follow a rollout to its end; Ctrl-C does not stop it
    Watch {
        /// The site
        site: SiteName,
    },
    /// Pause a rollout: started nodes finish, no further node starts
    Pause {
        /// The site
        site: SiteName,
    },
    /// Resume a paused rollout
    Resume {
        /// The site
        site: SiteName,
    },
    /// End a rollout: nodes with the new generation keep it, the others do not get it, and queued
    /// pushes are dropped
    Abort {
        /// The site
        site: SiteName,
        /// Also roll back the nodes that were changed
        #[arg(long)]
        rollback: bool,
    },
}

#[derive(Serialize)]
struct Rollout {
    site: String,
    number: u64,
    generation: u64,
    back_to: Option<u64>,
    state: String,
    why: Option<String>,
    by: String,
    started: Moment,
    ended: Moment,
    released: u32,
    failures: u32,
    max_failures: u32,
    batches: Vec<Vec<Node>>,
    waiting: Vec<Waiting>,
}

/// A push that is queued behind it.
#[derive(Serialize)]
struct Waiting {
    ticket: u64,
    by: String,
    at: Moment,
    planned: bool,
}

#[derive(Serialize)]
struct Node {
    #[serde(rename = "node")]
    name: String,
    state: String,
    since: Moment,
    target: u64,
    error: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb {
        Verb::Status { site } => status::run(site, session).await,
        Verb::Watch { site } => watch::run(site, session).await,
        Verb::Pause { site } => pause::run(&site, session).await,
        Verb::Resume { site } => resume::run(&site, session).await,
        Verb::Abort { site, rollback } => abort::run(&site, rollback, session).await,
    }
}

fn report_change(
    report: v1::RolloutReport,
    word: &str,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let rollout = Rollout::of(report);
    if !session.print(&rollout)? {
        let (site, generation) = (&rollout.site, rollout.generation);
        let text = format!("{site}: the rollout of generation {generation} {word}\n");
        session.console.data(&text);
        session
            .console
            .hint(&format!("check each node: voipctl rollout status {site}"));
    }
    Ok(ExitStatus::Done)
}

impl Rollout {
    fn of(report: v1::RolloutReport) -> Self {
        let node = |node: v1::RolloutNode| Node {
            name: node.node,
            state: node.state,
            since: Moment::of(node.at_ms),
            target: node.target,
            error: or_null(node.error),
        };
        let batches = report.batches.into_iter();
        Self {
            site: report.site,
            number: report.number,
            generation: report.generation,
            back_to: (report.back != 0).then_some(report.back),
            state: report.state,
            why: or_null(report.why),
            by: report.by,
            started: Moment::of(report.started_ms),
            ended: Moment::of(report.ended_ms),
            released: report.released,
            failures: report.failures,
            max_failures: report.max_failures,
            batches: batches
                .map(|batch| batch.nodes.into_iter().map(node).collect())
                .collect(),
            waiting: report.waiting.into_iter().map(waiting).collect(),
        }
    }
}

fn waiting(queued: v1::QueuedPush) -> Waiting {
    Waiting {
        ticket: queued.ticket,
        by: queued.by,
        at: Moment::of(queued.at_ms),
        planned: queued.planned,
    }
}
