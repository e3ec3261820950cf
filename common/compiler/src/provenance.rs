//! Who asked for what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_ruleset::ruleset::{Label, SetName, SetStem};

/// One prefix as somebody wrote it, and who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) net: IpNet,
    /// `tenant acme: offices`; one text for all prefixes of a network.
    pub(super) origin: Arc<str>,
}

/// Who asked for the elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    /// One for all: a list.
    Whole(Arc<str>),
    /// Each its own, ascending by prefix.
    Each(Vec<Member>),
}

/// Who asked for every opening of a site: the same for all its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    sets: BTreeMap<SetStem, Origins>,
    rules: BTreeMap<Label, String>,
}

impl Provenance {
    /// Who asked for `element` of `set`, `tenant acme: offices`, distinct and sorted. An element
    /// stands for all that was written inside it: an office within a tenant's wider network has
    /// no element of its own.
    pub fn of(&self, set: &SetName, element: &IpNet) -> Vec<&str> {
        match self.sets.get(&set.stem) {
            None => Vec::new(),
            Some(Origins::Whole(origin)) => vec![origin],
            Some(Origins::Each(members)) => {
                let start = members.partition_point(|member| member.net < element.trunc());
                let inside = members
                    .iter()
                    .skip(start)
                    .take_while(|member| element.contains(&member.net));
                // hash:net holds no prefix of length 0; its halves were asked for as a whole.
                let around = members
                    .iter()
                    .filter(|member| member.net.prefix_len() == 0 && member.net.contains(element));
                let distinct: BTreeSet<&str> = if element.prefix_len() == 1 {
                    inside.chain(around).map(|m| m.origin.as_ref()).collect()
                } else {
                    inside.map(|m| m.origin.as_ref()).collect()
                };
                distinct.into_iter().collect()
            }
        }
    }

    /// Which field asked for the rule, or that the catalogue did: `site site-a: services.sip`.
    pub fn of_rule(&self, label: &Label) -> Option<&str> {
        self.rules.get(label).map(String::as_str)
    }

    pub(super) fn record_rule(&mut self, label: Label, origin: &str) {
        self.rules.insert(label, origin.to_owned());
    }

    pub(super) fn record_whole(&mut self, stem: SetStem, origin: Arc<str>) {
        self.sets.insert(stem, Origins::Whole(origin));
    }

    pub(super) fn record(&mut self, stem: SetStem, mut members: Vec<Member>) {
        members.sort_unstable_by(|a, b| (a.net, &a.origin).cmp(&(b.net, &b.origin)));
        self.sets.insert(stem, Origins::Each(members));
    }
}
