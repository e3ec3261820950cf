//! A push of several sites, side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::overview::{Overview, Warned};
use super::site_streams::SiteStreams;
use super::{Args, announce, rehearse, report_fields, site_selection, store_documents};
use crate::Session;
use crate::client::Controller;
use crate::commands::{apply, plan};
use crate::document_files;
use crate::failure::{ExitStatus, Failure};
use crate::format::count;

/// The sites to push, each with what its plan was based on.
type Targets = BTreeMap<SiteName, Option<v1::PlanBasis>>;

/// What comes of a step before the pushes.
enum Prepared<T> {
    Continue(T),
    Exit(ExitStatus),
}

/// Runs it.
pub(super) async fn run(args: &Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks && !args.files.is_empty() {
        return Err(Failure::input(
            "cannot show the plans of several sites before their documents are stored",
        )
        .hint("apply the documents first, see: voipctl apply --help; or pass --yes"));
    }
    let controller = Arc::new(session.controller().await?);
    let sites = site_selection::of(args, &controller).await?;
    let sources = match documents(args, &sites, session).await? {
        Prepared::Continue(sources) => sources,
        Prepared::Exit(status) => return Ok(status),
    };
    let mut targets: Targets = sites.into_iter().map(|site| (site, None)).collect();
    let mut warned = Warned::new();
    if asks {
        targets = match confirm(targets, &mut warned, &controller, session).await? {
            Prepared::Continue(targets) => targets,
            Prepared::Exit(status) => return Ok(status),
        };
    } else if !args.dry_run {
        for site in targets.keys() {
            let plan = plan::fetch(site, Vec::new(), &controller).await;
            warned.insert(site.clone(), announce(plan, session)?);
        }
    }
    let names: Vec<SiteName> = targets.keys().cloned().collect();
    let requests = targets.into_iter().map(|(site, basis)| {
        let request = args.request(&site, sources.clone(), basis);
        (site, request)
    });
    let requests = requests.collect();
    let mut streams = SiteStreams::start(requests, args.parallel, args.detach, &controller);
    let mut overview = Overview::new(args, &names, warned, session);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let news = tokio::select! {
            news = streams.news.recv() => news,
            _ = &mut interrupted => return Err(interruption()),
        };
        let Some((name, news)) = news else {
            return Ok(overview.finish(session));
        };
        overview.update(&name, news, session)?;
    }
}

fn interruption() -> Failure {
    Failure::controller("interrupted; running rollouts and queued pushes go on")
        .status(ExitStatus::NotEverywhere)
        .hint("check their state: voipctl rollout status")
}

/// Stores the documents of `-f`, or in a dry run only checks them and returns them.
async fn documents(
    args: &Args,
    sites: &[SiteName],
    session: &mut Session<'_>,
) -> Result<Prepared<Vec<v1::Source>>, Failure> {
    if args.files.is_empty() {
        return Ok(Prepared::Continue(Vec::new()));
    }
    let read = document_files::read(&args.files, session.console)?;
    if !args.dry_run {
        let sites: Vec<_> = sites.iter().map(|site| (site, None)).collect();
        if let Some(status) = rehearse(args, &read, &sites, session).await? {
            return Ok(Prepared::Exit(status));
        }
    }
    if let Some(status) = store_documents(args, &read, None, session).await? {
        return Ok(Prepared::Exit(status));
    }
    if !args.dry_run {
        return Ok(Prepared::Continue(Vec::new()));
    }
    let sources = apply::on_the_wire(&read);
    for site in sites {
        report_fields(site, &sources, session).await?;
    }
    Ok(Prepared::Continue(sources))
}

/// Shows the plans, and asks once. Sites where nothing would change are left out.
async fn confirm(
    sites: Targets,
    warned: &mut Warned,
    controller: &Controller,
    session: &mut Session<'_>,
) -> Result<Prepared<Targets>, Failure> {
    let mut targets = Targets::new();
    for site in sites.into_keys() {
        plan::require_prompt(&format!("voipctl plan {site}"), session)?;
        let plan = plan::fetch(&site, Vec::new(), controller).await?;
        plan::show(&plan, session);
        plan::report_held(&plan, session);
        if !plan::is_empty(&plan) {
            warned.insert(site.clone(), plan.warnings);
            targets.insert(site, plan.basis);
        }
    }
    if targets.is_empty() {
        return Ok(Prepared::Exit(ExitStatus::Done));
    }
    let names: Vec<&str> = targets.keys().map(SiteName::as_str).collect();
    let question = format!(
        "push {} ({})?",
        count(names.len(), "site"),
        names.join(", ")
    );
    if session.confirm(&question)? {
        return Ok(Prepared::Continue(targets));
    }
    session.console.note("nothing was pushed");
    Ok(Prepared::Exit(ExitStatus::NotEverywhere))
}
