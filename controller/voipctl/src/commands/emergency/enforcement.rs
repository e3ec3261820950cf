//! Who enforces what was decided.

use serde::Serialize;
use voipfleet_proto::v1::{self, EnforcementState};

use super::{ExceptionEntry, OpenEntry};
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, or_null, printable};

/// Nodes of one kind that are named on one line.
const NAMED: usize = 8;

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
    state: &'static str,
    error: Option<String>,
}

fn word(state: EnforcementState) -> &'static str {
    match state {
        EnforcementState::Enforced => "enforced",
        EnforcementState::Offline => "offline",
        EnforcementState::NotPushed => "not_pushed",
        EnforcementState::Waiting | EnforcementState::Unspecified => "waiting",
    }
}

impl Enforcement {
    pub(super) fn of(answer: v1::EmergencyResponse) -> Self {
        let node = |node: v1::NodeEnforcement| NodeEntry {
            state: word(node.state()),
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
            enforced: nodes().filter(|node| node.state == "enforced").count(),
            sites,
            notes: answer.notes,
        }
    }

    /// The nodes of a site in a state, by name.
    fn in_state(&self, state: &str) -> impl Iterator<Item = (&SiteEntry, Vec<&NodeEntry>)> {
        self.sites.iter().filter_map(move |site| {
            let nodes: Vec<_> = site.nodes.iter().filter(|n| n.state == state).collect();
            (!nodes.is_empty()).then_some((site, nodes))
        })
    }
}

fn names(nodes: &[&NodeEntry]) -> String {
    let named = nodes.iter().take(NAMED).map(|node| printable(&node.node));
    let named: Vec<_> = named.collect();
    match nodes.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Shows what was decided (`text`) and who enforces it. Every connected node must, or it did not
/// succeed.
pub(super) fn show(
    outcome: &Enforcement,
    text: &str,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    if !session.print(outcome)? {
        let text = printable(text);
        let enforced = match (outcome.changed, outcome.nodes) {
            (false, _) => String::new(),
            (true, 0) => "no node is there yet that could enforce it\n".to_owned(),
            (true, all) => format!(
                "enforced on {} of {}\n",
                outcome.enforced,
                count(all, "node")
            ),
        };
        session.console.data(&(text + &enforced));
    }
    let console = &mut *session.console;
    for note in &outcome.notes {
        console.warning(note);
    }
    for site in outcome.sites.iter().filter(|site| site.observe) {
        console.warning(&format!(
            "{} only observes: nothing is dropped there",
            site.site
        ));
    }
    for (site, nodes) in outcome.in_state("offline") {
        let nodes = names(&nodes);
        console.note(&format!(
            "offline in {}, and told when they return: {nodes}",
            site.site
        ));
    }
    for (site, nodes) in outcome.in_state("waiting") {
        for node in nodes {
            let why = node.error.as_deref();
            let why = why.unwrap_or("it did not say so in time; it may be in the middle of a push");
            let (site, node) = (&site.site, &node.node);
            console.warning(&format!(
                "{node} of {site} is connected and does not enforce it: {why}"
            ));
        }
        console.hint(&format!("look at it: voipctl status {}", site.site));
    }
    for (site, nodes) in outcome.in_state("not_pushed") {
        let nodes = names(&nodes);
        console.warning(&format!(
            "what these nodes of {} run has no place for it: {nodes}",
            site.site
        ));
        console.hint(&format!("push first: voipctl push {}", site.site));
    }
    let missing = outcome
        .in_state("waiting")
        .chain(outcome.in_state("not_pushed"))
        .next()
        .is_some();
    Ok(if missing {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}
