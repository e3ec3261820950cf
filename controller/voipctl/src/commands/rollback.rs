//! `voipctl rollback SITE`: pushes the content of an earlier generation as a new one.

use std::time::Duration;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::plan;
use super::push::{self, RolloutWatch};
use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::failure::{ExitStatus, Failure};
use crate::format::{duration, millis};

/// `voipctl rollback`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// The generation to roll back to [default: the last good one before the current]
    #[arg(long, value_name = "GEN", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,

    /// How long each node has to confirm that it is still reachable [default: set by the site]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    confirm_within: Option<Duration>,

    /// Only report what would change
    #[arg(long)]
    dry_run: bool,

    /// Return as soon as the rollout has started
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks {
        plan::require_prompt(
            &format!("voipctl rollback {} --dry-run", args.site),
            session,
        )?;
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
    let mut warned = Vec::new();
    if session.yes && !args.dry_run {
        let plan = plan::fetch_back(site, request.to, &controller).await;
        warned = push::announce(plan, session)?;
    }
    if asks {
        let plan = plan::fetch_back(site, request.to, &controller).await?;
        plan::show(&plan, session);
        if !plan.held.is_empty() {
            return Err(plan::held(&plan));
        }
        warned.clone_from(&plan.warnings);
        let to = plan.to;
        if !session.confirm(&format!("roll {site} back to generation {to}?"))? {
            session.console.note("nothing was pushed");
            return Ok(ExitStatus::NotEverywhere);
        }
        // The generation that was shown, even if another is the last good one by now.
        request.to = to;
        request.basis = plan.basis;
    }
    let events = controller
        .within(ANSWER_TIMEOUT, controller.calls().rollback(request))
        .await?;
    let watch = RolloutWatch {
        site: args.site,
        dry_run: args.dry_run,
        detach: args.detach,
        wait: None,
        warned,
    };
    watch
        .follow(&controller, events.into_inner(), session)
        .await
}
