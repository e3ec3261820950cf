//! A push as people watch it: a live line for each node under way, a line that stays for each
//! that has ended, and a summary.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_proto::v1::{self, PushNodeState};

use crate::Session;
use crate::console::Progress;
use crate::format::{count, printable, took};
use crate::labels;

/// The nodes of a push, as far as it has come.
pub(super) struct ProgressView {
    dry_run: bool,
    waits: bool,
    /// Others are shown beside it: the live area is theirs too.
    several: bool,
    site: String,
    generation: u64,
    width: usize,
    ended: BTreeMap<String, PushNodeState>,
    offline: BTreeMap<String, v1::PushNode>,
    waiting: BTreeSet<String>,
    advice: Vec<String>,
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
            offline: BTreeMap::new(),
            waiting: BTreeSet::new(),
            advice: Vec::new(),
            progress: None,
        }
    }

    /// The view of one site among several, whose nodes are named `site/node`.
    pub(super) fn of_several(dry_run: bool, waits: bool) -> Self {
        Self {
            several: true,
            ..Self::new(dry_run, waits)
        }
    }

    /// Nothing more is awaited of a node in that state.
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

    /// Runs `print` while the live area is out of the way.
    pub(super) fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.progress {
            Some(progress) => progress.aside(print),
            None => print(),
        }
    }

    pub(super) fn started(&mut self, started: v1::PushStarted, session: &mut Session<'_>) {
        self.width = started
            .nodes
            .iter()
            .map(|node| node.node.len())
            .max()
            .unwrap_or(0);
        self.generation = started.generation;
        self.site = started.site;
        if !session.format.is_table() {
            return;
        }
        let nodes = match started.batches.len() {
            0 | 1 => count(started.nodes.len(), "node"),
            batches => format!(
                "{} in {}",
                count(started.nodes.len(), "node"),
                count(batches, "batch").replace("batchs", "batches")
            ),
        };
        let site = &self.site;
        let generation = self.generation;
        session
            .console
            .data(&match (self.dry_run, started.changed) {
                (true, true) => {
                    format!("{site}: a push would be generation {generation}, {nodes}\n")
                }
                (false, true) => format!("{site}: generation {generation}, {nodes}\n"),
                (_, false) => format!("{site}: nothing changed since generation {generation}\n"),
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
        match state {
            // Told at the end: it may come back while others are under way.
            PushNodeState::Offline if !self.dry_run => {
                self.offline.insert(node.node.clone(), node.clone());
                if self.waits {
                    self.working(node, "offline, waiting for it");
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
            _ => {}
        }
        self.waiting.remove(&node.node);
        self.offline.remove(&node.node);
        self.ended.insert(node.node.clone(), state);
        let done = self.ended.len() as u64;
        if let Some(progress) = &mut self.progress {
            progress.ended(&node.node, done);
        }
        let line = if self.dry_run {
            self.foreseen(node)
        } else {
            self.line(node, session)
        };
        self.aside(|| session.console.data(&line));
        self.advice.extend(advice(&self.site, node));
    }

    fn working(&mut self, node: &v1::PushNode, doing: &str) {
        let text = format!("{:width$}  {doing}", node.node, width = self.width);
        if let Some(progress) = &mut self.progress {
            progress.working(&node.node, text);
        }
    }

    /// `sip1  applied      142 ms`, and beneath it the node's own words.
    fn line(&self, node: &v1::PushNode, session: &Session<'_>) -> String {
        let (state, tone) = labels::push(node.state());
        let state = session.console.out().toned(tone, &format!("{state:11}"));
        let after = match node.state() {
            PushNodeState::Offline => "will get it when it returns".to_owned(),
            PushNodeState::Unchanged => format!("runs generation {} already", self.generation),
            _ if node.flows_cut > 0 => {
                let cut = count(node.flows_cut, "flow");
                format!("{}, {cut} cut", took(node.elapsed_ms))
            }
            _ => took(node.elapsed_ms),
        };
        let mut text = format!(
            "{:width$}  {state}  {after}\n",
            node.node,
            width = self.width
        );
        for line in printable(&node.error).lines() {
            text.push_str("    ");
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// What a dry run says of a node.
    fn foreseen(&self, node: &v1::PushNode) -> String {
        let what = match node.state() {
            PushNodeState::Unchanged => "would stay as it is",
            PushNodeState::Offline => "would change when it returns",
            _ => "would change",
        };
        format!("{:width$}  {what}\n", node.node, width = self.width)
    }

    pub(super) fn done(&mut self, done: &v1::PushDone, session: &mut Session<'_>) {
        self.progress = None;
        if !session.format.is_table() {
            return;
        }
        for node in std::mem::take(&mut self.offline).into_values() {
            let line = self.line(&node, session);
            session.console.data(&line);
        }
        let summary = if self.dry_run {
            self.foresight()
        } else {
            self.summary(done)
        };
        let summary = if self.several {
            format!("{}: {summary}", self.site)
        } else {
            summary
        };
        session.console.data(&summary);
        if self.ended.is_empty() && done.offline == 0 {
            self.advice.push(format!(
                "let a node enrol: voipctl token create --site {} --role ROLE",
                self.site
            ));
        }
        for advice in &self.advice {
            session.console.hint(advice);
        }
        let site = &self.site;
        match done.state.as_str() {
            "halted" | "aborted" if done.waiting + done.offline > 0 => session.console.hint(&format!(
                "untouched nodes keep what they run; take back what was changed: voipctl rollout \
                 abort {site} --rollback; or mend it and push again"
            )),
            "halted" => session
                .console
                .hint(&format!("see each node: voipctl rollout status {site}")),
            _ => {}
        }
    }

    fn foresight(&self) -> String {
        let stay = self
            .ended
            .values()
            .filter(|state| **state == PushNodeState::Unchanged)
            .count();
        let change = self.ended.len() - stay;
        format!(
            "{} would change, {stay} would not; nothing was pushed (dry run)\n",
            count(change, "node")
        )
    }

    fn summary(&self, done: &v1::PushDone) -> String {
        let nodes = done.applied + done.failed + done.rolled_back + done.offline + done.waiting;
        if nodes == 0 {
            return format!(
                "{} has no nodes yet; push again when they have enrolled\n",
                self.site
            );
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
            done.applied,
            count(nodes, "node")
        )];
        for (number, word) in [
            (done.failed, "failed"),
            (done.rolled_back, "rolled back"),
            (done.offline, "offline"),
            (done.waiting, "untouched"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {word}"));
            }
        }
        let cut = match done.flows_cut {
            0 => String::new(),
            number => format!("; {} cut", count(number, "flow")),
        };
        let took = took(done.elapsed_ms);
        let end = match done.state.as_str() {
            "halted" => "halted: ",
            "aborted" => "aborted: ",
            "rolled_back" => "taken back: ",
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

/// What to do about a node that did not take it.
fn advice(site: &str, node: &v1::PushNode) -> Option<String> {
    let name = node.node.rsplit('/').next().unwrap_or_default();
    let again = format!("then again: voipctl push {site}");
    let kernel = missing_module(&node.error)
        .map(|module| format!("load what its kernel lacks (modprobe {module})"));
    match node.state() {
        PushNodeState::Rejected | PushNodeState::Failed => {
            let mend = kernel.unwrap_or_else(|| "mend what it names".to_owned());
            Some(format!("{name} keeps its old ruleset; {mend}, {again}"))
        }
        PushNodeState::RolledBack => Some(format!(
            "{name} went back to its old ruleset: under the new one it did not reach the \
             controller or a probe; see what would cut it off (voipctl render {site} --node \
             {name}), {again}"
        )),
        PushNodeState::TimedOut => Some(format!(
            "{name} did not answer in time; see whether it is there, and how it stands: voipctl \
             status {site}"
        )),
        _ => None,
    }
}

/// The kernel module of a match or target that iptables could not load.
fn missing_module(error: &str) -> Option<String> {
    let (_, rest) = error
        .split_once("load match `")
        .or_else(|| error.split_once("load target `"))?;
    let (name, _) = rest.split_once('\'')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then(|| format!("xt_{name}"))
}
