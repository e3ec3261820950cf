//! Who can reach what, before and after: by address and port, whatever the sets and rules are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_policy::AddressSpace;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{
    Family, INPUT_CHAIN, PortRange, Protocol, Rule, RuleSubject, Ruleset, SetName, Verdict,
};

use super::lines::{Subject, enforced, protocol_name};
use super::owners::Owners;
use super::sets::{Id, Pool};
use crate::DENY_CHAIN;
use crate::address::{minimal, subtract};

/// An owner of networks that reaches more than before, or less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whose networks they are.
    pub owner: NetworkOwner,
    /// More, or else less.
    pub gains: bool,
    /// Which of its networks; none are listed of the world.
    pub networks: Vec<IpNet>,
    /// What, and where.
    pub reach: Vec<Reach>,
}

/// Whose networks reach something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkOwner {
    /// `tenant acme`, `provider trunkco`, `site site-a`.
    Named(Arc<str>),
    /// Addresses that are in no document.
    Unknown,
    /// So much of the address space that it has no owner.
    World,
}

impl fmt::Display for NetworkOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named(name) => name,
            Self::Unknown => "unknown owner",
            Self::World => "world",
        })
    }
}

/// Services on nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Ascending by text.
    pub what: Vec<Reachable>,
    /// Ascending.
    pub nodes: Vec<NodeName>,
}

/// Ports or all of a node, as far as one part of the policy opens them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reachable {
    /// `sip 5060/udp,tcp`; `everything`, of what is denied now or no longer.
    pub text: String,
    /// The part of the policy; `None` where the rules do not name it, and of everything.
    pub subject: Option<RuleSubject>,
}

impl fmt::Display for Reachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The part of the policy that opens something, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct OpenedBy {
    text: String,
    subject: Option<RuleSubject>,
}

/// Where an opening lets in from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    World,
    Set(Id),
    Net(IpNet),
}

/// What kind of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Of any protocol.
    Any,
    /// To ports.
    Ports(Protocol),
    /// ICMP of a type.
    Icmp(Protocol, u8),
    /// All of a protocol.
    Whole(Protocol),
}

#[derive(Debug)]
struct Opening {
    kind: Kind,
    range: PortRange,
    opened_by: OpenedBy,
    source: Source,
}

/// Sources before and after of something that changed.
type Pair = (Vec<Source>, Vec<Source>);

/// What changed, each pair of sources once.
#[derive(Debug, Default)]
pub(super) struct Accesses<'r> {
    opened: BTreeMap<Pair, BTreeMap<Vec<Reachable>, Vec<NodeName>>>,
    denied: BTreeMap<Pair, Vec<NodeName>>,
    pool: BTreeMap<Id, &'r voipfleet_ruleset::ruleset::AddressSet>,
}

impl<'r> Accesses<'r> {
    /// Compares what a node lets in.
    pub(super) fn compare(
        &mut self,
        node: &NodeName,
        before: &'r Ruleset,
        after: &'r Ruleset,
        pool: &mut Pool<'r>,
    ) {
        let (was, was_denied) = self.openings(before, pool);
        let (now, now_denied) = self.openings(after, pool);
        if was_denied != now_denied {
            let nodes = self.denied.entry((was_denied, now_denied)).or_default();
            nodes.push(node.clone());
        }
        let mut changed: BTreeMap<Pair, Vec<(Kind, PortRange, OpenedBy)>> = BTreeMap::new();
        let kinds: BTreeSet<Kind> = was.iter().chain(&now).map(|opening| opening.kind).collect();
        for kind in kinds {
            let of = |openings: &[Opening]| -> Vec<usize> {
                let numbered = openings.iter().enumerate();
                let of_kind = numbered.filter(|(_, opening)| opening.kind == kind);
                of_kind.map(|(at, _)| at).collect()
            };
            let (was_here, now_here) = (of(&was), of(&now));
            let here = |all: &[usize], openings: &'_ [Opening]| -> BTreeSet<u32> {
                let openings = all.iter().filter_map(|at| openings.get(*at));
                openings
                    .flat_map(|o| [u32::from(o.range.first), u32::from(o.range.last) + 1])
                    .collect()
            };
            let mut cuts = here(&was_here, &was);
            cuts.extend(here(&now_here, &now));
            let cuts: Vec<u32> = cuts.into_iter().collect();
            for (first, end) in cuts.iter().zip(cuts.iter().skip(1)) {
                let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(end - 1)) else {
                    continue;
                };
                let range = PortRange { first, last };
                let covering =
                    |all: &[usize], openings: &'_ [Opening]| -> Vec<(Source, OpenedBy)> {
                        let openings = all.iter().filter_map(|at| openings.get(*at));
                        let mut found: Vec<(Source, OpenedBy)> = openings
                            .filter(|o| o.range.first <= first && last <= o.range.last)
                            .map(|o| (o.source, o.opened_by.clone()))
                            .collect();
                        found.sort_unstable();
                        found.dedup();
                        found
                    };
                let (was, now) = (covering(&was_here, &was), covering(&now_here, &now));
                let pair = (sources(&was), sources(&now));
                if pair.0 == pair.1 {
                    continue;
                }
                let openers: BTreeSet<&OpenedBy> = was
                    .iter()
                    .filter(|(source, _)| !pair.1.contains(source))
                    .chain(now.iter().filter(|(source, _)| !pair.0.contains(source)))
                    .map(|(_, opened_by)| opened_by)
                    .collect();
                let parts = changed.entry(pair.clone()).or_default();
                parts.extend(openers.into_iter().map(|o| (kind, range, o.clone())));
            }
        }
        for (pair, parts) in changed {
            let what = self.opened.entry(pair).or_default();
            what.entry(named(parts)).or_default().push(node.clone());
        }
    }

    /// What a ruleset opens, and the sources of which it takes nothing.
    fn openings(
        &mut self,
        ruleset: &'r Ruleset,
        pool: &mut Pool<'r>,
    ) -> (Vec<Opening>, Vec<Source>) {
        let mut openings = Vec::new();
        let mut denied = Vec::new();
        let deciding = ruleset
            .chains
            .iter()
            .filter(|chain| [INPUT_CHAIN, DENY_CHAIN].contains(&chain.name.as_str()));
        for (rule, closes) in deciding.flat_map(|chain| enforced(ruleset.mode, chain)) {
            let accepts = rule.verdict == Verdict::Accept && rule.states.is_any();
            let closed = closes && rule.protocol.is_none() && rule.states.is_any();
            if !accepts && !closed {
                continue;
            }
            let sources = self.sources(ruleset, &rule, pool);
            if closed {
                // The default verdict denies no one in particular.
                denied.extend(
                    sources
                        .into_iter()
                        .filter(|source| *source != Source::World),
                );
                continue;
            }
            let mut text = Subject::of(&rule).text;
            if let (Some(RuleSubject::Custom(_)), Some(interface)) =
                (&rule.subject, &rule.in_interface)
            {
                text = format!("{text} on {interface}");
            }
            let opened_by = OpenedBy {
                text,
                subject: rule.subject.clone(),
            };
            for source in sources {
                for (kind, range) in packets(&rule) {
                    let opened_by = opened_by.clone();
                    openings.push(Opening {
                        kind,
                        range,
                        opened_by,
                        source,
                    });
                }
            }
        }
        denied.sort_unstable();
        (openings, denied)
    }

    fn sources(&mut self, ruleset: &'r Ruleset, rule: &Rule, pool: &mut Pool<'r>) -> Vec<Source> {
        let Some(stem) = &rule.source_set else {
            return vec![rule.source.map_or(Source::World, Source::Net)];
        };
        let mut sources = Vec::new();
        for family in Family::BOTH {
            let name = SetName {
                stem: stem.clone(),
                family,
            };
            let set = ruleset.sets.binary_search_by(|set| set.name.cmp(&name));
            let set = set.ok().and_then(|at| ruleset.sets.get(at));
            if let Some(set) = set.filter(|_| rule.scope.covers(family)) {
                let id = pool.id(set);
                self.pool.insert(id, set);
                sources.push(Source::Set(id));
            }
        }
        sources
    }

    /// Everything by who it concerns.
    pub(super) fn changes(self, before: &Owners, after: &Owners) -> Vec<Access> {
        let mut changes: BTreeMap<(bool, NetworkOwner, Vec<IpNet>), Vec<Reach>> = BTreeMap::new();
        let mut add = |gains, by_owner: BTreeMap<NetworkOwner, Vec<IpNet>>, reach: &[Reach]| {
            for (owner, nets) in by_owner {
                let all = changes.entry((gains, owner, nets)).or_default();
                all.extend(reach.iter().cloned());
            }
        };
        for ((was, now), what) in &self.opened {
            let (was, now) = (self.nets(was), self.nets(now));
            let reach: Vec<Reach> = what
                .iter()
                .map(|(what, nodes)| Reach {
                    what: what.clone(),
                    nodes: nodes.clone(),
                })
                .collect();
            add(false, lost(&was, &now, before), &reach);
            add(true, lost(&now, &was, after), &reach);
        }
        for ((was, now), nodes) in &self.denied {
            let (was, now) = (self.nets(was), self.nets(now));
            let reach = [Reach {
                what: vec![Reachable {
                    text: "everything".to_owned(),
                    subject: None,
                }],
                nodes: nodes.clone(),
            }];
            for (gains, closed, open, owners) in
                [(false, &now, &was, after), (true, &was, &now, after)]
            {
                let mut by_owner = lost(closed, open, owners);
                by_owner.remove(&NetworkOwner::Unknown);
                add(gains, by_owner, &reach);
            }
        }
        let mut all: Vec<Access> = changes
            .into_iter()
            .map(|((gains, owner, networks), mut reach)| {
                reach.sort_unstable_by(|a, b| (&a.what, &a.nodes).cmp(&(&b.what, &b.nodes)));
                Access {
                    owner,
                    gains,
                    networks,
                    reach,
                }
            })
            .collect();
        // What the world gains or loses is what an operator must see.
        all.sort_by_key(|access| access.owner != NetworkOwner::World);
        all
    }

    /// What `sources` hold, minimal.
    fn nets(&self, sources: &[Source]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for source in sources {
            match source {
                Source::World => return everywhere(),
                Source::Net(net) => nets.push(*net),
                Source::Set(id) => {
                    if let Some(set) = self.pool.get(id) {
                        nets.extend(set.elements.iter().copied());
                        nets.extend(set.expiring.iter().map(|one| one.net));
                        nets.extend(set.scheduled.iter().map(|one| one.net));
                    }
                }
            }
        }
        let nets = minimal(nets);
        if AddressSpace::of(&nets).is_world() {
            everywhere()
        } else {
            nets
        }
    }
}

fn everywhere() -> Vec<IpNet> {
    vec![
        ipnet::Ipv4Net::default().into(),
        ipnet::Ipv6Net::default().into(),
    ]
}

/// Who owns what is in the first and not in the second.
fn lost(from: &[IpNet], to: &[IpNet], owners: &Owners) -> BTreeMap<NetworkOwner, Vec<IpNet>> {
    let is_world = |nets: &[IpNet]| nets.first().is_some_and(|net| net.prefix_len() == 0);
    let mut by_owner: BTreeMap<NetworkOwner, Vec<IpNet>> = BTreeMap::new();
    if is_world(to) {
        return by_owner;
    }
    if is_world(from) {
        by_owner.insert(NetworkOwner::World, Vec::new());
        return by_owner;
    }
    for net in subtract(from, to) {
        let mut known = false;
        for (owner, part) in owners.parts(&net) {
            known = true;
            let owner = NetworkOwner::Named(Arc::clone(owner));
            by_owner.entry(owner).or_default().push(part);
        }
        if !known {
            by_owner.entry(NetworkOwner::Unknown).or_default().push(net);
        }
    }
    for nets in by_owner.values_mut() {
        *nets = minimal(std::mem::take(nets));
    }
    by_owner
}

fn sources(of: &[(Source, OpenedBy)]) -> Vec<Source> {
    let mut sources: Vec<Source> = of.iter().map(|(source, _)| *source).collect();
    sources.dedup();
    sources
}

/// The packets that a rule lets in, by kind.
fn packets(rule: &Rule) -> Vec<(Kind, PortRange)> {
    const ALL: PortRange = PortRange {
        first: 1,
        last: u16::MAX,
    };
    let Some(protocol) = rule.protocol else {
        return vec![(Kind::Any, ALL)];
    };
    if let Some(icmp) = rule.icmp_type {
        return vec![(Kind::Icmp(protocol, icmp), ALL)];
    }
    if matches!(protocol, Protocol::Other(_)) {
        return vec![(Kind::Whole(protocol), ALL)];
    }
    let ranges = rule.destination_ports.ranges();
    let kind = Kind::Ports(protocol);
    if ranges.is_empty() {
        return vec![(kind, ALL)];
    }
    ranges.iter().map(|range| (kind, *range)).collect()
}

/// `sip 5060/udp,tcp`, ascending.
fn named(parts: Vec<(Kind, PortRange, OpenedBy)>) -> Vec<Reachable> {
    let mut by_opener: BTreeMap<OpenedBy, BTreeMap<Kind, Vec<PortRange>>> = BTreeMap::new();
    for (kind, range, opened_by) in parts {
        let ranges = by_opener
            .entry(opened_by)
            .or_default()
            .entry(kind)
            .or_default();
        ranges.push(range);
    }
    let mut all = Vec::new();
    for (opened_by, kinds) in by_opener {
        let mut texts: Vec<(String, Vec<Cow<'static, str>>)> = Vec::new();
        for (kind, ranges) in kinds {
            let (what, name) = match kind {
                Kind::Any => (String::new(), "".into()),
                Kind::Whole(protocol) => (String::new(), protocol_name(protocol)),
                Kind::Icmp(protocol, icmp) => (format!("type {icmp}"), protocol_name(protocol)),
                Kind::Ports(protocol) => (ports(ranges), protocol_name(protocol)),
            };
            match texts.iter_mut().find(|(known, _)| *known == what) {
                Some((_, names)) => names.insert(0, name),
                None => texts.push((what, vec![name])),
            }
        }
        let texts: Vec<String> = texts
            .into_iter()
            .map(|(what, names)| {
                if names.concat().is_empty() {
                    what
                } else if what.is_empty() {
                    names.join(",")
                } else {
                    format!("{what}/{}", names.join(","))
                }
            })
            .collect();
        let text = format!("{} {}", opened_by.text, texts.join(" "));
        all.push(Reachable {
            text: text.trim_end().to_owned(),
            subject: opened_by.subject,
        });
    }
    all
}

/// `5060,10000-20000`; what touches is one range again.
fn ports(mut ranges: Vec<PortRange>) -> String {
    ranges.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    let texts: Vec<String> = joined.iter().map(PortRange::to_string).collect();
    texts.join(",")
}
