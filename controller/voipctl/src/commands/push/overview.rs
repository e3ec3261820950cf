//! The progress of a push of several sites: a line for each site, and one bar.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_ruleset::identifiers::SiteName;

use super::advice::AdviceList;
use super::progress_view::ProgressView;
use super::rollout_watch::queue_position;
use super::{Args, exit_status, json};
use crate::Session;
use crate::console::Progress;
use crate::diagnostics::{of_wire, show};
use crate::failure::{ExitStatus, Failure, chain};

/// Warnings that the plan of each site has shown already.
pub(super) type Warned = BTreeMap<SiteName, Vec<String>>;

/// The progress of all sites.
pub(super) struct Overview<'a> {
    args: &'a Args,
    sites: BTreeMap<SiteName, SiteProgress>,
    /// How the sites ended so far.
    ends: BTreeSet<ExitStatus>,
    ended: u64,
    area: ProgressArea,
    advice: AdviceList,
    /// The hints of failures, each once.
    hints: Vec<String>,
}

/// The progress of one site.
struct SiteProgress {
    view: ProgressView,
    nodes: usize,
    ended: usize,
    generation: u64,
    /// Whether the controller has sent an event of its push.
    begun: bool,
    /// Warnings that the plan has shown already.
    warned: Vec<String>,
}

impl<'a> Overview<'a> {
    pub(super) fn new(
        args: &'a Args,
        names: &[SiteName],
        mut warned: Warned,
        session: &Session<'_>,
    ) -> Self {
        let shown = !args.dry_run && session.format.is_table();
        let progress = shown.then(|| session.console.progress(names.len() as u64, "sites"));
        let site = |name: &SiteName| {
            let warned = warned.remove(name).unwrap_or_default();
            (name.clone(), SiteProgress::new(args, warned))
        };
        Self {
            args,
            sites: names.iter().map(site).collect(),
            ends: BTreeSet::new(),
            ended: 0,
            area: ProgressArea { progress },
            advice: AdviceList::default(),
            hints: Vec::new(),
        }
    }

    /// Shows an event of a site, or why its push failed.
    pub(super) fn update(
        &mut self,
        name: &SiteName,
        news: Result<Option<Kind>, Failure>,
        session: &mut Session<'_>,
    ) -> Result<(), Failure> {
        match news {
            Ok(Some(kind)) => {
                session.print_event(&json::Event::of_site(&kind, name.as_str()))?;
                self.event(name, kind, session);
                Ok(())
            }
            // A kind of event that only a newer voipctl knows.
            Ok(None) => Ok(()),
            Err(failure) => self.failed(name, failure, session),
        }
    }

    /// The exit status of all sites together, after their advice.
    pub(super) fn finish(mut self, session: &mut Session<'_>) -> ExitStatus {
        for line in self.hints.drain(..).chain(self.advice.lines()) {
            session.console.hint(&line);
        }
        if self.args.detach && self.sites.values().any(|site| site.begun) {
            self.ends.insert(ExitStatus::Done);
        }
        let stored = !self.args.files.is_empty() && !self.args.dry_run;
        exit_status::of_sites(&self.ends, stored)
    }

    fn event(&mut self, name: &SiteName, kind: Kind, session: &mut Session<'_>) {
        let Some(site) = self.sites.get_mut(name) else {
            return;
        };
        site.begun = true;
        let detach = self.args.detach;
        match kind {
            Kind::Queued(queued) => {
                self.area.queued(detach, &queued, session);
                if !detach {
                    self.area.waiting(name);
                    return;
                }
            }
            Kind::Started(started) if detach => self.area.started(&started, session),
            Kind::Started(started) => {
                site.generation = started.generation;
                site.nodes = started.nodes.len();
                let ended = started.nodes.iter();
                site.ended = ended
                    .filter(|node| ProgressView::has_ended(node.state()))
                    .count();
                self.area.aside(|| site.view.started(started, session));
                self.area.in_progress(name, site);
                return;
            }
            Kind::Node(node) => {
                site.ended += usize::from(ProgressView::has_ended(node.state()));
                self.area.aside(|| site.view.node(&node, session));
                self.area.in_progress(name, site);
                return;
            }
            Kind::Diagnostic(diagnostic) => {
                if session.format.is_table() && !site.warned.contains(&diagnostic.message) {
                    self.area
                        .aside(|| show(session.console, &[of_wire(diagnostic)], &[]));
                }
                return;
            }
            Kind::Done(done) => {
                self.ends.insert(if self.args.dry_run {
                    ExitStatus::Done
                } else {
                    exit_status::of_site(&done)
                });
                let advice = self.area.aside(|| site.view.done(&done, session));
                self.advice.append(advice);
            }
        }
        self.ended += 1;
        self.area.ended(name, self.ended);
    }

    fn failed(
        &mut self,
        name: &SiteName,
        failure: Failure,
        session: &mut Session<'_>,
    ) -> Result<(), Failure> {
        self.ended += 1;
        self.area.ended(name, self.ended);
        let begun = self.sites.get(name).is_some_and(|site| site.begun);
        let mut failure = failure;
        let hints = std::mem::take(&mut failure.hints);
        let status = if begun {
            // It may have changed nodes.
            self.advice.ended_early(name.as_str(), false);
            ExitStatus::NotEverywhere
        } else {
            self.hints.extend(hints);
            self.hints.sort_unstable();
            self.hints.dedup();
            failure.status
        };
        let what = if begun {
            "the push did not complete"
        } else {
            "not pushed"
        };
        let failure = Failure::controller(format!("{name}: {what}")).because(failure);
        self.ends.insert(status);
        session.print_event(&json::Event::Failed {
            site: name.to_string(),
            error: chain(&failure),
        })?;
        self.area.aside(|| session.console.failure(&failure));
        Ok(())
    }
}

impl SiteProgress {
    fn new(args: &Args, warned: Vec<String>) -> Self {
        Self {
            view: ProgressView::of_several(args.dry_run, args.wait.is_some()),
            nodes: 0,
            ended: 0,
            generation: 0,
            begun: false,
            warned,
        }
    }
}

/// The progress area, if stderr is a terminal.
struct ProgressArea {
    progress: Option<Progress>,
}

impl ProgressArea {
    fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.aside(print),
            None => print(),
        }
    }

    fn in_progress(&mut self, name: &SiteName, site: &SiteProgress) {
        if let Some(progress) = &mut self.progress {
            let SiteProgress {
                ended,
                nodes,
                generation,
                ..
            } = site;
            let text = format!("{name}  generation {generation}: {ended} of {nodes} nodes");
            progress.working(name.as_str(), text);
        }
    }

    fn waiting(&mut self, name: &SiteName) {
        if let Some(progress) = &mut self.progress {
            progress.working(name.as_str(), format!("{name}  queued"));
        }
    }

    fn queued(&self, detach: bool, queued: &v1::PushQueued, session: &mut Session<'_>) {
        if !session.format.is_table() {
            return;
        }
        self.aside(|| {
            session.console.note(&queue_position(queued));
            if detach {
                let (site, ticket) = (&queued.site, queued.ticket);
                let text = format!("{site}: queued as push {ticket}\n");
                session.console.data(&text);
            }
        });
    }

    fn started(&self, started: &v1::PushStarted, session: &mut Session<'_>) {
        if session.format.is_table() {
            let (site, generation) = (&started.site, started.generation);
            let text = format!("{site}: rollout of generation {generation} started\n");
            self.aside(|| session.console.data(&text));
        }
    }

    fn ended(&mut self, name: &SiteName, ended: u64) {
        if let Some(progress) = &mut self.progress {
            progress.ended(name.as_str(), ended);
        }
    }
}
