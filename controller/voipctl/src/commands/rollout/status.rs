//! `voipctl rollout status [SITE]`.

use std::num::NonZeroU64;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::Rollout;
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, printable};
use crate::labels::{self, RolloutState};
use crate::table::{Cell, Table};

#[derive(Serialize)]
struct Rollouts {
    rollouts: Vec<Rollout>,
}

/// Runs it.
pub(super) async fn run(
    site: Option<SiteName>,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::RolloutStatusRequest {
        site: site.map(String::from).unwrap_or_default(),
    };
    let answer = controller
        .answer(controller.calls().rollout_status(request))
        .await?;
    let rollouts = Rollouts {
        rollouts: answer.rollouts.into_iter().map(Rollout::of).collect(),
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
