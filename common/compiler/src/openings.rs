//! Every opening of a site as rules: made once, and given to each node whose roles it fits.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use voipfleet_policy::catalogue::{Group, Roles, Service, service};
use voipfleet_policy::{AddressWord, CustomRule, Site, Traffic};
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    ChainName, InvalidToken, ProviderPart, Rate, Rule, RuleSubject, Scope, SetOwner, SourceLimit,
    Verdict,
};

use super::service_ports::{Effective, Flow, traffic_flows};
use super::set_names;
use super::sources::{Place, Source, Sources};
use super::{CompileError, NodeInput, warnings};

/// The chain of SIP's limits.
pub(super) const SIP_LIMIT_CHAIN: &str = "VF-SIP-LIMIT";
/// The chain of the other services' limits.
pub(super) const LIMIT_CHAIN: &str = "VF-LIMIT";

/// The rules of one opening.
#[derive(Debug)]
pub(super) struct Opening {
    /// Its place in the chain.
    pub(super) group: Group,
    /// On which nodes.
    pub(super) when: When,
    /// What is let through.
    pub(super) accepts: Vec<Rule>,
    /// The site's limit for each source, if it gives one.
    pub(super) limit: Option<Limit>,
}

/// A limit for each source.
#[derive(Debug)]
pub(super) struct Limit {
    /// From the main chain to the chain of limits.
    pub(super) jumps: Vec<Rule>,
    /// In the chain of limits.
    pub(super) drops: Vec<Rule>,
    /// The providers' media networks are among those that skip it.
    pub(super) media: bool,
}

/// The nodes that have an opening.
#[derive(Debug, Clone)]
pub(super) enum When {
    /// By the catalogue's roles.
    Roles(Roles),
    /// On nodes with one of these; `None`: on every node.
    OneOf(BTreeSet<Role>),
    /// On nodes of the controller role that do not serve the web interface to clients.
    ControllerOnly,
}

impl When {
    pub(super) fn holds(&self, roles: &BTreeSet<Role>) -> bool {
        match self {
            When::Roles(of) => of.meet(roles),
            When::OneOf(of) => of.is_empty() || of.iter().any(|role| roles.contains(role)),
            When::ControllerOnly => roles.contains(&Role::Ic) && !roles.contains(&Role::Http),
        }
    }
}

/// The openings of every open service and custom rule, in the order of the catalogue and then of
/// the site's `rules`.
pub(super) fn openings(
    site: &Site,
    effective: &[Effective],
    nodes: &BTreeMap<&NodeName, &NodeInput>,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Opening>, CompileError> {
    let mut openings = Vec::new();
    for one in effective {
        let before = openings.len();
        let is_world = service_openings(one, sources, warnings, &mut openings)?;
        if is_world && !one.changes.dangerous {
            let added = openings.get(before..).unwrap_or_default();
            not_exposing(one, added, effective, nodes)?;
        }
    }
    for rule in &site.rules {
        openings.push(custom_opening(rule, effective, sources)?);
    }
    Ok(openings)
}

/// Adds the openings of a service; returns whether it is open to the world.
fn service_openings(
    effective: &Effective,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
    openings: &mut Vec<Opening>,
) -> Result<bool, CompileError> {
    let service = effective.service;
    let field = format!("services.{}.from", service.name);
    let place = Place {
        field: &field,
        literals: SetOwner::Service(service.name.to_owned()),
        part: part_of(service),
        has_members: true,
    };
    let words = match &effective.changes.from {
        Some(words) => words.clone(),
        None => service.default_from.iter().map(|e| (*e).into()).collect(),
    };
    let from = sources.resolve(&words, &place)?;
    if service.never_world && !effective.changes.dangerous && from.iter().any(|s| s.is_world) {
        return Err(CompileError::Exposed {
            place: field,
            what: service.name,
        });
    }
    warnings::service(effective, &words, warnings);
    let is_web = service.name == "web";
    let when = if is_web {
        When::OneOf([Role::Http].into())
    } else {
        When::Roles(service.roles)
    };
    openings.push(Opening {
        group: service.group,
        when,
        accepts: accepts(service.name, &effective.flows, &from)?,
        limit: limit(effective)?,
    });
    if is_web && !words.is_empty() {
        let admins = sources.resolve(&[AddressWord::Admins], &place)?;
        openings.push(Opening {
            group: service.group,
            when: When::ControllerOnly,
            accepts: accepts(service.name, &effective.flows, &admins)?,
            limit: limit(effective)?,
        });
    }
    Ok(from.iter().any(|source| source.is_world))
}

/// Refuses a service that opens the ports of a never-world one, as the site has them, to the
/// world on a node that runs both.
fn not_exposing(
    one: &Effective,
    openings: &[Opening],
    effective: &[Effective],
    nodes: &BTreeMap<&NodeName, &NodeInput>,
) -> Result<(), CompileError> {
    let exposed = effective.iter().find(|other| {
        let both_on = |roles| {
            other.service.roles.meet(roles)
                && openings.iter().any(|opening| opening.when.holds(roles))
        };
        other.service.never_world
            && other.service.name != one.service.name
            && nodes.values().any(|node| both_on(&node.roles))
            && other
                .flows
                .iter()
                .any(|flow| one.flows.iter().any(|mine| mine.overlaps(flow)))
    });
    match exposed {
        Some(exposed) => Err(CompileError::Exposed {
            place: format!("services.{}.ports", one.service.name),
            what: exposed.service.name,
        }),
        None => Ok(()),
    }
}

fn custom_opening(
    rule: &CustomRule,
    effective: &[Effective],
    sources: &mut Sources<'_>,
) -> Result<Opening, CompileError> {
    let field = format!("rules.{}.from", rule.name);
    let place = Place {
        field: &field,
        literals: SetOwner::Custom(rule.name.clone()),
        part: ProviderPart::Signalling,
        has_members: rule.interface.is_none() && matches!(rule.traffic, Traffic::Ports(..)),
    };
    let mut from = sources.resolve(&rule.from, &place)?;
    for source in &mut from {
        source.interface.clone_from(&rule.interface);
    }
    let flows = traffic_flows(&rule.traffic);
    if !rule.dangerous && from.iter().any(|source| source.is_world) {
        let exposed = effective.iter().find(|one| {
            let touches = |flow: &Flow| flows.iter().any(|mine| mine.overlaps(flow));
            one.service.never_world && one.flows.iter().any(touches)
        });
        if let Some(exposed) = exposed {
            return Err(CompileError::Exposed {
                place: field,
                what: exposed.service.name,
            });
        }
    }
    let mut accepts = Vec::new();
    for source in &from {
        for (index, flow) in flows.iter().enumerate() {
            // A custom rule has one transport: its name is label enough.
            let part = (index > 0).then_some(flow.name.as_str());
            let subject = RuleSubject::Custom(rule.name.clone());
            accepts.extend(accept(
                subject,
                &[part, source.word.as_deref()],
                flow,
                source,
            )?);
        }
    }
    Ok(Opening {
        group: Group::Other,
        when: When::OneOf(rule.roles.iter().copied().collect()),
        accepts,
        limit: None,
    })
}

/// One rule for each source and flow, the flows of a source together.
fn accepts(service: &str, flows: &[Flow], from: &[Source]) -> Result<Vec<Rule>, CompileError> {
    let subject = || RuleSubject::Service(service.to_owned());
    let mut rules = Vec::new();
    for flow in flows.iter().filter(|flow| flow.for_all) {
        rules.extend(accept(
            subject(),
            &[Some(&flow.name)],
            flow,
            &Source::world(),
        )?);
    }
    for source in from {
        for flow in flows.iter().filter(|flow| !flow.for_all) {
            rules.extend(accept(
                subject(),
                &[Some(&flow.name), source.word.as_deref()],
                flow,
                source,
            )?);
        }
    }
    Ok(rules)
}

fn accept(
    subject: RuleSubject,
    details: &[Option<&str>],
    flow: &Flow,
    source: &Source,
) -> Result<Option<Rule>, InvalidToken> {
    let mut rule = flow.rule(subject, details, Verdict::Accept)?;
    rule.limit = flow.limit;
    Ok(from_source(rule, source))
}

/// `rule` for packets of `source` only; none where they share no family.
pub(super) fn from_source(mut rule: Rule, source: &Source) -> Option<Rule> {
    rule.scope = match (rule.scope, source.scope) {
        (Scope::Both, scope) | (scope, Scope::Both) => scope,
        (a, b) if a == b => a,
        _ => return None,
    };
    rule.source_set.clone_from(&source.set);
    rule.in_interface.clone_from(&source.interface);
    Some(rule)
}

fn limit(effective: &Effective) -> Result<Option<Limit>, CompileError> {
    let Some(above) = effective.changes.limit else {
        return Ok(None);
    };
    let service = effective.service;
    let chain: ChainName = match service.group {
        Group::Sip => SIP_LIMIT_CHAIN.parse()?,
        _ => LIMIT_CHAIN.parse()?,
    };
    let mut limit = Limit {
        jumps: Vec::new(),
        drops: Vec::new(),
        media: service.media,
    };
    for flow in effective.flows.iter().filter(|flow| !flow.for_all) {
        let rule = |verdict| {
            let subject = RuleSubject::Limit(service.name.to_owned());
            flow.rule(subject, &[Some(&flow.name)], verdict)
        };
        limit.jumps.push(rule(Verdict::Jump(chain.clone()))?);
        let mut drop = rule(Verdict::Drop)?;
        drop.source_limit = Some(SourceLimit {
            name: limit_table(service.name, above).parse()?,
            above,
        });
        limit.drops.push(drop);
    }
    Ok(Some(limit))
}

/// The kernel looks a hashlimit table up by its name alone and keeps the rate that it was made
/// with (`htable_find_get` in `xt_hashlimit.c`): another rate needs another name.
fn limit_table(service: &str, rate: Rate) -> String {
    let text = format!("{service} {} {:?} {}", rate.count, rate.unit, rate.burst);
    let digits = hex::encode(Sha256::digest(text.as_bytes()));
    format!("{service:.5}-{digits:.6}")
}

/// The rules at the head of a chain of limits: the sources of `words` skip them.
pub(super) fn exempt(
    words: &[AddressWord],
    part: ProviderPart,
    sources: &mut Sources<'_>,
) -> Result<Vec<Rule>, CompileError> {
    let mut rules = Vec::new();
    for word in words {
        if let Some(source) = sources.word(word, part, "limit")? {
            let details = [source.word.as_deref(), set_names::part_detail(part)];
            let rule = set_names::rule(RuleSubject::LimitExempt, &details, Verdict::Return)?;
            rules.extend(from_source(rule, &source));
        }
    }
    Ok(rules)
}

/// On which of their networks providers reach a service.
fn part_of(service: &Service) -> ProviderPart {
    if service.media {
        ProviderPart::Media
    } else {
        ProviderPart::Signalling
    }
}

/// The TCP ports of SSH, which the agent keeps open to admins; 22 is always one of them.
pub(super) fn ssh_ports(effective: &[Effective]) -> Result<Vec<u16>, CompileError> {
    /// Of one multiport match.
    const LIMIT: usize = 15;
    /// The default port of sshd: a slip in services.ssh.ports must not
    /// keep the admins out.
    const SSH: u16 = 22;
    let ssh = service("ssh").map(|ssh| ssh.name);
    let ranges = effective
        .iter()
        .filter(|one| Some(one.service.name) == ssh)
        .flat_map(|one| &one.flows)
        .filter(|flow| flow.protocol == Some(voipfleet_ruleset::ruleset::Protocol::Tcp))
        .flat_map(|flow| flow.ports.ranges());
    let mut ports: BTreeSet<u16> = ranges.flat_map(|range| range.first..=range.last).collect();
    let limit = LIMIT - usize::from(!ports.contains(&SSH));
    if ports.len() > limit {
        return Err(CompileError::TooMany {
            what: "services.ssh.ports".to_owned(),
            count: ports.len(),
            limit,
        });
    }
    if ports.is_empty() {
        return Err(CompileError::Meaningless {
            place: "services.ssh".to_owned(),
            word: "without a tcp port".to_owned(),
            reason: "SSH of the admins is what every node keeps open",
        });
    }
    ports.insert(SSH);
    Ok(ports.into_iter().collect())
}
