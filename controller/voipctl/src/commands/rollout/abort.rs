//! `voipctl rollout abort SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::report_change;
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(
    site: &SiteName,
    roll_back: bool,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::RolloutStatusRequest {
        site: site.to_string(),
    };
    // Where there was no rollout, or no site, the controller refuses.
    let call = controller.calls();
    controller.answer({ call }.rollout_status(request)).await?;
    let question = if roll_back {
        format!("abort the rollout of {site} and roll back the nodes that it changed?")
    } else {
        format!("abort the rollout of {site}? (nodes that it changed keep the new rules)")
    };
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(ExitStatus::NotEverywhere);
    }
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
