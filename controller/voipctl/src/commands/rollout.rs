//! `voipctl rollout status|watch|pause|resume|abort`: the rollout of a push.

use std::num::NonZeroU64;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::push::RolloutWatch;
use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_null, printable};
use crate::labels::{self, RolloutState};
use crate::table::{Cell, Table};

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
struct Rollouts {
    rollouts: Vec<Rollout>,
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
        Verb::Status { site } => status(site, session).await,
        Verb::Watch { site } => watch(site, session).await,
        Verb::Pause { site } => {
            let controller = session.controller().await?;
            let request = v1::PauseRolloutRequest {
                site: site.to_string(),
            };
            let call = controller.calls();
            let report = controller.answer({ call }.pause_rollout(request)).await?;
            report_change(report, "paused", session)
        }
        Verb::Resume { site } => {
            let controller = session.controller().await?;
            let request = v1::ResumeRolloutRequest {
                site: site.to_string(),
            };
            let call = controller.calls();
            let report = controller.answer({ call }.resume_rollout(request)).await?;
            report_change(report, "resumed", session)
        }
        Verb::Abort { site, rollback } => abort(site, rollback, session).await,
    }
}

async fn abort(
    site: SiteName,
    roll_back: bool,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let question = if roll_back {
        format!("abort the rollout of {site} and roll back the nodes that it changed?")
    } else {
        format!("abort the rollout of {site}? (nodes that it changed keep the new rules)")
    };
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(ExitStatus::NotEverywhere);
    }
    let controller = session.controller().await?;
    let request = v1::AbortRolloutRequest {
        site: site.to_string(),
        roll_back,
    };
    let call = controller.calls();
    let report = controller.answer({ call }.abort_rollout(request)).await?;
    let word = if roll_back {
        "is being rolled back"
    } else {
        "aborted"
    };
    report_change(report, word, session)
}

async fn watch(site: SiteName, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::WatchRolloutRequest {
        site: site.to_string(),
    };
    let events = controller
        .within(ANSWER_TIMEOUT, controller.calls().watch_rollout(request))
        .await?;
    let watch = RolloutWatch {
        site,
        dry_run: false,
        detach: false,
        wait: None,
    };
    watch
        .follow(&controller, events.into_inner(), session)
        .await
}

async fn status(site: Option<SiteName>, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::RolloutStatusRequest {
        site: site.map(String::from).unwrap_or_default(),
    };
    let answer = controller
        .answer(controller.calls().rollout_status(request))
        .await?;
    let rollouts = Rollouts {
        rollouts: answer.rollouts.into_iter().map(rollout).collect(),
    };
    if session.print(&rollouts)? {
        return Ok(ExitStatus::Done);
    }
    if rollouts.rollouts.is_empty() {
        session.console.note("no rollout yet");
    }
    for (at, rollout) in rollouts.rollouts.iter().enumerate() {
        if at > 0 {
            session.console.data("\n");
        }
        let text = rollout.shown(session);
        session.console.data(&text);
    }
    Ok(ExitStatus::Done)
}

fn report_change(
    report: v1::RolloutReport,
    word: &str,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let rollout = rollout(report);
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

fn rollout(report: v1::RolloutReport) -> Rollout {
    let node = |node: v1::RolloutNode| Node {
        name: node.node,
        state: node.state,
        since: Moment::of(node.at_ms),
        target: node.target,
        error: or_null(node.error),
    };
    let batches = report.batches.into_iter();
    Rollout {
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

fn waiting(queued: v1::QueuedPush) -> Waiting {
    Waiting {
        ticket: queued.ticket,
        by: queued.by,
        at: Moment::of(queued.at_ms),
        planned: queued.planned,
    }
}

impl Rollout {
    fn shown(&self, session: &Session<'_>) -> String {
        let out = session.console.out();
        let state = out.toned(RolloutState::of(&self.state).tone(), &self.state);
        let batches = self.batches.len();
        let mut text = format!(
            "{}: generation {} {state}, batch {} of {batches}, {}\n  by {}, started {} ({})\n",
            self.site,
            self.generation,
            self.released,
            count(self.failures, "failure"),
            printable(&self.by),
            self.started.relative(session.now),
            self.started,
        );
        if let Some(why) = &self.why {
            text.push_str("  ");
            text.push_str(&printable(why).replace('\n', "\n  "));
            text.push('\n');
        }
        if let Some(back) = self.back_to {
            let back = format!("  rolling back: the earlier rules, as generation {back}\n");
            text.push_str(&back);
        }
        let mut table = Table::new(&["node", "batch", "state", "since", "target", "error"]);
        for (at, batch) in self.batches.iter().enumerate() {
            for node in batch {
                table.row([
                    node.name.as_str().into(),
                    Cell::from((at + 1).to_string()),
                    Cell::toned(node.state.as_str(), labels::rollout_node(&node.state)),
                    node.since.relative(session.now).into(),
                    Cell::id(NonZeroU64::new(node.target).map(NonZeroU64::get)),
                    node.error.as_deref().unwrap_or_default().into(),
                ]);
            }
        }
        text.push_str(&table.render(out));
        for waiting in &self.waiting {
            let planned = if waiting.planned {
                " (only as planned)"
            } else {
                ""
            };
            let line = format!(
                "  queued: push {} by {}{planned}, {} ({})\n",
                waiting.ticket,
                printable(&waiting.by),
                waiting.at.relative(session.now),
                waiting.at,
            );
            text.push_str(&line);
        }
        text
    }
}
