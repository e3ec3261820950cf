//! The dynamic sets that a site's policy needs, and what of them is known without a controller.

use std::collections::BTreeSet;

use ipnet::IpNet;
use voipfleet_policy::{AddressWord, Documents, Site};
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::ruleset::{DnsName, DynamicSet, DynamicSetName, DynamicSets, Interface};

use super::membership::dynamic_names;
use super::{NodeInput, Standing};

/// The addresses by which nodes may be members of the cluster: what the dynamic set of all
/// interfaces holds, or that of one. Each ruleset bounds what it takes of them.
pub fn cluster(nodes: &[NodeInput], interface: Option<&Interface>) -> DynamicSet {
    let addresses = nodes.iter().flat_map(|node| node.candidates(interface));
    DynamicSet::new(addresses.map(IpNet::from), [])
}

/// The dynamic sets that rulesets of `site` may name by its documents, and those that every site
/// has. A site that there is not has none.
pub fn needed(site: &SiteName, documents: &Documents) -> BTreeSet<DynamicSetName> {
    let Some(policy) = documents.sites.get(site) else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::from([
        DynamicSetName::Allow,
        DynamicSetName::Block,
        DynamicSetName::BlockForced,
        DynamicSetName::Open,
    ]);
    names.extend(dynamic_names(&policy.cluster));
    let of_tenant = |name| {
        let tenant = documents.tenants.get(name).into_iter();
        tenant.flat_map(|tenant| tenant.names.values().flatten())
    };
    let of_provider = |name| {
        let provider = documents.providers.get(name).into_iter();
        provider.flat_map(|found| found.signalling_names.iter().chain(&found.media_names))
    };
    let host = |name: &DnsName| DynamicSetName::Name(name.clone());
    names.extend(policy.tenants.iter().flat_map(of_tenant).map(host));
    names.extend(policy.providers.iter().flat_map(of_provider).map(host));
    for word in policy.address_words() {
        match word {
            AddressWord::Tenant(name) => names.extend(of_tenant(name).map(host)),
            AddressWord::Provider(name) => names.extend(of_provider(name).map(host)),
            AddressWord::List(name) if is_fetched(documents, word) => {
                names.insert(if policy.deny.contains(word) {
                    DynamicSetName::DenyFeed(name.clone())
                } else {
                    DynamicSetName::Feed(name.clone())
                });
                let mut opened = policy.services.values().filter_map(|s| s.from.as_ref());
                if opened.any(|from| from.contains(word))
                    || policy.rules.iter().any(|rule| rule.from.contains(word))
                {
                    names.insert(DynamicSetName::Feed(name.clone()));
                }
            }
            _ => {}
        }
    }
    names
}

fn is_fetched(documents: &Documents, word: &AddressWord) -> bool {
    let AddressWord::List(name) = word else {
        return false;
    };
    let list = documents.lists.get(name);
    list.is_some_and(|list| list.feed.is_some())
}

/// What operators decide between pushes.
const OF_OPERATORS: [DynamicSetName; 4] = [
    DynamicSetName::Allow,
    DynamicSetName::Block,
    DynamicSetName::BlockForced,
    DynamicSetName::Open,
];

/// What is known of a site's dynamic sets without a controller: its nodes are its cluster, and
/// nothing is blocked, allowed or opened by operators. Names and feeds are left unknown.
pub fn at_rest(site: &SiteName, documents: &Documents, nodes: &[NodeInput]) -> DynamicSets {
    let mut dynamic = DynamicSets::new(site.clone());
    for name in OF_OPERATORS {
        dynamic.insert(name, DynamicSet::default());
    }
    if let Some(policy) = documents.sites.get(site) {
        insert_cluster(&mut dynamic, policy, nodes);
    }
    dynamic
}

/// What a site's own tests run with: what is known, and nothing of what is not. They are about
/// the policy, so what operators block, allow or open for a while is left out; else an emergency
/// would keep the next push from the nodes. All nodes are members, as they are after the push.
pub(super) fn for_tests(
    dynamic: &DynamicSets,
    needed: &BTreeSet<DynamicSetName>,
    policy: &Site,
    nodes: &[NodeInput],
) -> DynamicSets {
    let mut known = dynamic.only(needed);
    for name in OF_OPERATORS {
        known.insert(name, DynamicSet::default());
    }
    let member = |node: &NodeInput| NodeInput {
        standing: Standing::Member,
        ..node.clone()
    };
    let nodes: Vec<NodeInput> = nodes.iter().map(member).collect();
    insert_cluster(&mut known, policy, &nodes);
    known
}

fn insert_cluster(dynamic: &mut DynamicSets, policy: &Site, nodes: &[NodeInput]) {
    for name in dynamic_names(&policy.cluster) {
        if let DynamicSetName::Cluster(interface) = &name {
            let members = cluster(nodes, interface.as_ref());
            dynamic.insert(name, members);
        }
    }
}
