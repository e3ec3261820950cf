//! `voipctl rollout watch SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::commands::push::RolloutWatch;
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(site: SiteName, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
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
        warned: Vec::new(),
    };
    watch
        .follow(&controller, events.into_inner(), session)
        .await
}
