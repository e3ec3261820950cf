//! Which nodes enforce an emergency entry.

use serde::Serialize;
use voipfleet_proto::v1::{self, EnforcementState};

use super::{ExceptionEntry, OpenEntry};
use crate::Session;
use crate::console::Console;
use crate::failure::{ExitStatus, Failure};
use crate::format::{by_text, count, node_list, or_null, printable};

/// The names are a contract.
#[derive(Serialize)]
pub(super) struct Enforcement {
    pub(super) exceptions: Vec<ExceptionEntry>,
    pub(super) open: Option<OpenEntry>,
    changed: bool,
    nodes: usize,
    enforced: usize,
    sites: Vec<SiteEntry>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct SiteEntry {
    site: String,
    observe: bool,
    nodes: Vec<NodeEntry>,
}

#[derive(Serialize)]
struct NodeEntry {
    node: String,
    state: NodeState,
    error: Option<String>,
}

/// Whether a node enforces it; the words are a contract.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum NodeState {
    Enforced,
    Offline,
    /// Its ruleset has no set for it yet.
    NotPushed,
    /// It is connected, and has not confirmed it.
    Waiting,
}

impl NodeState {
    fn of(state: EnforcementState) -> Self {
        match state {
            EnforcementState::Enforced => Self::Enforced,
            EnforcementState::Offline => Self::Offline,
            EnforcementState::NotPushed => Self::NotPushed,
            EnforcementState::Waiting | EnforcementState::Unspecified => Self::Waiting,
        }
    }
}

impl Enforcement {
    pub(super) fn of(answer: v1::EmergencyResponse) -> Self {
        let node = |node: v1::NodeEnforcement| NodeEntry {
            state: NodeState::of(node.state()),
            node: node.node,
            error: or_null(node.error),
        };
        let site = |site: v1::SiteEnforcement| SiteEntry {
            site: site.site,
            observe: site.observe,
            nodes: site.nodes.into_iter().map(node).collect(),
        };
        let sites: Vec<SiteEntry> = answer.sites.into_iter().map(site).collect();
        let nodes = || sites.iter().flat_map(|site| &site.nodes);
        Self {
            exceptions: answer
                .exceptions
                .into_iter()
                .map(ExceptionEntry::of)
                .collect(),
            open: answer.open.map(OpenEntry::of),
            changed: answer.changed,
            nodes: nodes().count(),
            enforced: nodes()
                .filter(|node| node.state == NodeState::Enforced)
                .count(),
            sites,
            notes: answer.notes,
        }
    }

    /// The sites with nodes in a state, and those nodes.
    fn in_state(&self, state: NodeState) -> Vec<(&SiteEntry, Vec<&NodeEntry>)> {
        self.sites
            .iter()
            .filter_map(|site| {
                let nodes: Vec<_> = site.nodes.iter().filter(|n| n.state == state).collect();
                (!nodes.is_empty()).then_some((site, nodes))
            })
            .collect()
    }

    /// `enforced on 3 of 3 nodes`; empty if nothing changed.
    fn summary(&self) -> String {
        match (self.changed, self.nodes) {
            (false, _) => String::new(),
            (true, 0) => "no nodes to enforce it yet\n".to_owned(),
            (true, all) => format!("enforced on {} of {}\n", self.enforced, count(all, "node")),
        }
    }
}

fn names(nodes: &[&NodeEntry]) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    node_list(&names)
}

/// Shows the entry (`text`) and which nodes enforce it. It has succeeded if every connected node
/// does.
pub(super) fn show(
    enforcement: &Enforcement,
    text: &str,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    if !session.print(enforcement)? {
        let text = printable(text) + &enforcement.summary();
        session.console.data(&text);
    }
    for note in &enforcement.notes {
        session.console.warning(note);
    }
    enforcement.report_problems(session.console);
    let waiting = enforcement.in_state(NodeState::Waiting);
    let not_pushed = enforcement.in_state(NodeState::NotPushed);
    Ok(if waiting.is_empty() && not_pushed.is_empty() {
        ExitStatus::Done
    } else {
        ExitStatus::NotEverywhere
    })
}

impl Enforcement {
    /// Reports nodes that do not enforce it, and what to do about them.
    fn report_problems(&self, console: &mut Console) {
        let observing: Vec<&str> = self
            .sites
            .iter()
            .filter(|site| site.observe)
            .map(|site| site.site.as_str())
            .collect();
        if !observing.is_empty() {
            console.warning(&format!(
                "{}: in observe mode, nothing is dropped",
                observing.join(", ")
            ));
        }
        let waiting = self.in_state(NodeState::Waiting);
        for (site, nodes) in &waiting {
            for (nodes, error) in by_text(nodes.iter().map(|node| (*node, &node.error))) {
                let why = error.as_deref();
                let why = why.unwrap_or("no confirmation in time; a push may be in progress");
                console.warning(&format!(
                    "{} of {}: connected, but not enforcing it: {why}",
                    names(&nodes),
                    site.site
                ));
            }
        }
        let not_pushed = self.in_state(NodeState::NotPushed);
        for (site, nodes) in &not_pushed {
            console.warning(&format!(
                "{} of {}: the current ruleset has no place for it",
                names(nodes),
                site.site
            ));
        }
        for (site, nodes) in self.in_state(NodeState::Offline) {
            console.note(&format!(
                "{} of {}: offline; will get it on reconnecting",
                names(&nodes),
                site.site
            ));
        }
        for (site, _) in &waiting {
            console.hint(&format!("check the nodes: voipctl status {}", site.site));
        }
        if !not_pushed.is_empty() {
            let sites: Vec<&str> = not_pushed
                .iter()
                .map(|(site, _)| site.site.as_str())
                .collect();
            console.hint(&format!("push first: voipctl push {}", sites.join(" ")));
        }
    }
}
