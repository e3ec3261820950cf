//! The progress of a push: a live line for each node in progress, a line that stays for each node
//! that is done, and a summary.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use voipfleet_proto::v1::{self, PushNodeState};

use super::advice::AdviceList;
use crate::Session;
use crate::console::Progress;
use crate::format::{count, printable, thousands, took};
use crate::labels::{self, RolloutState};

/// The nodes of a push of one site.
pub(super) struct ProgressView {
    dry_run: bool,
    /// Whether the push waits for offline nodes.
    waits: bool,
    /// Whether other sites are shown too: then nodes are named `site/node`, and the progress area
    /// is not this site's.
    several: bool,
    site: String,
    generation: u64,
    width: usize,
    ended: BTreeMap<String, PushNodeState>,
    /// How many batches there are, and the last one that has begun; 0: none.
    batches: usize,
    batch: u32,
    /// The first node with each error: those after it refer to it.
    errors: BTreeMap<String, String>,
    offline: BTreeMap<String, v1::PushNode>,
    waiting: BTreeSet<String>,
    advice: AdviceList,
    progress: Option<Progress>,
}

impl ProgressView {
    pub(super) fn new(dry_run: bool, waits: bool) -> Self {
        Self {
            dry_run,
            waits,
            several: false,
            site: String::new(),
            generation: 0,
            width: 0,
            ended: BTreeMap::new(),
            batches: 0,
            batch: 0,
            errors: BTreeMap::new(),
            offline: BTreeMap::new(),
            waiting: BTreeSet::new(),
            advice: AdviceList::default(),
            progress: None,
        }
    }

    /// The view of one site among several.
    pub(super) fn of_several(dry_run: bool, waits: bool) -> Self {
        Self {
            several: true,
            ..Self::new(dry_run, waits)
        }
    }

    /// Whether a state is a node's last one.
    pub(super) fn has_ended(state: PushNodeState) -> bool {
        !matches!(
            state,
            PushNodeState::Unspecified
                | PushNodeState::Waiting
                | PushNodeState::Offline
                | PushNodeState::Sent
                | PushNodeState::Applying
                | PushNodeState::Trial
        )
    }

    /// Runs `print` while the progress area is hidden.
    pub(super) fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.aside(print),
            None => print(),
        }
    }

    pub(super) fn started(&mut self, started: v1::PushStarted, session: &mut Session<'_>) {
        self.generation = started.generation;
        self.batches = started.batches.len();
        self.site = started.site;
        let labels = started.nodes.iter().map(|node| self.label(node).len());
        self.width = labels.max().unwrap_or(0);
        if !session.format.is_table() {
            return;
        }
        let nodes = match started.batches.len() {
            0 | 1 => count(started.nodes.len(), "node"),
            batches => format!(
                "{} in {}",
                count(started.nodes.len(), "node"),
                count(batches, "batch")
            ),
        };
        let site = &self.site;
        let generation = self.generation;
        session
            .console
            .data(&match (self.dry_run, started.changed) {
                (true, true) => {
                    format!("{site}: a push would create generation {generation}, {nodes}\n")
                }
                (false, true) => format!("{site}: generation {generation}, {nodes}\n"),
                (_, false) => format!("{site}: unchanged since generation {generation}\n"),
            });
        if !self.dry_run && !self.several {
            let nodes = started.nodes.len() as u64;
            self.progress = Some(session.console.progress(nodes, "nodes"));
        }
        for node in &started.nodes {
            self.node(node, session);
        }
    }

    pub(super) fn node(&mut self, node: &v1::PushNode, session: &mut Session<'_>) {
        if !session.format.is_table() {
            return;
        }
        let state = node.state();
        if self.ended.get(&node.node) == Some(&state) {
            return;
        }
        self.heading(node, session);
        match state {
            // Shown at the end: it may reconnect while others are in progress.
            PushNodeState::Offline if !self.dry_run => {
                self.offline.insert(node.node.clone(), node.clone());
                if self.waits {
                    self.working(node, "offline, waiting for it to reconnect");
                }
                return;
            }
            PushNodeState::Sent | PushNodeState::Applying | PushNodeState::Trial
                if !self.dry_run =>
            {
                self.waiting.remove(&node.node);
                self.offline.remove(&node.node);
                self.working(node, labels::push(state).0);
                return;
            }
            PushNodeState::Waiting if !self.dry_run => {
                self.waiting.insert(node.node.clone());
                return;
            }
            // Only counted: nothing happened there.
            PushNodeState::Untouched => {
                self.waiting.remove(&node.node);
                self.ended(node, state);
                return;
            }
            _ => {}
        }
        self.waiting.remove(&node.node);
        self.offline.remove(&node.node);
        self.ended(node, state);
        let line = if self.dry_run {
            self.dry_run_line(node)
        } else {
            self.line(node, session)
        };
        self.aside(|| session.console.data(&line));
        self.advice.node(&self.site, node);
    }

    fn ended(&mut self, node: &v1::PushNode, state: PushNodeState) {
        self.ended.insert(node.node.clone(), state);
        let done = self.ended.len() as u64;
        if let Some(progress) = &mut self.progress {
            progress.ended(&node.node, done);
        }
    }

    /// A line for each batch, when the first of its nodes has its turn.
    fn heading(&mut self, node: &v1::PushNode, session: &mut Session<'_>) {
        let idle = matches!(
            node.state(),
            PushNodeState::Waiting | PushNodeState::Offline | PushNodeState::Untouched
        );
        let idle = idle || node.taken_back;
        if self.dry_run || self.batches < 2 || idle || node.batch <= self.batch {
            return;
        }
        self.batch = node.batch;
        let site = if self.several {
            format!("{}: ", self.site)
        } else {
            String::new()
        };
        let line = format!("{site}batch {} of {}\n", node.batch, self.batches);
        self.aside(|| session.console.data(&line));
    }

    /// `sip1`; among several sites `site-a/sip1`.
    fn label(&self, node: &v1::PushNode) -> String {
        if self.several {
            format!("{}/{}", self.site, node.node)
        } else {
            node.node.clone()
        }
    }

    fn working(&mut self, node: &v1::PushNode, doing: &str) {
        let text = format!("{:width$}  {doing}", self.label(node), width = self.width);
        if let Some(progress) = &mut self.progress {
            progress.working(&node.node, text);
        }
    }

    /// `sip1  applied      142 ms`, and below it the node's own message.
    fn line(&mut self, node: &v1::PushNode, session: &Session<'_>) -> String {
        let (state, tone) = labels::push(node.state());
        let state = session.console.out().toned(tone, &format!("{state:11}"));
        let after = match node.state() {
            PushNodeState::Offline => "will get it on reconnecting".to_owned(),
            PushNodeState::Unchanged => format!("already on generation {}", self.generation),
            _ if node.taken_back => "went back with the rollout".to_owned(),
            _ if node.flows_cut > 0 => {
                let cut = count(node.flows_cut, "flow");
                format!("{}, {cut} cut", took(node.elapsed_ms))
            }
            _ => took(node.elapsed_ms),
        };
        let label = self.label(node);
        let mut text = format!("{label:width$}  {state}  {after}\n", width = self.width);
        if node.error.is_empty() {
            return text;
        }
        if let Some(first) = self.errors.get(&node.error) {
            let _ = writeln!(text, "    as {first}");
            return text;
        }
        for line in printable(&node.error).lines() {
            let _ = writeln!(text, "    {line}");
        }
        self.errors.insert(node.error.clone(), label);
        text
    }

    /// A node's line in a dry run.
    fn dry_run_line(&self, node: &v1::PushNode) -> String {
        let what = match node.state() {
            PushNodeState::Unchanged => "would not change",
            PushNodeState::Offline => "would change on reconnecting",
            _ => "would change",
        };
        format!("{:width$}  {what}\n", self.label(node), width = self.width)
    }

    /// Shows the summary; returns what to do next.
    pub(super) fn done(&mut self, done: &v1::PushDone, session: &mut Session<'_>) -> AdviceList {
        self.progress = None;
        let mut advice = std::mem::take(&mut self.advice);
        if !session.format.is_table() {
            return advice;
        }
        for node in std::mem::take(&mut self.offline).into_values() {
            let line = self.line(&node, session);
            session.console.data(&line);
        }
        let summary = if self.dry_run {
            self.dry_run_summary()
        } else {
            Self::summary(done)
        };
        let summary = if self.several {
            format!("{}: {summary}", self.site)
        } else {
            summary
        };
        session.console.data(&summary);
        if self.ended.is_empty() && done.offline == 0 {
            advice.no_nodes(&self.site);
        }
        let untouched = done.waiting + done.offline > 0;
        match RolloutState::of(&done.state) {
            RolloutState::Halted => advice.ended_early(&self.site, untouched),
            RolloutState::Aborted if untouched => advice.ended_early(&self.site, true),
            _ => {}
        }
        advice
    }

    fn dry_run_summary(&self) -> String {
        let stay = self
            .ended
            .values()
            .filter(|state| **state == PushNodeState::Unchanged)
            .count();
        let change = self.ended.len() - stay;
        format!(
            "{} would change, {} would not; nothing was pushed (dry run)\n",
            count(change, "node"),
            thousands(stay as u64)
        )
    }

    fn summary(done: &v1::PushDone) -> String {
        let nodes = done.applied + done.failed + done.rolled_back + done.offline + done.waiting;
        if nodes == 0 {
            return "no nodes yet; push again after enrolling some\n".to_owned();
        }
        if !done.changed && done.applied == nodes {
            let nodes = count(nodes, "node");
            return format!(
                "nothing changed: {nodes} on generation {}\n",
                done.generation
            );
        }
        let mut parts = vec![format!(
            "{} of {} applied",
            thousands(done.applied.into()),
            count(nodes, "node")
        )];
        for (number, word) in [
            (done.failed, "failed"),
            (done.rolled_back, "rolled back"),
            (done.offline, "offline"),
            (done.waiting, "untouched"),
        ] {
            if number > 0 {
                parts.push(format!("{} {word}", thousands(number.into())));
            }
        }
        let cut = match done.flows_cut {
            0 => String::new(),
            number => format!("; {} cut", count(number, "flow")),
        };
        let took = took(done.elapsed_ms);
        let end = match RolloutState::of(&done.state) {
            RolloutState::Halted => "halted: ",
            RolloutState::Aborted => "aborted: ",
            RolloutState::RolledBack => "rolled back: ",
            _ => "",
        };
        let why = if done.why.is_empty() {
            String::new()
        } else {
            format!("    {}\n", printable(&done.why).replace('\n', "\n    "))
        };
        format!("{end}{} in {took}{cut}\n{why}", parts.join(", "))
    }
}
