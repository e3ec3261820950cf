//! Deny sets: what reaches nothing, established or not.

use ipnet::IpNet;
use voipfleet_policy::{AddressSpace, AddressWord, Site};
use voipfleet_ruleset::identifiers::ListName;
use voipfleet_ruleset::ruleset::{
    DynamicSetName, ProviderPart, Rule, RuleSubject, SetOwner, Verdict,
};

use super::CompileError;
use super::address::{Elements, minimal};
use super::address_expansion::Members;
use super::deny_exemptions::{Class, Protected, providers_besides, tenants_besides};
use super::openings::from_source;
use super::set_names;
use super::sources::{Content, Sources};

/// The chain of what the site denies.
pub(crate) const DENY_CHAIN: &str = "VF-DENY";

/// Whose addresses are taken out of what is denied.
struct Spared {
    cluster: Protected,
    admins: Protected,
    tenants: Protected,
    providers: Protected,
    private: Protected,
}

/// The rules of the chain that drops what the site denies; none where it denies nothing.
///
/// A list comes from elsewhere and is not trusted with the site's own: the cluster, admins,
/// tenants, providers and private ranges are not denied by it, nor tenants and providers that only
/// a rule or a service opens something to. What an operator wrote into
/// `deny` by hand is meant, so only the cluster and admins are not denied by that: a phone inside
/// a tenant's network can be denied.
///
/// What is known when rulesets are made is taken out of the sets. All of them leave the chain
/// before it comes to these besides: some have addresses that change between pushes, and what
/// a list is fetched with may be older than they are.
pub(super) fn rules(
    site: &Site,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Rule>, CompileError> {
    if site.deny.is_empty() {
        return Ok(Vec::new());
    }
    let spared = Spared::of(sources)?;
    let mut by_hand = Members::default();
    let mut lists: Vec<&ListName> = Vec::new();
    for word in &site.deny {
        match word {
            AddressWord::World | AddressWord::Local => {
                return Err(CompileError::Meaningless {
                    place: "deny".to_owned(),
                    word: word.to_string(),
                    reason: "a node that denies the world needs no policy",
                });
            }
            AddressWord::List(name) => lists.push(name),
            // Its members leave the chain first.
            AddressWord::Cluster => {}
            word => {
                let mut members = Members::default();
                for part in ProviderPart::BOTH {
                    members.extend(sources.members(word, part, "deny")?);
                }
                if members.is_empty() {
                    warnings.push(format!("deny: {word} holds no address"));
                }
                by_hand.extend(members);
            }
        }
    }
    lists.sort_unstable();
    lists.dedup();

    let mut hand = Vec::new();
    if !by_hand.is_empty() {
        hand.extend(denied_by_hand(by_hand, &spared, sources, warnings)?);
    }
    let mut listed = Vec::new();
    for name in lists {
        listed.extend(denied_by_list(name, &spared, sources, warnings)?);
    }
    if hand.is_empty() && listed.is_empty() {
        return Ok(Vec::new());
    }
    let mut rules = Vec::new();
    // What nodes claim to have on an interface exempts nobody.
    let cluster = (!site.cluster.is_by_interface_alone()).then_some(AddressWord::Cluster);
    for word in cluster.into_iter().chain([AddressWord::Admins]) {
        rules.extend(leave(&word, ProviderPart::Signalling, sources)?);
    }
    rules.append(&mut hand);
    if !listed.is_empty() {
        rules.extend(leave(
            &AddressWord::Clients,
            ProviderPart::Signalling,
            sources,
        )?);
        rules.extend(leave(
            &AddressWord::Providers,
            ProviderPart::Media,
            sources,
        )?);
        for word in tenants_besides(site) {
            rules.extend(leave(&word, ProviderPart::Signalling, sources)?);
        }
        for word in providers_besides(site) {
            for part in ProviderPart::BOTH {
                rules.extend(leave(&word, part, sources)?);
            }
        }
        rules.append(&mut listed);
    }
    Ok(rules)
}

/// The rule by which packets from the addresses of `word` leave the chain, on any interface.
fn leave(
    word: &AddressWord,
    part: ProviderPart,
    sources: &mut Sources<'_>,
) -> Result<Option<Rule>, CompileError> {
    let text = word.to_string();
    let details = [Some(text.as_str()), set_names::part_detail(part)];
    let rule = set_names::rule(RuleSubject::DenyExempt, &details, Verdict::Return)?;
    let source = sources.word(word, part, "deny")?;
    Ok(source.and_then(|source| from_source(rule, &source)))
}

fn denied_by_hand(
    members: Members,
    spared: &Spared,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Rule>, CompileError> {
    let own = clean(
        "deny",
        members.elements(),
        &[&spared.cluster, &spared.admins],
        warnings,
    );
    let resolved = sources.dynamic_nets(&members.dynamic);
    let all = Elements::new(own.now().into_iter().chain(resolved).collect(), Vec::new());
    for served in [&spared.tenants, &spared.providers] {
        let count = all.count_touching(&served.all());
        if count > 0 {
            warnings.push(format!(
                "deny: {count} of the addresses written there are of {}, and are cut off",
                served.class
            ));
        }
    }
    let content = Content {
        own,
        dynamic: members.dynamic,
        ..Content::default()
    };
    let source = sources.add_set(SetOwner::Deny, None, content)?;
    let rule = set_names::rule(RuleSubject::Deny, &[], Verdict::Drop)?;
    Ok(source.and_then(|source| from_source(rule, &source)))
}

fn denied_by_list(
    name: &ListName,
    spared: &Spared,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Rule>, CompileError> {
    let list = sources.list(name, "deny")?;
    let nets = Elements::new(list.addresses.clone(), list.dated.expiring.clone())
        .with_scheduled(list.dated.scheduled.clone());
    let is_fetched = list.feed.is_some();
    if nets.is_empty() && !is_fetched {
        warnings.push(format!("deny: list:{name} holds no address"));
    }
    let content = Content {
        own: clean(&format!("deny: list:{name}"), nets, &spared.all(), warnings),
        dynamic: is_fetched
            .then(|| DynamicSetName::DenyFeed(name.clone()))
            .into_iter()
            .collect(),
        ..Content::default()
    };
    let source = sources.add_set(SetOwner::DenyList(name.clone()), None, content)?;
    let rule = set_names::rule(RuleSubject::DenyList(name.clone()), &[], Verdict::Drop)?;
    Ok(source.and_then(|source| from_source(rule, &source)))
}

impl Spared {
    fn of(sources: &Sources<'_>) -> Result<Self, CompileError> {
        Ok(Self {
            cluster: Protected::cluster(sources),
            admins: Protected::of(
                Class::Admins,
                sources,
                &[(AddressWord::Admins, ProviderPart::Signalling)],
            )?,
            tenants: Protected::tenants(sources)?,
            providers: Protected::providers(sources)?,
            private: Protected::private(),
        })
    }

    fn all(&self) -> [&Protected; 5] {
        [
            &self.cluster,
            &self.admins,
            &self.tenants,
            &self.providers,
            &self.private,
        ]
    }
}

/// `nets` without what is spared and does not change between pushes, and a warning that counts
/// what that was.
fn clean(
    place: &str,
    nets: Elements,
    spared: &[&Protected],
    warnings: &mut Vec<String>,
) -> Elements {
    let mut touched = Vec::new();
    let mut holes: Vec<IpNet> = Vec::new();
    for one in spared {
        let count = nets.count_touching(&one.all());
        if count > 0 {
            touched.push(format!("{} ({count})", one.class));
            holes.extend(&one.fixed);
        }
    }
    if !touched.is_empty() {
        warnings.push(format!(
            "{place}: entries overlap {}; those addresses are not denied",
            touched.join(", ")
        ));
    }
    let left = if holes.is_empty() {
        nets
    } else {
        nets.subtract(&minimal(holes))
    };
    if AddressSpace::of(&left.now()).is_world() {
        warnings.push(format!(
            "{place}: it holds networks as wide as the world; is that meant?"
        ));
    }
    left
}
