//! Follows one rollout to its end.

use std::cell::Cell;
use std::time::Duration;

use tonic::Streaming;
use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_ruleset::identifiers::SiteName;

use super::progress_view::ProgressView;
use super::{exit_status, json};
use crate::Session;
use crate::client::Controller;
use crate::diagnostics::{of_wire, show};
use crate::failure::{ExitStatus, Failure};
use crate::format::count;

/// How long a rollout may send no event: a trial and a pause between batches take up to an hour
/// each, and a rollout may be paused over a weekend, or queued behind one that is. A controller
/// that is gone is noticed within half a minute, by the keepalives of the connection.
pub(super) const SILENCE: Duration = Duration::from_hours(7 * 24);

const _: () = {
    use voipfleet_proto::channel::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
    let weekend = Duration::from_hours(3 * 24).as_secs();
    let trial_and_pause = Duration::from_hours(2).as_secs();
    assert!(SILENCE.as_secs() > weekend + trial_and_pause);
    assert!(KEEPALIVE_INTERVAL.as_secs() + KEEPALIVE_TIMEOUT.as_secs() <= 30);
};

/// A rollout to follow.
pub(in crate::commands) struct RolloutWatch {
    pub(in crate::commands) site: SiteName,
    pub(in crate::commands) dry_run: bool,
    /// Stop after its start.
    pub(in crate::commands) detach: bool,
    /// How long the push waits for offline nodes.
    pub(in crate::commands) wait: Option<Duration>,
    /// Warnings that the plan has shown already.
    pub(in crate::commands) warned: Vec<String>,
}

impl RolloutWatch {
    /// Shows the events until the last one, or until Ctrl-C.
    pub(in crate::commands) async fn follow(
        &self,
        controller: &Controller,
        stream: Streaming<v1::PushEvent>,
        session: &mut Session<'_>,
    ) -> Result<ExitStatus, Failure> {
        let interrupted = tokio::signal::ctrl_c();
        let queued = Cell::new(false);
        tokio::select! {
            status = self.to_the_end(controller, stream, &queued, session) => status,
            _ = interrupted => Err(interruption(&self.site, queued.get())),
        }
    }

    async fn to_the_end(
        &self,
        controller: &Controller,
        mut stream: Streaming<v1::PushEvent>,
        is_queued: &Cell<bool>,
        session: &mut Session<'_>,
    ) -> Result<ExitStatus, Failure> {
        let mut view = ProgressView::new(self.dry_run, self.wait.is_some());
        let check = format!("check its state: voipctl rollout status {}", self.site);
        loop {
            let event = controller.within(SILENCE, stream.message()).await;
            let Some(event) = event.map_err(|failure| failure.hint(check.as_str()))? else {
                return Err(closed_early().hint(check));
            };
            let Some(kind) = event.kind else { continue };
            session.print_event(&json::Event::of(&kind))?;
            is_queued.set(matches!(kind, Kind::Queued(_)));
            match kind {
                Kind::Queued(queued) => {
                    self.queued(&queued, session);
                    if self.detach {
                        return Ok(ExitStatus::Done);
                    }
                }
                Kind::Diagnostic(diagnostic) => {
                    if session.format.is_table() && !self.warned.contains(&diagnostic.message) {
                        view.aside(|| show(session.console, &[of_wire(diagnostic)], &[]));
                    }
                }
                Kind::Started(started) if self.detach => {
                    report_start(&started, session);
                    return Ok(ExitStatus::Done);
                }
                Kind::Started(started) => view.started(started, session),
                Kind::Node(node) => view.node(&node, session),
                Kind::Done(done) => {
                    for line in view.done(&done, session).lines() {
                        session.console.hint(&line);
                    }
                    return Ok(if self.dry_run {
                        ExitStatus::Done
                    } else {
                        exit_status::of_site(&done)
                    });
                }
            }
        }
    }

    fn queued(&self, queued: &v1::PushQueued, session: &mut Session<'_>) {
        if !session.format.is_table() {
            return;
        }
        session.console.note(&queue_position(queued));
        if self.detach {
            let (site, ticket) = (&self.site, queued.ticket);
            session
                .console
                .data(&format!("{site}: queued as push {ticket}\n"));
            session
                .console
                .hint(&format!("see the queue: voipctl rollout status {site}"));
        }
    }
}

fn report_start(started: &v1::PushStarted, session: &mut Session<'_>) {
    if !session.format.is_table() {
        return;
    }
    let (site, generation) = (&started.site, started.generation);
    session.console.data(&format!(
        "{site}: rollout of generation {generation} started\n"
    ));
    session
        .console
        .hint(&format!("watch it: voipctl rollout watch {site}"));
}

/// The controller ended the stream without a last event.
pub(super) fn closed_early() -> Failure {
    Failure::controller("the controller closed the stream before the push ended")
}

/// What a queued push waits for.
pub(super) fn queue_position(queued: &v1::PushQueued) -> String {
    let ahead = match queued.ahead {
        0 => String::new(),
        ahead => format!(" ({} ahead)", count(ahead, "push")),
    };
    format!(
        "{}: queued behind the rollout of generation {} by {}{ahead}",
        queued.site, queued.generation, queued.by
    )
}

fn interruption(site: &SiteName, queued: bool) -> Failure {
    let message = if queued {
        format!("interrupted; the push of {site} stays queued")
    } else {
        format!("interrupted; the rollout of {site} goes on")
    };
    let hint = if queued {
        format!("see the queue: voipctl rollout status {site}")
    } else {
        format!("watch it: voipctl rollout watch {site}; end it: voipctl rollout abort {site}")
    };
    Failure::controller(message)
        .status(ExitStatus::NotEverywhere)
        .hint(hint)
}
