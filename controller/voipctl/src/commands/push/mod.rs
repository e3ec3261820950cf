//! `voipctl push SITE...`: pushes the policy of sites to their nodes.

mod advice;
mod exit_status;
mod json;
mod multi_site;
mod overview;
mod progress_view;
mod rollout_watch;
mod single_site;
mod site_selection;
mod site_streams;

use std::path::PathBuf;
use std::time::Duration;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{SiteName, TenantName};

use super::apply::{self, Applied};
use super::plan;
use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::document_files::DocumentFiles;
use crate::failure::{ExitStatus, Failure};
use crate::format::{duration, millis};

pub(super) use rollout_watch::RolloutWatch;

/// `voipctl push`
// Each is a flag of the command line.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One site or several, which are pushed side by side
    #[arg(
        required_unless_present_any = ["all", "tenant"],
        conflicts_with_all = ["all", "tenant"],
        value_name = "SITE"
    )]
    sites: Vec<SiteName>,

    /// Push every site
    #[arg(long, conflicts_with = "tenant")]
    all: bool,

    /// Push every site that serves this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantName>,

    /// The number of sites to push at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,

    /// First apply these documents: files, folders, or - for stdin
    #[arg(short = 'f', long = "file", num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Wait for offline nodes, for 1m unless a duration is given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "1m", value_parser = duration)]
    wait: Option<Duration>,

    /// How long each node has to confirm that it is still reachable [default: set by the site]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    confirm_within: Option<Duration>,

    /// Only report what would change
    #[arg(long)]
    dry_run: bool,

    /// Return as soon as the rollout has started
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    detach: bool,

    /// If a rollout of the site is in progress, wait for its end instead of failing
    #[arg(long, conflicts_with = "dry_run")]
    queue: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.sites.as_slice() {
        [site] => single_site::run(site.clone(), &args, session).await,
        _ => multi_site::run(&args, session).await,
    }
}

impl Args {
    fn request(
        &self,
        site: &SiteName,
        sources: Vec<v1::Source>,
        basis: Option<v1::PlanBasis>,
    ) -> v1::PushRequest {
        v1::PushRequest {
            site: site.to_string(),
            wait_offline_ms: self.wait.map(millis).unwrap_or_default(),
            confirm_within_ms: self.confirm_within.map(millis).unwrap_or_default(),
            dry_run: self.dry_run,
            sources,
            basis,
            queue: self.queue,
            rehearse: false,
        }
    }
}

/// Asks the controller whether it would refuse a push of these documents, before they are stored.
/// A status: the push ends here, because of errors in the documents.
async fn rehearse(
    args: &Args,
    read: &DocumentFiles,
    sites: &[(&SiteName, Option<&v1::PlanBasis>)],
    session: &mut Session<'_>,
) -> Result<Option<ExitStatus>, Failure> {
    let checked = if read.diagnostics.is_empty() {
        apply::send(read, true, session).await?
    } else {
        Applied::nothing(args.dry_run, read.diagnostics.clone())
    };
    if checked.is_refused() {
        session.print_event(&json::Documents::of(&checked))?;
        apply::report(&checked, &read.sources, session);
        return Ok(Some(ExitStatus::BadInput));
    }
    let controller = session.controller().await?;
    for (site, basis) in sites {
        let sources = apply::on_the_wire(read);
        let request = v1::PushRequest {
            dry_run: true,
            // A push that may be queued is not refused because of a running rollout.
            rehearse: !args.queue,
            queue: false,
            basis: basis.filter(|_| !args.queue).cloned(),
            ..args.request(site, sources, None)
        };
        let answer = controller
            .within(ANSWER_TIMEOUT, controller.calls().push(request))
            .await;
        if let Err(failure) = answer {
            session.console.note(NOTHING_DONE);
            return Err(failure);
        }
    }
    Ok(None)
}

/// Shows, for the record, what a push or rollback that asks no question is about to do: the sum of
/// its plan, and all warnings, which are returned. Where there is no plan, the push itself says why.
pub(super) fn announce(
    plan: Result<v1::PlanResponse, Failure>,
    session: &mut Session<'_>,
) -> Result<Vec<String>, Failure> {
    let Ok(plan) = plan else {
        return Ok(Vec::new());
    };
    if plan::is_empty(&plan) {
        return Ok(Vec::new());
    }
    if !session.print_event(&json::Planned::of(&plan))? {
        plan::show_sum(&plan, session);
    }
    Ok(plan.warnings)
}

/// The note where a push ends before documents are stored.
const NOTHING_DONE: &str = "nothing was stored or pushed";

/// Stores the documents of `-f`, or in a dry run only checks them. After a plan was `shown`, they
/// are stored only if they are still as shown. A status: the push ends here.
async fn store_documents(
    args: &Args,
    read: &DocumentFiles,
    shown: Option<&Applied>,
    session: &mut Session<'_>,
) -> Result<Option<ExitStatus>, Failure> {
    let applied = match shown {
        Some(shown) => apply::send_as_shown(read, shown, session).await?,
        None if read.diagnostics.is_empty() => apply::send(read, args.dry_run, session).await?,
        None => Applied::nothing(args.dry_run, read.diagnostics.clone()),
    };
    session.print_event(&json::Documents::of(&applied))?;
    apply::report(&applied, &read.sources, session);
    Ok(applied.is_refused().then_some(ExitStatus::BadInput))
}

/// Reports, in a dry run, what documents would change in the site, by field.
async fn report_fields(
    site: &SiteName,
    sources: &[v1::Source],
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let controller = session.controller().await?;
    let plan = plan::fetch(site, sources.to_vec(), &controller).await?;
    session.print_event(&json::Fields::of(&plan))?;
    if session.format.is_table() {
        plan::show_documents(&plan, session);
    }
    Ok(())
}
