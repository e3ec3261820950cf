//! Documents and nodes become one typed ruleset for each node.
//!
//! The order inside the chain: what operators block by force, cluster members, what operators
//! block, what they open, deny sets,
//! established connections, invalid packets, RTP, limits of SIP, SIP, T.38, other services,
//! custom rules, log, default verdict. Loopback and the failsafe rules come before all of it,
//! and are the agent's own.
//!
//! The same documents and roles give the same rulesets, whatever the order in which nodes,
//! tenants and words are given, and whatever the dynamic sets hold: those are only named. The
//! site's own tests run with what the dynamic sets hold now.

pub(crate) mod address;
mod address_expansion;
mod chain;
mod cluster;
mod deny;
mod deny_exemptions;
pub mod dynamic_sets;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod membership;
mod openings;
pub mod plan;
mod policy_tests;
mod service_ports;
mod set_names;
mod sources;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use voipfleet_policy::{AddressSpace, AddressWord, Documents, Site, is_no_source};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::dynamic_sets::MAX_DYNAMIC_SETS;
use voipfleet_ruleset::ruleset::{
    AddressSet, DynamicSetName, DynamicSets, Family, MAX_PROBES, Mode, ProviderPart, Rule,
    RuleSubject, Ruleset, SetName, SetOwner, Verdict,
};

pub(crate) use deny::DENY_CHAIN;
pub use deny_exemptions::{Class, Cleaned, Dropped, Protection};
pub use error::CompileError;
pub use membership::{Membership, PendingAddress, PendingReason, Standing};
pub use policy_tests::TestFailure;
use policy_tests::run_tests;

use cluster::Members;
use openings::{Opening, from_source};
use sources::{Content, Sources};

/// Dynamic sets of a site that no document names: `cluster`, `allow`, `block`, `block-forced`,
/// `open`.
const FIXED_SOURCES: usize = 5;
/// The most admin networks that a ruleset carries for the agent's failsafe rules.
const MAX_ADMINS: usize = 256;

/// A node as the compiler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInput {
    /// Its name.
    pub name: NodeName,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// The addresses that its agent reported.
    pub addresses: Vec<InterfaceAddress>,
    /// Those that it has just lost, and that count until another node has them.
    pub lost: Vec<InterfaceAddress>,
    /// Whether they may count.
    pub standing: Standing,
}

/// An address of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface that it is on.
    pub interface: String,
    /// The address with its prefix, host bits kept.
    pub net: IpNet,
}

/// A site's rulesets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// One for each node.
    pub rulesets: BTreeMap<NodeName, Ruleset>,
    /// What an operator should know before they are pushed.
    pub warnings: Vec<String>,
}

/// Compiles the documents of a site for its nodes, and runs the site's own tests on the result
/// with what the dynamic sets hold. The rulesets do not depend on that.
pub fn compile(
    site: &SiteName,
    documents: &Documents,
    nodes: &[NodeInput],
    dynamic: &DynamicSets,
) -> Result<Compiled, CompileError> {
    let policy = documents
        .sites
        .get(site)
        .ok_or_else(|| CompileError::UnknownSite(site.clone()))?;
    let by_name = by_name(nodes)?;
    let needed = dynamic_sets::needed(site, documents);
    check_numbers(policy, needed.len())?;

    // For all nodes: words become sets, services and custom rules become openings.
    let mut warnings = Vec::new();
    let mut sources = Sources::new(policy, documents, &by_name, dynamic);
    let admins = admins(policy, &sources)?;
    let effective = service_ports::effective(policy)?;
    let common = common(policy, &mut sources, &mut warnings)?;
    let openings = openings::openings(policy, &effective, &by_name, &mut sources, &mut warnings)?;
    warnings::site(policy, documents, &by_name, &mut warnings);
    warnings::empty(sources.empty(), &mut warnings);
    warnings::unknown(&needed, dynamic, &mut warnings);
    let shared = SharedParts {
        policy,
        admins,
        ssh_ports: openings::ssh_ports(&effective)?,
        sets: sources.address_sets(),
        common,
        openings,
    };

    // For each node: the openings of its roles, and the sets that they use.
    let mut rulesets = BTreeMap::new();
    for (name, node) in &by_name {
        rulesets.insert((*name).clone(), shared.ruleset(node)?);
    }

    // The tests are about the policy as it is enforced, also where it only observes.
    let with_roles = by_name.values();
    let with_roles = with_roles.filter_map(|node| Some((&node.roles, rulesets.get(&node.name)?)));
    let known = dynamic_sets::for_tests(dynamic, &needed, policy, nodes);
    let run = run_tests(policy, with_roles, &known);
    if !run.failures.is_empty() {
        return Err(CompileError::Tests(run.failures));
    }
    warnings.extend(
        run.skipped.into_iter().map(|test| {
            format!("tests: {test} was not run: no node has the role that it asks for")
        }),
    );

    if policy.mode == Mode::Observe {
        for ruleset in rulesets.values_mut() {
            ruleset.chains = chain::observe(std::mem::take(&mut ruleset.chains))?;
            checked(ruleset)?;
        }
    }
    Ok(Compiled { rulesets, warnings })
}

/// What the rulesets of all nodes of a site are made of.
struct SharedParts<'a> {
    policy: &'a Site,
    admins: Vec<IpNet>,
    ssh_ports: Vec<u16>,
    sets: BTreeMap<SetName, AddressSet>,
    common: chain::Common,
    openings: Vec<Opening>,
}

impl SharedParts<'_> {
    fn ruleset(&self, node: &NodeInput) -> Result<Ruleset, CompileError> {
        let here: Vec<&Opening> = self
            .openings
            .iter()
            .filter(|opening| opening.when.holds(&node.roles))
            .collect();
        let without_ipv6 = self.policy.ipv6.is_none_on(&node.name, &node.roles);
        let cluster = self.policy.cluster.of(&node.name, &node.roles);
        let cluster = cluster.map_err(|roles| CompileError::ConflictingRoles {
            node: node.name.clone(),
            roles,
        })?;
        let mut chains = chain::chains(&self.common, &here, &cluster)?;
        if without_ipv6 {
            chain::only_ipv4(&mut chains);
        }
        let rules = chains.iter_mut().flat_map(|chain| &mut chain.rules);
        self.common.members.limit(rules, &cluster);
        let rules = chains.iter().flat_map(|chain| &chain.rules);
        let ruleset = Ruleset {
            site: self.policy.name.clone(),
            node: node.name.clone(),
            mode: self.policy.mode,
            admins: self.admins.clone(),
            ssh_ports: self.ssh_ports.clone(),
            sets: used_sets(&self.sets, rules),
            chains,
            probes: self.policy.probes.clone(),
            without_ipv6,
        };
        checked(&ruleset)?;
        Ok(ruleset)
    }
}

fn by_name(nodes: &[NodeInput]) -> Result<BTreeMap<&NodeName, &NodeInput>, CompileError> {
    let mut by_name = BTreeMap::new();
    for node in nodes {
        if by_name.insert(&node.name, node).is_some() {
            return Err(CompileError::DuplicateNode(node.name.clone()));
        }
    }
    Ok(by_name)
}

fn check_numbers(policy: &Site, dynamic_sets: usize) -> Result<(), CompileError> {
    let mut names = BTreeSet::new();
    if let Some(twice) = policy.rules.iter().find(|rule| !names.insert(&rule.name)) {
        return Err(CompileError::DuplicateRule(twice.name.clone()));
    }
    for (what, count, limit) in [
        ("probes", policy.probes.len(), MAX_PROBES),
        (
            "DNS names and fetched lists",
            dynamic_sets,
            MAX_DYNAMIC_SETS - FIXED_SOURCES,
        ),
    ] {
        if count > limit {
            let what = what.to_owned();
            return Err(CompileError::TooMany { what, count, limit });
        }
    }
    Ok(())
}

fn checked(ruleset: &Ruleset) -> Result<(), CompileError> {
    ruleset.check().map_err(|source| CompileError::Invalid {
        node: ruleset.node.clone(),
        source,
    })
}

/// The networks of the admins; the agents keep SSH open to them.
fn admins(site: &Site, sources: &Sources<'_>) -> Result<Vec<IpNet>, CompileError> {
    let members = sources.members(&AddressWord::Admins, ProviderPart::Signalling, "admins")?;
    let nets = address::minimal(members.nets);
    if nets.iter().all(is_no_source) {
        return Err(CompileError::NoAdmins(site.name.clone()));
    }
    if AddressSpace::of(&nets).is_world() {
        return Err(CompileError::Meaningless {
            place: "admins".to_owned(),
            word: "networks as wide as the world".to_owned(),
            reason: "SSH would be open to the world",
        });
    }
    if nets.len() > MAX_ADMINS {
        return Err(CompileError::TooMany {
            what: "networks of admins".to_owned(),
            count: nets.len(),
            limit: MAX_ADMINS,
        });
    }
    Ok(nets)
}

fn common(
    site: &Site,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<chain::Common, CompileError> {
    use ProviderPart::{Media, Signalling};
    let members = Members {
        source: sources.word(&AddressWord::Cluster, Signalling, "cluster")?,
        trust: site.cluster.trust,
        by_interface_alone: site.cluster.is_by_interface_alone(),
    };
    let [forced, block, open] = emergency(sources)?;
    // Missing documents are reported even where no rule would use them.
    sources.members(&AddressWord::Clients, Signalling, "clients")?;
    Ok(chain::Common {
        members,
        forced,
        block,
        open,
        deny: deny::rules(site, sources, warnings)?,
        exempt: openings::exempt(
            &[
                AddressWord::Clients,
                AddressWord::Admins,
                AddressWord::Cluster,
            ],
            Signalling,
            sources,
        )?,
        media_exempt: openings::exempt(&[AddressWord::Clients], Media, sources)?,
        default: site.default,
        mode: site.mode,
    })
}

/// What operators block by force, block, and open for a while: the rules are always there, with
/// empty sets.
fn emergency(sources: &mut Sources<'_>) -> Result<[Vec<Rule>; 3], CompileError> {
    let mut of = |name, owner, subject, verdict| -> Result<Vec<Rule>, CompileError> {
        let content = Content {
            dynamic: [name].into(),
            ..Content::default()
        };
        let source = sources.add_set(owner, None, content)?;
        let rule = set_names::rule(subject, &[], verdict)?;
        Ok(source
            .and_then(|source| from_source(rule, &source))
            .into_iter()
            .collect())
    };
    Ok([
        of(
            DynamicSetName::BlockForced,
            SetOwner::BlockForced,
            RuleSubject::BlockForced,
            Verdict::Drop,
        )?,
        of(
            DynamicSetName::Block,
            SetOwner::Block,
            RuleSubject::Block,
            Verdict::Drop,
        )?,
        of(
            DynamicSetName::Open,
            SetOwner::Open,
            RuleSubject::Open,
            Verdict::Accept,
        )?,
    ])
}

/// The sets that `rules` name, in the families in which they name them.
fn used_sets<'a>(
    sets: &BTreeMap<SetName, AddressSet>,
    rules: impl Iterator<Item = &'a Rule>,
) -> Vec<AddressSet> {
    let mut used = BTreeSet::new();
    for rule in rules {
        let Some(stem) = &rule.source_set else {
            continue;
        };
        for family in Family::BOTH {
            if rule.scope.covers(family) {
                used.insert(SetName {
                    stem: stem.clone(),
                    family,
                });
            }
        }
    }
    used.iter()
        .filter_map(|name| sets.get(name).cloned())
        .collect()
}
