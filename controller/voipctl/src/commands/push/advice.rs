//! What to do about nodes that did not get the new generation, each piece of advice once.

use voipfleet_proto::v1::{self, PushNodeState};

use crate::format::{by_text, node_list};

/// A piece of advice.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Advice {
    /// A kernel module is missing on the node.
    LoadModule(String),
    /// The node rejected its ruleset, and reported why.
    FixError,
    /// The node undid the change.
    CheckRules,
    /// The node has not answered.
    CheckNode,
    /// The site has no nodes.
    Enrol,
    /// A rollout ended early, and some nodes were not touched.
    UndoOrFix,
    /// A rollout ended early.
    CheckRollout,
}

/// The advice of a push, for nodes (or, without a node, for sites).
#[derive(Default)]
pub(super) struct AdviceList {
    entries: Vec<(Subject, Advice)>,
}

struct Subject {
    site: String,
    node: Option<String>,
}

impl AdviceList {
    /// Adds the advice for a node in its last state.
    pub(super) fn node(&mut self, site: &str, node: &v1::PushNode) {
        let advice = match node.state() {
            PushNodeState::Rejected | PushNodeState::Failed => {
                missing_module(&node.error).map_or(Advice::FixError, Advice::LoadModule)
            }
            // It went back because others failed.
            PushNodeState::RolledBack if node.taken_back => return,
            PushNodeState::RolledBack => Advice::CheckRules,
            PushNodeState::TimedOut => Advice::CheckNode,
            _ => return,
        };
        let subject = Subject {
            site: site.to_owned(),
            node: Some(node.node.clone()),
        };
        self.entries.push((subject, advice));
    }

    /// Adds the advice for a site without nodes.
    pub(super) fn no_nodes(&mut self, site: &str) {
        self.site(site, Advice::Enrol);
    }

    /// Adds the advice for a site whose rollout ended early.
    pub(super) fn ended_early(&mut self, site: &str, untouched: bool) {
        let advice = if untouched {
            Advice::UndoOrFix
        } else {
            Advice::CheckRollout
        };
        self.site(site, advice);
    }

    fn site(&mut self, site: &str, advice: Advice) {
        let subject = Subject {
            site: site.to_owned(),
            node: None,
        };
        self.entries.push((subject, advice));
    }

    /// Adds the advice of another push.
    pub(super) fn append(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// A line for each piece of advice, with the nodes or sites that it is for.
    pub(super) fn lines(&self) -> Vec<String> {
        let entries = self.entries.iter();
        by_text(entries.map(|(subject, advice)| (subject, advice)))
            .into_iter()
            .filter_map(|(subjects, advice)| Some(line(&subjects, subjects.first()?, advice)))
            .collect()
    }
}

fn line(subjects: &[&Subject], first: &Subject, advice: &Advice) -> String {
    let mut sites: Vec<&str> = subjects.iter().map(|one| one.site.as_str()).collect();
    sites.dedup();
    let several = sites.len() > 1;
    let names: Vec<String> = subjects
        .iter()
        .filter_map(|one| match (&one.node, several) {
            (Some(node), true) => Some(format!("{}/{node}", one.site)),
            (node, _) => node.clone(),
        })
        .collect();
    let nodes = node_list(&names);
    let site = &first.site;
    let push = format!("push again: voipctl push {}", sites.join(" "));
    match advice {
        Advice::LoadModule(module) => format!(
            "{nodes}: not changed; load the missing kernel module (modprobe {module}), then {push}"
        ),
        Advice::FixError => {
            format!("{nodes}: not changed; fix the reported error, then {push}")
        }
        Advice::CheckRules => {
            let node = first.node.as_deref().unwrap_or_default();
            format!(
                "{nodes}: the old ruleset is back, since the controller or a probe was unreachable \
                 under the new one; check its rules: voipctl render {site} --node {node}"
            )
        }
        Advice::CheckNode if several => {
            format!("{nodes}: no answer in time; check the nodes: voipctl status")
        }
        Advice::CheckNode => {
            format!("{nodes}: no answer in time; check the nodes: voipctl status {site}")
        }
        Advice::Enrol => {
            let sites = sites.join(", ");
            format!(
                "{sites}: no nodes yet; to enrol one, for example with role sip: voipctl token \
                 create --site {site} --role sip"
            )
        }
        Advice::UndoOrFix => {
            let sites = sites.join(", ");
            format!(
                "{sites}: untouched nodes keep their ruleset; fix the cause and push again, or undo \
                 the rest: voipctl rollout abort {site} --rollback"
            )
        }
        Advice::CheckRollout if several => "check each node: voipctl rollout status".to_owned(),
        Advice::CheckRollout => format!("check each node: voipctl rollout status {site}"),
    }
}

/// The kernel module of a match or target that iptables could not load, from its own message.
fn missing_module(error: &str) -> Option<String> {
    let (_, rest) = error
        .split_once("load match `")
        .or_else(|| error.split_once("load target `"))?;
    let (name, _) = rest.split_once('\'')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then(|| format!("xt_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_advice_is_given_once() {
        let mut list = AdviceList::default();
        for number in 1..=12 {
            let node = v1::PushNode {
                node: format!("sip{number}"),
                state: PushNodeState::TimedOut.into(),
                ..v1::PushNode::default()
            };
            list.node("site-a", &node);
        }
        assert_eq!(
            list.lines(),
            [
                "12 nodes (sip1, sip2, sip3 and 9 more): no answer in time; check the nodes: \
                 voipctl status site-a"
            ]
        );
    }
}
