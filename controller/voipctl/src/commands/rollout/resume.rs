//! `voipctl rollout resume SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::report_change;
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(site: &SiteName, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::ResumeRolloutRequest {
        site: site.to_string(),
    };
    let call = controller.calls();
    let report = controller.answer({ call }.resume_rollout(request)).await?;
    report_change(report, "resumed", session)
}
