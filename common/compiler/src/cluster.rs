//! The rules that let the members of a cluster in.

use voipfleet_policy::{NodeCluster, Trust};
use voipfleet_ruleset::ruleset::{
    InvalidToken, Protocol, Rule, RuleSubject, Scope, SetStem, Verdict,
};

use super::openings::from_source;
use super::set_names::{self, CLUSTER_STEM};
use super::sources::Source;

/// How members are let in on all nodes of a site.
#[derive(Debug)]
pub(super) struct Members {
    /// Their set; none: there are none, ever.
    pub(super) source: Option<Source>,
    pub(super) trust: Trust,
    /// They are known by nothing but an interface: what operators block comes before them, and no
    /// rule lets them in by another one.
    pub(super) by_interface_alone: bool,
}

impl Members {
    /// The rules that let members in before anything else.
    pub(super) fn rules(&self, node: &NodeCluster<'_>) -> Result<Vec<Rule>, InvalidToken> {
        let Some(source) = &self.source else {
            return Ok(Vec::new());
        };
        let mut rules = Vec::new();
        let full = self.trust == Trust::Full;
        if full {
            let rule = set_names::rule(RuleSubject::Cluster, &[], Verdict::Accept)?;
            rules.extend(from_source(rule, source));
        }
        for protocol in &node.protocols {
            if full && node.interface.is_none() {
                break; // everything is let in already
            }
            let name = protocol.to_string();
            let subject = RuleSubject::Cluster;
            let mut rule = set_names::rule(subject, &[Some(&name)], Verdict::Accept)?;
            rule.protocol = Some(Protocol::Other(*protocol));
            if protocol.is_v4_only() {
                rule.scope = Scope::V4;
            }
            rules.extend(from_source(rule, source));
        }
        Ok(rules)
    }

    /// Limits rules about members to the interface by which they come to this node.
    pub(super) fn limit<'r>(
        &self,
        rules: impl Iterator<Item = &'r mut Rule>,
        node: &NodeCluster<'_>,
    ) {
        let Some(interface) = node.interface else {
            return;
        };
        for rule in rules {
            let of_members = rule.source_set.as_ref().map(SetStem::as_str) == Some(CLUSTER_STEM);
            // The document names the members, and these packets come where they come: VRRP on
            // the public interface. Deny lists hold no member wherever its packets come from.
            let anywhere = matches!(rule.protocol, Some(Protocol::Other(_)))
                || rule.subject == Some(RuleSubject::DenyExempt);
            if of_members && rule.in_interface.is_none() && (self.by_interface_alone || !anywhere) {
                rule.in_interface = Some(interface.clone());
            }
        }
    }
}
