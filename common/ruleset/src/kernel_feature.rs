//! What rulesets use of the kernel beyond a filter table, and how to find out whether it is there.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use crate::iptables::{filter_section, reject_word};
use crate::ruleset::{Family, Rule, Ruleset, Verdict};

/// The chain and the set of a trial.
const CHAIN: &str = "VF-TRIAL";
const SET: &str = "vf-trial";

/// A match, a target or a kind of set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelFeature {
    /// The filter table itself.
    FilterTable,
    /// Sets of type `hash:net`.
    HashNet,
    /// Rules that match a set.
    SetMatch,
    Multiport,
    Conntrack,
    Hashlimit,
    Limit,
    Comment,
    Log,
    Reject,
}

impl KernelFeature {
    /// Each but the filter table, without which none can be tried.
    pub const ALL: [KernelFeature; 9] = [
        KernelFeature::HashNet,
        KernelFeature::SetMatch,
        KernelFeature::Multiport,
        KernelFeature::Conntrack,
        KernelFeature::Hashlimit,
        KernelFeature::Limit,
        KernelFeature::Comment,
        KernelFeature::Log,
        KernelFeature::Reject,
    ];

    /// The word of the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            KernelFeature::FilterTable => "filter",
            KernelFeature::HashNet => "hash:net",
            KernelFeature::SetMatch => "set",
            KernelFeature::Multiport => "multiport",
            KernelFeature::Conntrack => "conntrack",
            KernelFeature::Hashlimit => "hashlimit",
            KernelFeature::Limit => "limit",
            KernelFeature::Comment => "comment",
            KernelFeature::Log => "log",
            KernelFeature::Reject => "reject",
        }
    }

    /// The kernel module that brings it.
    pub fn module(self, family: Family, legacy: bool) -> &'static str {
        match (self, family) {
            (KernelFeature::FilterTable, _) if !legacy => "nf_tables",
            (KernelFeature::FilterTable, Family::V4) => "iptable_filter",
            (KernelFeature::FilterTable, Family::V6) => "ip6table_filter",
            (KernelFeature::HashNet, _) => "ip_set_hash_net",
            (KernelFeature::SetMatch, _) => "xt_set",
            (KernelFeature::Multiport, _) => "xt_multiport",
            (KernelFeature::Conntrack, _) => "xt_conntrack",
            (KernelFeature::Hashlimit, _) => "xt_hashlimit",
            (KernelFeature::Limit, _) => "xt_limit",
            (KernelFeature::Comment, _) => "xt_comment",
            (KernelFeature::Log, _) => "xt_LOG",
            (KernelFeature::Reject, Family::V4) => "ipt_REJECT",
            (KernelFeature::Reject, Family::V6) => "ip6t_REJECT",
        }
    }

    /// Whether `ruleset`, with the agent's own rules, needs it in `family`.
    pub fn is_needed(self, ruleset: &Ruleset, family: Family) -> bool {
        if !ruleset.filters(family) {
            return false;
        }
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let mut rules = rules.filter(|rule| rule.scope.covers(family));
        let mut any = |uses: fn(&Rule) -> bool| rules.any(uses);
        match self {
            // The failsafe chain has these.
            KernelFeature::FilterTable
            | KernelFeature::Comment
            | KernelFeature::Multiport
            | KernelFeature::Conntrack => true,
            KernelFeature::HashNet => ruleset.sets_of(family).next().is_some(),
            KernelFeature::SetMatch => any(|rule| rule.source_set.is_some()),
            KernelFeature::Hashlimit => any(|rule| rule.source_limit.is_some()),
            KernelFeature::Limit => any(|rule| rule.limit.is_some()),
            KernelFeature::Log => any(|rule| matches!(rule.verdict, Verdict::Log(_))),
            KernelFeature::Reject => any(|rule| rule.verdict == Verdict::Reject),
        }
    }
}

impl fmt::Display for KernelFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KernelFeature::FilterTable => "filter table",
            KernelFeature::HashNet => "sets of type hash:net",
            KernelFeature::SetMatch => "match of sets",
            KernelFeature::Multiport => "match of several ports",
            KernelFeature::Conntrack => "connection tracking match",
            KernelFeature::Hashlimit => "match of rates by source (hashlimit)",
            KernelFeature::Limit => "match of rates (limit)",
            KernelFeature::Comment => "comments of rules",
            KernelFeature::Log => "LOG target",
            KernelFeature::Reject => "REJECT target",
        })
    }
}

/// A word that is no feature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kernel feature")]
pub struct UnknownFeature;

impl FromStr for KernelFeature {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Self, UnknownFeature> {
        let mut all = [KernelFeature::FilterTable].into_iter().chain(Self::ALL);
        all.find(|feature| feature.as_str() == text)
            .ok_or(UnknownFeature)
    }
}

/// Input of `ipset restore` for the sets that a trial of `features` needs; may be empty.
pub fn trial_set(family: Family, features: &[KernelFeature]) -> String {
    let needs = |feature| features.contains(&feature);
    if !needs(KernelFeature::HashNet) && !needs(KernelFeature::SetMatch) {
        return String::new();
    }
    let inet = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    format!("create {SET} hash:net family {inet} maxelem 1024 timeout 0\n")
}

/// Input of `iptables-restore --noflush` with a rule for each of `features`.
pub fn trial_rule(family: Family, features: &[KernelFeature]) -> String {
    let mut lines = format!(":{CHAIN} - [0:0]\n");
    for feature in features {
        let rule = match feature {
            KernelFeature::FilterTable | KernelFeature::HashNet => continue,
            KernelFeature::SetMatch => format!("-m set --match-set {SET} src -j ACCEPT"),
            KernelFeature::Multiport => "-p udp -m multiport --dports 1,2 -j ACCEPT".to_owned(),
            KernelFeature::Conntrack => "-m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned(),
            KernelFeature::Hashlimit => {
                "-m hashlimit --hashlimit-above 20/sec --hashlimit-burst 20 --hashlimit-mode \
                 srcip --hashlimit-name vf-trial --hashlimit-htable-expire 3000 -j DROP"
                    .to_owned()
            }
            KernelFeature::Limit => "-m limit --limit 10/min --limit-burst 20 -j ACCEPT".to_owned(),
            KernelFeature::Comment => "-m comment --comment \"vf:trial\" -j ACCEPT".to_owned(),
            KernelFeature::Log => "-j LOG --log-prefix \"vf: \"".to_owned(),
            KernelFeature::Reject => format!("-j REJECT --reject-with {}", reject_word(family)),
        };
        let _ = writeln!(lines, "-A {CHAIN} {rule}");
    }
    filter_section(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_wire_are_read_back() {
        for feature in KernelFeature::ALL {
            assert_eq!(feature.as_str().parse(), Ok(feature));
        }
        assert_eq!("filter".parse(), Ok(KernelFeature::FilterTable));
        assert_eq!("nosuch".parse::<KernelFeature>(), Err(UnknownFeature));
    }
}
