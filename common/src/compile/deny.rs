//! Deny sets: what reaches nothing, established or not.

use ipnet::IpNet;

use super::CompileError;
use super::address::{Elements, is_world, minimal, private_ranges};
use super::blocks::from_source;
use super::sources::Sources;
use super::stems::label;
use crate::names::ListName;
use crate::policy::{AddressWord, Site};
use crate::ruleset::{Rule, Verdict};

/// Addresses that a deny set must not hold, with the word for them in a warning.
struct Protected {
    what: &'static str,
    nets: Vec<IpNet>,
}

/// The rules that drop what the site denies.
///
/// A list is somebody else's, and is not trusted with the site's own: the cluster, admins,
/// tenants, providers and private ranges are taken out of it. What an operator wrote into
/// `deny` by hand is meant, so only the cluster and admins are taken out of that: a phone inside
/// a tenant's network can be denied.
pub(super) fn rules(
    site: &Site,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Rule>, CompileError> {
    if site.deny.is_empty() {
        return Ok(Vec::new());
    }
    let vital = [
        protected(sources, "the cluster", &[(AddressWord::Cluster, false)])?,
        protected(sources, "admins", &[(AddressWord::Admins, false)])?,
    ];
    let served = [
        protected(sources, "tenants", &[(AddressWord::Tenants, false)])?,
        protected(
            sources,
            "providers",
            &[
                (AddressWord::Providers, false),
                (AddressWord::Providers, true),
            ],
        )?,
    ];
    let private = [Protected {
        what: "private ranges",
        nets: private_ranges(),
    }];
    let for_lists: Vec<&Protected> = vital.iter().chain(&served).chain(&private).collect();
    let for_hand: Vec<&Protected> = vital.iter().collect();

    let mut by_hand = Vec::new();
    let mut lists: Vec<&ListName> = Vec::new();
    for word in &site.deny {
        match word {
            AddressWord::World | AddressWord::Local => {
                return Err(CompileError::Meaningless {
                    place: "deny".to_owned(),
                    word: word.to_string(),
                    reason: "a node that nobody reaches needs no policy",
                });
            }
            AddressWord::List(name) => lists.push(name),
            word => {
                let mut members = sources.members(word, false, "deny")?;
                members.extend(sources.members(word, true, "deny")?);
                if members.is_empty() {
                    warnings.push(format!("deny: {word} holds no address"));
                }
                by_hand.extend(members.into_iter().map(|member| member.net));
            }
        }
    }
    lists.sort_unstable();
    lists.dedup();

    let mut rules = Vec::new();
    if !by_hand.is_empty() {
        let denied = clean(
            "deny",
            Elements::new(by_hand, Vec::new()),
            &for_hand,
            warnings,
        );
        for Protected { what, nets } in &served {
            let count = denied.count_touching(nets);
            if count > 0 {
                warnings.push(format!(
                    "deny: {count} of the addresses written there are of {what}, and are cut off"
                ));
            }
        }
        let origin = format!("site {}: deny", site.name);
        let source = sources.denied("deny".parse()?, denied, origin);
        let rule = Rule::new(label("deny")?, Verdict::Drop);
        rules.extend(source.and_then(|source| from_source(rule, &source)));
    }
    for name in lists {
        let list = sources.list(name, "deny")?;
        let nets = Elements::new(list.addresses.clone(), list.expiring.clone());
        if nets.is_empty() {
            warnings.push(format!("deny: list:{name} holds no address"));
        }
        let denied = clean(&format!("deny: list:{name}"), nets, &for_lists, warnings);
        let stem = sources.stems().stem("deny", name.as_str())?;
        let source = sources.denied(stem, denied, format!("list {name}"));
        let rule = Rule::new(label(&format!("deny:list:{name}"))?, Verdict::Drop);
        rules.extend(source.and_then(|source| from_source(rule, &source)));
    }
    Ok(rules)
}

fn protected(
    sources: &Sources<'_>,
    what: &'static str,
    words: &[(AddressWord, bool)],
) -> Result<Protected, CompileError> {
    let mut nets = Vec::new();
    for (word, media) in words {
        let members = sources.members(word, *media, "deny")?;
        nets.extend(members.into_iter().map(|member| member.net));
    }
    Ok(Protected {
        what,
        nets: minimal(nets),
    })
}

/// `nets` without what is protected, and a warning that counts what that was.
fn clean(
    place: &str,
    nets: Elements,
    protected: &[&Protected],
    warnings: &mut Vec<String>,
) -> Elements {
    let mut touched = Vec::new();
    let mut holes = Vec::new();
    for Protected { what, nets: own } in protected {
        let count = nets.count_touching(own);
        if count > 0 {
            touched.push(format!("{what} ({count})"));
            holes.extend(own.iter().copied());
        }
    }
    let left = if holes.is_empty() {
        nets
    } else {
        warnings.push(format!(
            "{place}: entries overlap {}; those addresses are not denied",
            touched.join(", ")
        ));
        nets.subtract(&minimal(holes))
    };
    if is_world(&left.now()) {
        warnings.push(format!(
            "{place}: it holds networks as wide as the world; is that meant?"
        ));
    }
    left
}
