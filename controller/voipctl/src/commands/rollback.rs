//! `voipctl rollback SITE`: what an earlier generation held, as a new one.

use std::time::Duration;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::plan;
use super::push::Watched;
use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::failure::{ExitStatus, Failure};
use crate::format::{duration, millis};
use crate::grpc_errors;

/// `voipctl rollback`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// The generation to bring back [default: the last good one before the newest]
    #[arg(long, value_name = "GEN", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,

    /// How long a node has to prove that it is still reachable, in place of the site's own
    #[arg(long, value_name = "D", value_parser = duration)]
    confirm_within: Option<Duration>,

    /// Only say what would change
    #[arg(long)]
    dry_run: bool,

    /// Start it, and leave the rest to the controller
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks {
        plan::can_ask(&format!("voipctl diff {0}@GEN {0}@GEN", args.site), session)?;
    }
    let controller = session.controller().await?;
    let site = &args.site;
    let mut request = v1::RollbackRequest {
        site: site.to_string(),
        to: args.to.unwrap_or_default(),
        wait_offline_ms: 0,
        confirm_within_ms: args.confirm_within.map(millis).unwrap_or_default(),
        dry_run: args.dry_run,
        basis: None,
    };
    if asks {
        let plan = plan::fetch_back(site, request.to, &controller).await?;
        plan::show(&plan, session);
        if !plan.held.is_empty() {
            return Err(grpc_errors::with_hint(&plan.held));
        }
        let to = plan.to;
        if !session.confirm(&format!("roll {site} back to what generation {to} held?"))? {
            session.console.note("nothing was pushed");
            return Ok(ExitStatus::NotEverywhere);
        }
        // What was shown, and no other that became the last good one meanwhile.
        request.to = to;
        request.basis = plan.basis;
    }
    let events = controller
        .within(ANSWER_TIMEOUT, controller.calls().rollback(request))
        .await?;
    let watched = Watched {
        site: args.site,
        dry_run: args.dry_run,
        detach: args.detach,
        wait: None,
    };
    watched
        .follow(&controller, events.into_inner(), session)
        .await
}
