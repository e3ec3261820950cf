//! `voipctl panic-close SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::enforcement::{Enforcement, show};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl panic-close`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let request = v1::PanicCloseRequest {
        site: args.site.to_string(),
    };
    let controller = session.controller().await?;
    let answer = controller
        .answer(controller.calls().panic_close(request))
        .await?;
    let outcome = Enforcement::of(answer);
    let text = match &outcome.open {
        Some(open) => format!(
            "{} is closed (was opened {} by {}: {})\n",
            args.site,
            open.at.relative(session.now),
            open.by,
            open.reason
        ),
        None => format!("{} was not open\n", args.site),
    };
    show(&outcome, &text, session)
}
