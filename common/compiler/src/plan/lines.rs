//! A ruleset as lines for people: one for each of its statements.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use voipfleet_ruleset::ruleset::{
    Chain, ConnectionState, INPUT_CHAIN, Mode, PortRange, Protocol, Rate, RateUnit, Rule,
    RuleSubject, Ruleset, SetOwner, SetStem, Verdict,
};

use crate::chain::OBSERVED_CHAIN;

/// What lines are about, in the order in which a plan shows them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    rank: Rank,
    pub(super) text: String,
}

/// The order of subjects: what decides most comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Mode,
    Default,
    Admins,
    Access,
    Cluster,
    Emergency,
    Deny,
    Service,
    Custom,
    Limit,
    Exempt,
    Upkeep,
    Form,
}

impl Subject {
    fn new(rank: Rank, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { rank, text }
    }

    /// For rulesets that differ in nothing that can be shown.
    pub(super) fn form() -> Self {
        Self::new(Rank::Form, "rules")
    }

    /// Of a rule.
    pub(super) fn of(rule: &Rule) -> Self {
        let Some(subject) = &rule.subject else {
            return Self::new(Rank::Service, rule.label.as_str());
        };
        let (rank, text) = match subject {
            RuleSubject::Default => (Rank::Default, subject.to_string()),
            RuleSubject::Cluster => (Rank::Cluster, subject.to_string()),
            RuleSubject::Block | RuleSubject::Open => (Rank::Emergency, subject.to_string()),
            RuleSubject::BlockForced => (Rank::Emergency, "forced block".to_owned()),
            RuleSubject::Deny => (Rank::Deny, subject.to_string()),
            RuleSubject::DenyList(name) => (Rank::Deny, format!("deny list:{name}")),
            RuleSubject::Service(_) | RuleSubject::Management => {
                (Rank::Service, subject.to_string())
            }
            RuleSubject::Custom(name) => (Rank::Custom, format!("rule {name}")),
            RuleSubject::Limit(name) => (Rank::Limit, format!("limit {name}")),
            RuleSubject::LimitExempt => (Rank::Exempt, "no limit".to_owned()),
            RuleSubject::DenyExempt => (Rank::Exempt, "not denied".to_owned()),
            RuleSubject::Established
            | RuleSubject::Invalid
            | RuleSubject::Log
            | RuleSubject::WouldDrop
            | RuleSubject::OverLimit => (Rank::Upkeep, subject.to_string()),
        };
        Self { rank, text }
    }
}

/// Whose addresses each set of a ruleset holds.
pub(super) type SetOwners<'r> = BTreeMap<&'r SetStem, &'r SetOwner>;

pub(super) fn set_owners(ruleset: &Ruleset) -> SetOwners<'_> {
    let sets = ruleset.sets.iter();
    sets.filter_map(|set| Some((&set.name.stem, set.owner.as_ref()?)))
        .collect()
}

/// The lines of a ruleset.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    by_subject: BTreeMap<Subject, BTreeSet<String>>,
    /// Which subjects name a set: `sip 5060/udp,tcp`.
    users: BTreeMap<SetStem, BTreeSet<String>>,
}

/// Rules of a subject that differ in nothing but protocol and ports.
type Grouped<'r> = BTreeMap<(Subject, String), Vec<&'r Rule>>;

impl Lines {
    pub(super) fn of(ruleset: &Ruleset) -> Self {
        let mut lines = Self::default();
        let owners = set_owners(ruleset);
        lines.settings(ruleset);
        lines.bounds(ruleset);
        let rules = ruleset
            .chains
            .iter()
            .flat_map(|chain| enforced(ruleset.mode, chain));
        let rules: Vec<(Rule, bool)> = rules.collect();
        let mut grouped: Grouped<'_> = BTreeMap::new();
        for (rule, _) in rules
            .iter()
            .filter(|(rule, _)| !matches!(rule.verdict, Verdict::Jump(_)))
        {
            grouped
                .entry((Subject::of(rule), conditions(rule, &owners)))
                .or_default()
                .push(rule);
        }
        for ((subject, conditions), rules) in grouped {
            let flows = flows(&rules);
            for stem in rules.iter().filter_map(|rule| rule.source_set.as_ref()) {
                let user = joined(&subject.text, &flows);
                lines.users.entry(stem.clone()).or_default().insert(user);
            }
            let line = joined(&flows, &conditions);
            lines.by_subject.entry(subject).or_default().insert(line);
        }
        lines
    }

    fn settings(&mut self, ruleset: &Ruleset) {
        let mode = match ruleset.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        };
        self.set(Rank::Mode, "mode", [mode.to_owned()]);
        self.set(
            Rank::Admins,
            "admins",
            ruleset.admins.iter().map(ToString::to_string),
        );
        self.set(
            Rank::Access,
            "ssh ports",
            ruleset.ssh_ports.iter().map(ToString::to_string),
        );
        if ruleset.without_ipv6 {
            self.set(Rank::Mode, "ipv6", ["none".to_owned()]);
        }
        self.set(
            Rank::Access,
            "probes",
            ruleset.probes.iter().map(|probe| {
                let (kind, target) = (probe.check.kind(), probe.check.target());
                format!("{} ({kind} {target})", probe.name)
            }),
        );
    }

    /// Where members of the cluster must have their addresses.
    fn bounds(&mut self, ruleset: &Ruleset) {
        let mut sets = ruleset.sets.iter();
        let cluster = sets.find(|set| set.owner == Some(SetOwner::Cluster));
        let within = cluster.map_or(&[][..], |set| &set.within);
        if within.is_empty() {
            return;
        }
        let nets: Vec<String> = within.iter().map(ToString::to_string).collect();
        self.set(
            Rank::Cluster,
            "cluster networks",
            [format!("members have addresses in {}", nets.join(", "))],
        );
    }

    fn set(&mut self, rank: Rank, subject: &str, lines: impl IntoIterator<Item = String>) {
        let lines: BTreeSet<String> = lines.into_iter().collect();
        if !lines.is_empty() {
            self.by_subject.insert(Subject::new(rank, subject), lines);
        }
    }

    /// What names a set.
    pub(super) fn users(&self, stem: &SetStem) -> impl Iterator<Item = &String> {
        self.users.get(stem).into_iter().flatten()
    }

    /// Each subject with the lines that only `was` has, and those that only `self` has.
    pub(super) fn differences(&self, was: &Self) -> Vec<(Subject, Vec<String>, Vec<String>)> {
        let subjects: BTreeSet<&Subject> = self
            .by_subject
            .keys()
            .chain(was.by_subject.keys())
            .collect();
        let none = BTreeSet::new();
        let mut all = Vec::new();
        for subject in subjects {
            let now = self.by_subject.get(subject).unwrap_or(&none);
            let before = was.by_subject.get(subject).unwrap_or(&none);
            if now != before {
                let removed = before.difference(now).cloned().collect();
                let added = now.difference(before).cloned().collect();
                all.push((subject.clone(), removed, added));
            }
        }
        all
    }
}

/// The rules of a chain as if they were enforced, each with whether it closes: where they only
/// observe, what would drop logs and returns, and what would accept returns.
pub(super) fn enforced(mode: Mode, chain: &Chain) -> Vec<(Rule, bool)> {
    let closes = |rule: &Rule| matches!(rule.verdict, Verdict::Drop | Verdict::Reject);
    if mode == Mode::Enforce {
        let rules = chain.rules.iter().cloned();
        return rules.map(|rule| (rule.clone(), closes(&rule))).collect();
    }
    if chain.name.as_str() == OBSERVED_CHAIN {
        return Vec::new();
    }
    let is_input = chain.name.as_str() == INPUT_CHAIN;
    let mut rules = Vec::with_capacity(chain.rules.len());
    let mut next_drops = false;
    for rule in &chain.rules {
        if rule.subject == Some(RuleSubject::WouldDrop) {
            next_drops = true;
            continue;
        }
        if matches!(rule.verdict, Verdict::Log(_)) {
            // The same rule logs where the policy is enforced.
            rules.push((rule.clone(), false));
            continue;
        }
        let drops = next_drops
            || (is_input && rule.subject == Some(RuleSubject::Default))
            || (rule.source_limit.is_some() && matches!(rule.verdict, Verdict::Jump(_)));
        next_drops = false;
        let mut rule = rule.clone();
        if drops {
            rule.verdict = Verdict::Drop;
        } else if is_input && rule.verdict == Verdict::Return {
            rule.verdict = Verdict::Accept;
        }
        rules.push((rule, drops));
    }
    rules
}

fn joined(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        _ => format!("{a} {b}"),
    }
}

/// What rules match of protocols and ports: `5060/udp,tcp`, `type 8/icmp`; empty: everything.
fn flows(rules: &[&Rule]) -> String {
    let mut by_protocol: Vec<(Protocol, Vec<PortRange>, BTreeSet<u8>)> = Vec::new();
    for rule in rules {
        let Some(protocol) = rule.protocol else {
            continue;
        };
        let known = by_protocol
            .iter()
            .position(|(known, ..)| *known == protocol);
        let at = known.unwrap_or(by_protocol.len());
        if known.is_none() {
            by_protocol.push((protocol, Vec::new(), BTreeSet::new()));
        }
        if let Some((_, ports, types)) = by_protocol.get_mut(at) {
            ports.extend(rule.destination_ports.ranges());
            types.extend(rule.icmp_type);
        }
    }
    // UDP first: most packets are.
    by_protocol.sort_by(|(a, ..), (b, ..)| match (a, b) {
        (Protocol::Udp, Protocol::Tcp) => Ordering::Less,
        (Protocol::Tcp, Protocol::Udp) => Ordering::Greater,
        _ => a.cmp(b),
    });
    let mut texts: Vec<(String, String)> = Vec::new();
    for (protocol, mut ports, types) in by_protocol {
        ports.sort_unstable();
        ports.dedup();
        let what = if types.is_empty() {
            let ports: Vec<String> = ports.iter().map(PortRange::to_string).collect();
            ports.join(",")
        } else {
            let types: Vec<String> = types.iter().map(u8::to_string).collect();
            format!("type {}", types.join(","))
        };
        let name = protocol_name(protocol);
        match texts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, names)) => {
                names.push(',');
                names.push_str(&name);
            }
            None => texts.push((what, name.into_owned())),
        }
    }
    let texts: Vec<String> = texts
        .into_iter()
        .map(|(what, names)| {
            if what.is_empty() {
                names
            } else {
                format!("{what}/{names}")
            }
        })
        .collect();
    texts.join(" ")
}

/// `udp`, `icmpv6`.
pub(super) fn protocol_name(protocol: Protocol) -> Cow<'static, str> {
    match protocol {
        Protocol::Tcp => "tcp".into(),
        Protocol::Udp => "udp".into(),
        Protocol::Icmp => "icmp".into(),
        Protocol::Icmpv6 => "icmpv6".into(),
        Protocol::Other(other) => other.to_string().into(),
    }
}

/// The other conditions of a rule. Families are left out where a set implies them: a rule is in
/// the tables in which its set has members.
fn conditions(rule: &Rule, owners: &SetOwners<'_>) -> String {
    let mut words: Vec<String> = Vec::new();
    match (&rule.source_set, &rule.source) {
        (Some(stem), _) => words.push(match owners.get(stem).copied() {
            Some(SetOwner::Block) => "from blocked addresses".to_owned(),
            Some(SetOwner::Open) => "from everyone, while the site is open".to_owned(),
            owner => format!("from {}", set_word(stem, owner)),
        }),
        (None, Some(net)) => words.push(format!("from {net}")),
        (None, None) if rule.verdict == Verdict::Accept && rule.states.is_any() => {
            words.push("from world".to_owned());
        }
        (None, None) => {}
    }
    if let Some(interface) = &rule.in_interface {
        words.push(format!("on {interface}"));
    }
    if !rule.source_ports.is_any() {
        let ports: Vec<String> = rule
            .source_ports
            .ranges()
            .iter()
            .map(PortRange::to_string)
            .collect();
        words.push(format!("source ports {}", ports.join(",")));
    }
    if !rule.states.is_any() {
        let states = rule.states.as_slice().iter().map(|state| match state {
            ConnectionState::New => "new",
            ConnectionState::Established => "established",
            ConnectionState::Related => "related",
            ConnectionState::Invalid => "invalid",
        });
        words.push(states.collect::<Vec<_>>().join(","));
    }
    if let Some(limit) = &rule.limit {
        words.push(format!("up to {}", rate(limit)));
    }
    if let Some(limit) = &rule.source_limit {
        words.push(format!("above {} from one source", rate(&limit.above)));
    }
    match &rule.verdict {
        Verdict::Accept | Verdict::Return => {}
        Verdict::Drop => words.push("drop".to_owned()),
        Verdict::Reject => words.push("reject".to_owned()),
        Verdict::Jump(chain) => words.push(format!("to {chain}")),
        Verdict::Log(_) => words.push("log".to_owned()),
    }
    words.join(" ")
}

fn rate(rate: &Rate) -> String {
    let unit = match rate.unit {
        RateUnit::Second => 's',
        RateUnit::Minute => 'm',
        RateUnit::Hour => 'h',
    };
    format!("{}/{unit} (burst {})", rate.count, rate.burst)
}

/// A set as documents write it.
pub(super) fn set_word(stem: &SetStem, owner: Option<&SetOwner>) -> String {
    owner.map_or_else(|| stem.to_string(), ToString::to_string)
}
