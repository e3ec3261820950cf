//! A push of several sites, side by side: a line for each site, and one bar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_ruleset::identifiers::SiteName;

use super::progress_view::ProgressView;
use super::{
    Args, SILENCE, apply_first, ended, json, rehearse, site_selection, tell_fields, waiting,
};
use crate::Session;
use crate::client::{ANSWER_TIMEOUT, Controller};
use crate::commands::{apply, plan};
use crate::console::Progress;
use crate::diagnostics::{of_wire, show};
use crate::document_files;
use crate::failure::{ExitStatus, Failure, chain};
use crate::format::count;

/// Events of all sites that are not shown yet; more of them wait.
const BACKLOG: usize = 256;

/// What comes of a site: an event, or its end without one.
type News = (SiteName, Result<Option<Kind>, Failure>);

/// Runs it.
pub(super) async fn run(args: &Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks && !args.files.is_empty() {
        return Err(Failure::input(
            "documents are stored before the plans of several sites are shown",
        )
        .hint("apply them first (voipctl apply -f PATH), or add --yes"));
    }
    let controller = Arc::new(session.controller().await?);
    let mut wanted: BTreeMap<SiteName, Option<v1::PlanBasis>> = BTreeMap::new();
    for site in site_selection::of(args, &controller).await? {
        wanted.insert(site, None);
    }
    let mut on_the_wire = Vec::new();
    if !args.files.is_empty() {
        let read = document_files::read(&args.files, session.console)?;
        if !args.dry_run {
            let sites: Vec<_> = wanted.keys().map(|site| (site, None)).collect();
            if let Some(status) = rehearse(args, &read, &sites, session).await? {
                return Ok(status);
            }
        }
        if let Some(status) = apply_first(args, &read, None, session).await? {
            return Ok(status);
        }
        if args.dry_run {
            on_the_wire = apply::on_the_wire(&read);
            for site in wanted.keys() {
                tell_fields(site, &on_the_wire, session).await?;
            }
        }
    }
    if asks && let Some(status) = agreed(&mut wanted, &controller, session).await? {
        return Ok(status);
    }
    let (out, news) = mpsc::channel(BACKLOG);
    let turns = Arc::new(Semaphore::new(args.parallel.into()));
    let mut pushes = JoinSet::new();
    let names: Vec<SiteName> = wanted.keys().cloned().collect();
    for (site, basis) in wanted {
        let request = args.request(&site, on_the_wire.clone(), basis);
        let (controller, turns, out) = (Arc::clone(&controller), Arc::clone(&turns), out.clone());
        let detach = args.detach;
        pushes.spawn(async move {
            // The semaphore is never closed.
            let mut turn = turns.acquire_owned().await.ok();
            let mut stream = match controller
                .within(ANSWER_TIMEOUT, controller.calls().push(request))
                .await
            {
                Ok(events) => events.into_inner(),
                Err(failure) => {
                    // Nobody listens any more: fine.
                    let _ = out.send((site, Err(failure))).await;
                    return;
                }
            };
            loop {
                let event = controller.within(SILENCE, stream.message()).await;
                let event = event.map(|event| event.map(|event| event.kind));
                let (told, over) = match event {
                    Ok(Some(kind)) => (Ok(kind), false),
                    Ok(None) => (
                        Err(Failure::controller(
                            "the controller broke off before the push was over",
                        )),
                        true,
                    ),
                    Err(failure) => (Err(failure), true),
                };
                let last = match &told {
                    Ok(Some(Kind::Started(_) | Kind::Queued(_))) => detach,
                    Ok(Some(Kind::Done(_))) => true,
                    _ => false,
                };
                if matches!(told, Ok(Some(Kind::Queued(_)))) {
                    // Others need not wait with it.
                    drop(turn.take());
                }
                if out.send((site.clone(), told)).await.is_err() || over || last {
                    return;
                }
            }
        });
    }
    drop(out);
    let follow = follow(args, names, news, session);
    let interrupted = tokio::signal::ctrl_c();
    tokio::select! {
        status = follow => status,
        _ = interrupted => Err(Failure::controller(
            "interrupted; rollouts that have begun, and pushes that wait, go on without us",
        )
        .status(ExitStatus::NotEverywhere)
        .hint("see each of them: voipctl rollout status")),
    }
}

/// Shows the plans, and asks once. Sites where nothing would change are left out. A status: the
/// push ends here.
async fn agreed(
    wanted: &mut BTreeMap<SiteName, Option<v1::PlanBasis>>,
    controller: &Controller,
    session: &mut Session<'_>,
) -> Result<Option<ExitStatus>, Failure> {
    for site in wanted.keys().cloned().collect::<Vec<_>>() {
        plan::can_ask(&format!("voipctl plan {site}"), session)?;
        let plan = plan::fetch(&site, Vec::new(), controller).await?;
        plan::show(&plan, session);
        plan::tell_held(&plan, session);
        if plan::is_empty(&plan) {
            wanted.remove(&site);
        } else {
            wanted.insert(site, plan.basis);
        }
    }
    if wanted.is_empty() {
        return Ok(Some(ExitStatus::Done));
    }
    let names: Vec<&str> = wanted.keys().map(SiteName::as_str).collect();
    let question = format!(
        "push {} ({})?",
        count(names.len(), "site"),
        names.join(", ")
    );
    if session.confirm(&question)? {
        return Ok(None);
    }
    session.console.note("nothing was pushed");
    Ok(Some(ExitStatus::NotEverywhere))
}

/// How far a site is.
struct Site {
    view: ProgressView,
    nodes: usize,
    ended: usize,
    generation: u64,
    /// Something was heard of its push.
    begun: bool,
}

impl Site {
    fn new(args: &Args) -> Self {
        Self {
            view: ProgressView::of_several(args.dry_run, args.wait.is_some()),
            nodes: 0,
            ended: 0,
            generation: 0,
            begun: false,
        }
    }

    /// The end of a push that has none of its own.
    fn broken_off(&self, name: &SiteName, why: Failure) -> (ExitStatus, Failure) {
        if self.begun {
            let stand = format!("see where it stands: voipctl rollout status {name}");
            let failure = Failure::controller(format!("{name} was not pushed to its end"));
            return (ExitStatus::NotEverywhere, failure.because(why).hint(stand));
        }
        let (status, hint) = (why.status, why.hint.clone());
        let failure = Failure::controller(format!("{name} was not pushed")).because(why);
        let failure = match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        (status, failure)
    }
}

async fn follow(
    args: &Args,
    names: Vec<SiteName>,
    mut news: mpsc::Receiver<News>,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let total = names.len();
    let progress = (!args.dry_run && session.format.is_table())
        .then(|| session.console.progress(total as u64, "sites"));
    let new = |name| (name, Site::new(args));
    let mut sites: BTreeMap<SiteName, Site> = names.into_iter().map(new).collect();
    let mut ends = BTreeSet::new();
    let mut over = 0;
    let mut live = Live { progress };
    while let Some((name, told)) = news.recv().await {
        let Some(site) = sites.get_mut(&name) else {
            continue;
        };
        let kind = match told {
            Ok(Some(kind)) => kind,
            // Something that a newer controller says.
            Ok(None) => continue,
            Err(failure) => {
                over += 1;
                live.ended(&name, over);
                let (status, failure) = site.broken_off(&name, failure);
                ends.insert(status);
                session.print_event(&json::Event::Failed {
                    site: name.to_string(),
                    error: chain(&failure),
                })?;
                live.aside(|| session.console.failure(&failure));
                continue;
            }
        };
        session.print_event(&json::Event::of_site(&kind, name.as_str()))?;
        site.begun = true;
        match kind {
            Kind::Queued(queued) => {
                live.queued(args.detach, &name, &queued, session);
                if args.detach {
                    over += 1;
                    live.ended(&name, over);
                } else {
                    live.waits(&name);
                }
                continue;
            }
            Kind::Started(started) if args.detach => {
                over += 1;
                live.ended(&name, over);
                let generation = started.generation;
                let text = format!("{name}: generation {generation} goes to its nodes\n");
                if session.format.is_table() {
                    live.aside(|| session.console.data(&text));
                }
                continue;
            }
            Kind::Started(mut started) => {
                site.generation = started.generation;
                site.nodes = started.nodes.len();
                for node in &mut started.nodes {
                    site.ended += usize::from(ProgressView::has_ended(node.state()));
                    node.node = format!("{name}/{}", node.node);
                }
                live.aside(|| site.view.started(started, session));
            }
            Kind::Node(mut node) => {
                site.ended += usize::from(ProgressView::has_ended(node.state()));
                node.node = format!("{name}/{}", node.node);
                live.aside(|| site.view.node(&node, session));
            }
            Kind::Diagnostic(diagnostic) if session.format.is_table() => {
                live.aside(|| show(session.console, &[of_wire(diagnostic)], &[]));
            }
            Kind::Diagnostic(_) => {}
            Kind::Done(done) => {
                over += 1;
                live.ended(&name, over);
                let dry = args.dry_run;
                ends.insert(if dry { ExitStatus::Done } else { ended(&done) });
                live.aside(|| site.view.done(&done, session));
                continue;
            }
        }
        live.at_work(&name, site);
    }
    if args.detach && sites.values().any(|site| site.begun) {
        ends.insert(ExitStatus::Done);
    }
    let stored = !args.files.is_empty() && !args.dry_run;
    Ok(together(&ends, stored))
}

/// What one site alone would have ended with, where all ended with that.
fn together(ends: &BTreeSet<ExitStatus>, stored: bool) -> ExitStatus {
    let mut ends = ends.iter();
    match (ends.next(), ends.next()) {
        (None, _) => ExitStatus::Done,
        // Documents were stored: it does not say that nothing was changed.
        (Some(ExitStatus::BadInput), None) if stored => ExitStatus::NotEverywhere,
        (Some(status), None) => *status,
        _ => ExitStatus::NotEverywhere,
    }
}

/// The live area, where there is one.
struct Live {
    progress: Option<Progress>,
}

impl Live {
    fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.aside(print),
            None => print(),
        }
    }

    fn at_work(&mut self, name: &SiteName, site: &Site) {
        if let Some(progress) = &mut self.progress {
            let Site {
                ended,
                nodes,
                generation,
                ..
            } = site;
            let text = format!("{name}  generation {generation}: {ended} of {nodes} nodes");
            progress.working(name.as_str(), text);
        }
    }

    fn waits(&mut self, name: &SiteName) {
        if let Some(progress) = &mut self.progress {
            progress.working(name.as_str(), format!("{name}  waits for its turn"));
        }
    }

    fn queued(
        &self,
        detached: bool,
        name: &SiteName,
        queued: &v1::PushQueued,
        session: &mut Session<'_>,
    ) {
        if !session.format.is_table() {
            return;
        }
        self.aside(|| session.console.note(&waiting(queued)));
        if detached {
            let text = format!("{name}: queued as {}\n", queued.ticket);
            self.aside(|| session.console.data(&text));
        }
    }

    fn ended(&mut self, name: &SiteName, over: u64) {
        if let Some(progress) = &mut self.progress {
            progress.ended(name.as_str(), over);
        }
    }
}
