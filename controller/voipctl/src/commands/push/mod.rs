//! `voipctl push SITE...`: the policy of sites onto their nodes.

mod json;
mod multi_site;
mod progress_view;
mod site_selection;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use tonic::Streaming;
use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_ruleset::identifiers::{SiteName, TenantName};

use super::apply::{self, Applied};
use super::plan;
use crate::Session;
use crate::client::{ANSWER_TIMEOUT, Controller};
use crate::diagnostics::{of_wire, show};
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};
use crate::format::{duration, millis, printable};
use crate::grpc_errors;

/// How long nothing may happen in a rollout: a trial and a pause take up to an hour each, and it
/// may be held over a weekend, or wait for one that is. That the controller is gone is known
/// within half a minute, by the pings of the connection.
const SILENCE: Duration = Duration::from_hours(7 * 24);

/// `voipctl push`
// Each is a flag of the command line.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site, or several: they are pushed side by side
    #[arg(
        required_unless_present_any = ["all", "tenant"],
        conflicts_with_all = ["all", "tenant"],
        value_name = "SITE"
    )]
    sites: Vec<SiteName>,

    /// Every site
    #[arg(long, conflicts_with = "tenant")]
    all: bool,

    /// Every site that serves this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantName>,

    /// So many sites at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,

    /// First apply these documents: files, folders of *.yaml and *.yml, or - for stdin
    #[arg(short = 'f', long = "file", num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,

    /// Wait for nodes that are offline, 1m if no time is given
    #[arg(long, value_name = "D", num_args = 0..=1, default_missing_value = "1m", value_parser = duration)]
    wait: Option<Duration>,

    /// How long a node has to prove that it is still reachable, in place of the site's own
    #[arg(long, value_name = "D", value_parser = duration)]
    confirm_within: Option<Duration>,

    /// Compile and compare only
    #[arg(long)]
    dry_run: bool,

    /// Start it, and leave the rest to the controller
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    detach: bool,

    /// Where a rollout of the site is under way, wait for its end, and go then
    #[arg(long, conflicts_with = "dry_run")]
    queue: bool,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.sites.as_slice() {
        [site] => {
            let site = site.clone();
            one(site, &args, session).await
        }
        _ => multi_site::run(&args, session).await,
    }
}

async fn one(
    site: SiteName,
    args: &Args,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks {
        plan::can_ask(&format!("voipctl plan {site}"), session)?;
    }
    let read = if args.files.is_empty() {
        None
    } else {
        Some(document_files::read(&args.files, session.console)?)
    };
    let mut basis = None;
    let mut shown = None;
    if asks {
        match agreed(&site, args, read.as_ref(), session).await? {
            Agreed::Push(planned, documents) => (basis, shown) = (Some(planned), documents),
            Agreed::End(status) => return Ok(status),
        }
    }
    let mut sources = Vec::new();
    if let Some(read) = &read {
        if !args.dry_run {
            let sites = [(&site, basis.as_ref())];
            if let Some(status) = rehearse(args, read, &sites, session).await? {
                return Ok(status);
            }
        }
        if let Some(status) = apply_first(args, read, shown.as_ref(), session).await? {
            return Ok(status);
        }
        if args.dry_run {
            sources = apply::on_the_wire(read);
            tell_fields(&site, &sources, session).await?;
        }
    }
    let controller = session.controller().await?;
    let request = args.request(&site, sources, basis);
    let pushed = controller
        .within(ANSWER_TIMEOUT, controller.calls().push(request))
        .await;
    let events = match pushed {
        Err(failure) if read.is_some() && !args.dry_run => {
            session.console.note(STORED);
            return Err(stored(failure));
        }
        pushed => pushed?,
    };
    let watched = Watched {
        site,
        dry_run: args.dry_run,
        detach: args.detach,
        wait: args.wait,
    };
    watched
        .follow(&controller, events.into_inner(), session)
        .await
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

/// A rollout that somebody follows.
pub(super) struct Watched {
    pub(super) site: SiteName,
    pub(super) dry_run: bool,
    /// Only its start is of interest.
    pub(super) detach: bool,
    pub(super) wait: Option<Duration>,
}

/// What is said when a push of documents ends after they were stored.
const STORED: &str = "the documents are stored, and not on the nodes yet";

/// A push that was refused after its documents were stored: something was changed.
fn stored(failure: Failure) -> Failure {
    match failure.status {
        ExitStatus::BadInput => failure.status(ExitStatus::NotEverywhere),
        _ => failure,
    }
}

/// Asks the controller whether a push of these documents would be refused, before they are
/// stored; a status where it ends here, because of mistakes in them.
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
        apply::tell(&checked, &read.sources, session);
        return Ok(Some(ExitStatus::BadInput));
    }
    let controller = session.controller().await?;
    for (site, basis) in sites {
        let sources = apply::on_the_wire(read);
        let request = v1::PushRequest {
            dry_run: true,
            // What waits for its turn is not held up by what is under way.
            rehearse: !args.queue,
            queue: false,
            basis: basis.filter(|_| !args.queue).cloned(),
            ..args.request(site, sources, None)
        };
        let asked = controller
            .within(ANSWER_TIMEOUT, controller.calls().push(request))
            .await;
        if let Err(failure) = asked {
            session
                .console
                .note("nothing was stored, and nothing pushed");
            return Err(failure);
        }
    }
    Ok(None)
}

/// Stores the documents of `-f`, or only checks them; a status where the push ends here. What a
/// plan was shown of must still be as it was.
async fn apply_first(
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
    apply::tell(&applied, &read.sources, session);
    if applied.is_refused() {
        return Ok(Some(ExitStatus::BadInput));
    }
    Ok(None)
}

/// Says in a dry run what documents would change in the site, by field.
async fn tell_fields(
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

/// What a person says to a plan.
enum Agreed {
    /// To push exactly this, with these documents stored first.
    Push(v1::PlanBasis, Option<Applied>),
    /// Nothing is pushed.
    End(ExitStatus),
}

/// Shows the plan, and asks a person before anything is stored or nodes are touched.
async fn agreed(
    site: &SiteName,
    args: &Args,
    read: Option<&DocumentFiles>,
    session: &mut Session<'_>,
) -> Result<Agreed, Failure> {
    let mut sources = Vec::new();
    let mut documents = None;
    if let Some(read) = read {
        documents = plan::checked(read, session).await?;
        if documents.is_none() {
            return Ok(Agreed::End(ExitStatus::BadInput));
        }
        sources = apply::on_the_wire(read);
    }
    let controller = session.controller().await?;
    let plan = plan::fetch(site, sources, &controller).await?;
    plan::show(&plan, session);
    if plan::is_empty(&plan) {
        return Ok(Agreed::End(ExitStatus::Done));
    }
    if args.queue {
        plan::tell_held(&plan, session);
    } else if !plan.held.is_empty() {
        session
            .console
            .note("nothing was stored, and nothing pushed");
        return Err(grpc_errors::with_hint(&plan.held));
    }
    let what = if read.is_some() {
        "store these documents and push"
    } else {
        "push"
    };
    if !session.confirm(&format!("{what} {site}?"))? {
        session.console.note("nothing was pushed");
        return Ok(Agreed::End(ExitStatus::NotEverywhere));
    }
    Ok(Agreed::Push(plan.basis.unwrap_or_default(), documents))
}

impl Watched {
    /// Shows the events as they come, to the last one, or until a person has seen enough.
    pub(super) async fn follow(
        &self,
        controller: &Controller,
        stream: Streaming<v1::PushEvent>,
        session: &mut Session<'_>,
    ) -> Result<ExitStatus, Failure> {
        let interrupted = tokio::signal::ctrl_c();
        let waits = Cell::new(false);
        tokio::select! {
            status = self.to_the_end(controller, stream, &waits, session) => status,
            _ = interrupted => Err(interruption(&self.site, waits.get())),
        }
    }

    async fn to_the_end(
        &self,
        controller: &Controller,
        mut stream: Streaming<v1::PushEvent>,
        waits: &Cell<bool>,
        session: &mut Session<'_>,
    ) -> Result<ExitStatus, Failure> {
        let mut view = progress_view::ProgressView::new(self.dry_run, self.wait.is_some());
        let stand = format!("see where it stands: voipctl rollout status {}", self.site);
        loop {
            let event = controller.within(SILENCE, stream.message()).await;
            let Some(event) = event.map_err(|failure| failure.hint(stand.as_str()))? else {
                break;
            };
            let Some(kind) = event.kind else { continue };
            session.print_event(&json::Event::of(&kind))?;
            waits.set(matches!(kind, Kind::Queued(_)));
            match kind {
                Kind::Queued(queued) => {
                    if session.format.is_table() {
                        session.console.note(&waiting(&queued));
                    }
                    if self.detach {
                        if session.format.is_table() {
                            let (site, ticket) = (&self.site, queued.ticket);
                            session
                                .console
                                .data(&format!("{site}: queued as {ticket}\n"));
                            session.console.hint(&format!(
                                "it goes at its turn; see what waits: voipctl rollout status {site}"
                            ));
                        }
                        return Ok(ExitStatus::Done);
                    }
                }
                Kind::Diagnostic(diagnostic) => {
                    if session.format.is_table() {
                        view.aside(|| show(session.console, &[of_wire(diagnostic)], &[]));
                    }
                }
                Kind::Started(started) if self.detach => {
                    if session.format.is_table() {
                        let (site, generation) = (started.site, started.generation);
                        let told = format!("{site}: generation {generation} goes to its nodes\n");
                        session.console.data(&told);
                        session
                            .console
                            .hint(&format!("watch it: voipctl rollout watch {site}"));
                    }
                    return Ok(ExitStatus::Done);
                }
                Kind::Started(started) => view.started(started, session),
                Kind::Node(node) => view.node(&node, session),
                Kind::Done(done) => {
                    view.done(&done, session);
                    return Ok(if self.dry_run {
                        ExitStatus::Done
                    } else {
                        ended(&done)
                    });
                }
            }
        }
        Err(Failure::controller("the controller broke off before the push was over").hint(stand))
    }
}

/// Done only when every node runs the site's generation.
fn ended(done: &v1::PushDone) -> ExitStatus {
    if done.failed + done.rolled_back + done.offline + done.waiting == 0 {
        ExitStatus::Done
    } else {
        ExitStatus::NotEverywhere
    }
}

/// What a queued push waits for.
fn waiting(queued: &v1::PushQueued) -> String {
    let ahead = match queued.ahead {
        0 => String::new(),
        ahead => format!(" ({ahead} ahead)"),
    };
    printable(&format!(
        "{}: waits for the rollout of generation {} by {}{ahead}",
        queued.site, queued.generation, queued.by
    ))
}

fn interruption(site: &SiteName, waits: bool) -> Failure {
    if waits {
        return Failure::controller(format!(
            "interrupted; the push of {site} still waits, and goes at its turn without us"
        ))
        .status(ExitStatus::NotEverywhere)
        .hint(format!(
            "see what waits: voipctl rollout status {site}; with the rollout before it, it ends: \
             voipctl rollout abort {site}"
        ));
    }
    Failure::controller(format!(
        "interrupted; the rollout of {site} goes on without us"
    ))
    .status(ExitStatus::NotEverywhere)
    .hint(format!(
        "watch it: voipctl rollout watch {site}; hold or end it: voipctl rollout pause|abort \
             {site}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch that gave up would tell of a controller that does not answer.
    #[test]
    fn a_rollout_is_watched_through_trials_pauses_and_weekends() {
        let trial_and_pause = Duration::from_hours(2);
        let weekend = Duration::from_hours(3 * 24);
        assert!(SILENCE > weekend + trial_and_pause, "{SILENCE:?}");
        let ping = voipfleet_proto::channel::KEEPALIVE_INTERVAL;
        let answer = voipfleet_proto::channel::KEEPALIVE_TIMEOUT;
        assert!(ping + answer <= Duration::from_secs(30));
    }
}
