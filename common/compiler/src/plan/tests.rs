use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::prelude::*;
use voipfleet_policy::{AddressWord, DefaultVerdict, Documents, Transport};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Mode, Rate, RateUnit, Ruleset};

use super::sets::difference;
use super::*;
use crate::fixtures::{
    any_documents, any_nodes, documents, effective, nets, node, small_net, word,
};

type Rulesets = BTreeMap<NodeName, Ruleset>;

fn rulesets(documents: &Documents) -> Rulesets {
    let nodes = [
        node("http1", 2, &[Role::Http]),
        node("sip1", 1, &[Role::Sip, Role::Pbx]),
    ];
    effective(documents, &nodes).unwrap().rulesets
}

fn owners(documents: &Documents) -> Owners {
    Owners::of(documents.sites.values().next().unwrap(), documents)
}

fn between(before: &Documents, after: &Documents) -> Changes {
    let (was, now) = (rulesets(before), rulesets(after));
    let changes: Vec<NodeChange<'_>> = now
        .iter()
        .map(|(node, after)| NodeChange {
            node,
            before: was.get(node),
            after,
        })
        .collect();
    Changes::of(&changes, &owners(before), &owners(after))
}

fn shown(changes: &Changes) -> Vec<String> {
    let names = |nodes: &[NodeName]| {
        let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        names.join(" ")
    };
    let mut lines = Vec::new();
    for change in &changes.rules {
        lines.push(format!(
            "{}: -{:?} +{:?} on {}",
            change.subject,
            change.removed,
            change.added,
            names(&change.nodes)
        ));
    }
    let members = |members: &[Member]| {
        let texts: Vec<String> = members
            .iter()
            .map(|member| format!("{} ({})", member.net, member.owners.join("; ")))
            .collect();
        texts.join(", ")
    };
    for change in &changes.sets {
        lines.push(format!(
            "{} [{}]: - {} + {} on {}",
            change.set,
            change.used_by.join(", "),
            members(&change.removed),
            members(&change.added),
            names(&change.nodes)
        ));
    }
    for access in &changes.access {
        let nets: Vec<String> = access.networks.iter().map(ToString::to_string).collect();
        let reach: Vec<String> = access
            .reach
            .iter()
            .map(|reach| {
                let what: Vec<&str> = reach.what.iter().map(|what| &*what.text).collect();
                format!("{} on {}", what.join(", "), names(&reach.nodes))
            })
            .collect();
        lines.push(format!(
            "{} {} [{}] {}",
            access.owner,
            if access.gains { "gains" } else { "loses" },
            nets.join(" "),
            reach.join("; ")
        ));
    }
    lines
}

#[test]
fn nothing_to_do() {
    assert!(between(&documents(), &documents()).is_empty());
}

#[test]
fn a_network_of_a_tenant() {
    let before = documents();
    let mut after = before.clone();
    let acme = after.tenants.values_mut().next().unwrap();
    acme.networks
        .insert("hq".to_owned(), nets(&["198.18.66.0/24"]));
    insta::assert_debug_snapshot!(shown(&between(&before, &after)));
}

#[test]
fn a_tenant_that_goes_and_a_neighbour_in_its_network_that_stays() {
    let before = documents();
    let mut after = before.clone();
    let site = after.sites.values_mut().next().unwrap();
    site.tenants.retain(|name| name.as_str() != "acme");
    site.tests.clear();
    insta::assert_debug_snapshot!(shown(&between(&before, &after)));
}

#[test]
fn everything_at_once() {
    let before = documents();
    let mut after = before.clone();
    let site = after.sites.values_mut().next().unwrap();
    site.mode = Mode::Observe;
    site.default = DefaultVerdict::Reject;
    site.admins = vec![word("2001:db8:ad::/64"), word("198.51.100.11")];
    let sip = site.services.get_mut("sip").unwrap();
    sip.limit = Rate::new(40, RateUnit::Second, 60);
    sip.proto = Some(vec![Transport::Udp]);
    site.services.remove("smtp");
    site.services.entry("web".to_owned()).or_default().from = Some(vec![AddressWord::World]);
    site.rules.clear();
    site.deny.push(word("203.0.113.77"));
    insta::assert_debug_snapshot!(shown(&between(&before, &after)));
}

/// Ports that move, and ports that stay open by another rule.
#[test]
fn access_is_by_port_and_not_by_rule() {
    let before = documents();
    let mut after = before.clone();
    let site = after.sites.values_mut().next().unwrap();
    let rule = site.rules.first_mut().unwrap();
    rule.name = "metrics".to_owned();
    let ports = vec![voipfleet_ruleset::ruleset::PortRange::new(9100, 9109).unwrap()];
    rule.traffic = voipfleet_policy::Traffic::Ports(Transport::Tcp, ports);
    insta::assert_debug_snapshot!(shown(&between(&before, &after)));
}

#[test]
fn the_first_ruleset_of_a_node_reports_no_access() {
    let after = rulesets(&documents());
    let changes: Vec<NodeChange<'_>> = after
        .iter()
        .map(|(node, after)| NodeChange {
            node,
            before: None,
            after,
        })
        .collect();
    let owners = owners(&documents());
    let changes = Changes::of(&changes, &owners, &owners);
    assert!(changes.access.is_empty());
    assert_eq!(changes.nodes().len(), 2);
    let sip = changes.rules.iter().find(|change| change.subject == "sip");
    assert_eq!(sip.unwrap().added, ["5060/udp,tcp from clients"]);
    let clients = changes.sets.iter().find(|change| change.set == "clients");
    assert_eq!(clients.unwrap().before, 0);
}

fn warnings(before: &Documents, after: &Documents) -> Vec<String> {
    let (was, now) = (rulesets(before), rulesets(after));
    let nodes: Vec<NodeChange<'_>> = now
        .iter()
        .map(|(node, after)| NodeChange {
            node,
            before: was.get(node),
            after,
        })
        .collect();
    let changes = Changes::of(&nodes, &owners(before), &owners(after));
    changes.warnings(&nodes, None, 0)
}

#[test]
fn a_change_of_mode_is_a_warning() {
    let enforced = documents();
    let mut observed = enforced.clone();
    observed.sites.values_mut().next().unwrap().mode = Mode::Observe;
    assert_eq!(
        warnings(&enforced, &observed),
        ["mode: nothing would be dropped any more on http1, sip1, only counted and logged"]
    );
    assert_eq!(
        warnings(&observed, &enforced),
        ["mode: what was only counted and logged would be dropped on http1, sip1"]
    );
}

/// In mode observe nothing is dropped: a plan must not threaten with it.
#[test]
fn observed_rules_close_nothing() {
    let mut before = documents();
    let site = before.sites.values_mut().next().unwrap();
    site.mode = Mode::Observe;
    site.tests.clear();
    let mut after = before.clone();
    let site = after.sites.values_mut().next().unwrap();
    site.admins = vec![word("198.51.100.99")];
    site.tenants.clear();
    assert_eq!(warnings(&before, &after), [""; 0]);

    let first = |documents: &Documents| {
        let rulesets = rulesets(documents);
        let nodes: Vec<NodeChange<'_>> = rulesets
            .iter()
            .map(|(node, after)| NodeChange {
                node,
                before: None,
                after,
            })
            .collect();
        let operator = Some("203.0.113.200".parse().unwrap());
        Changes::of(&nodes, &owners(documents), &owners(documents)).warnings(&nodes, operator, 0)
    };
    assert_eq!(
        first(&before),
        ["first rules on http1, sip1, in mode observe: nothing is closed, only counted and logged"]
    );
    assert_eq!(
        first(&documents()).first().unwrap(),
        "first rules on http1, sip1: what they do not open is closed there from then on"
    );
}

#[test]
fn lost_admins_are_a_warning() {
    let after = documents();
    let mut before = after.clone();
    let site = before.sites.values_mut().next().unwrap();
    site.admins.push(word("198.51.100.99"));
    assert_eq!(
        warnings(&before, &after),
        [
            "admins: 198.51.100.99/32 would lose SSH on http1, sip1",
            "site site-a would lose ports 80 and 443: phones there get no provisioning, and APIs \
             and certificate renewal over HTTP fail"
        ]
    );
    assert_eq!(warnings(&after, &before), [""; 0]);
}

/// A rule of the site is no service of its name.
#[test]
fn the_world_is_a_warning_but_for_public_services() {
    let mut before = documents();
    let site = before.sites.values_mut().next().unwrap();
    site.rules.first_mut().unwrap().name = "rtp".to_owned();
    site.services.entry("web".to_owned()).or_default().from = Some(vec![AddressWord::Tenants]);
    site.services.entry("rtp".to_owned()).or_default().from = Some(vec![AddressWord::Tenants]);
    let mut after = before.clone();
    let site = after.sites.values_mut().next().unwrap();
    for service in ["rtp", "web"] {
        let service = site.services.get_mut(service).unwrap();
        service.from = Some(vec![AddressWord::World]);
    }
    let rule = site.rules.first_mut().unwrap();
    rule.from = vec![AddressWord::World];
    rule.dangerous = true;
    assert_eq!(
        warnings(&before, &after),
        [
            "the world would reach rule rtp 9100/tcp on sip1",
            "the world would reach web 80,443/tcp on http1"
        ]
    );
    assert_eq!(
        warnings(&after, &before),
        [
            "world would lose ports 80 and 443: phones there get no provisioning, and APIs and \
          certificate renewal over HTTP fail"
        ]
    );
}

proptest! {
    /// The reported changes of a list of networks lead from the old one to the new one.
    #[test]
    fn a_difference_leads_from_one_to_the_other(
        old in prop::collection::btree_set(small_net(), 0..40),
        new in prop::collection::btree_set(small_net(), 0..40),
    ) {
        let (a, b): (Vec<IpNet>, Vec<IpNet>) =
            (old.iter().copied().collect(), new.iter().copied().collect());
        let (gone, come) = difference(&a, &b);
        let mut made = old.clone();
        for net in &gone {
            prop_assert!(made.remove(net));
        }
        for net in &come {
            prop_assert!(made.insert(*net));
        }
        prop_assert_eq!(made, new);
    }

    /// A ruleset that differs changes something on its node, and the reported changes of its sets
    /// lead from the old members to the new ones. No one loses access that is still there.
    #[test]
    fn every_difference_is_reported(before in any_documents(), after in any_documents(), nodes in any_nodes()) {
        let (Ok(was), Ok(now)) = (effective(&before, &nodes), effective(&after, &nodes)) else {
            return Ok(());
        };
        let pairs: Vec<NodeChange<'_>> = now
            .rulesets
            .iter()
            .map(|(node, after)| NodeChange { node, before: was.rulesets.get(node), after })
            .collect();
        let changes = Changes::of(&pairs, &owners(&before), &owners(&after));
        let reported = changes.nodes();
        for pair in &pairs {
            prop_assert_eq!(reported.contains(pair.node), pair.before != Some(pair.after));
            let members = |ruleset: &Ruleset, set: &str| -> BTreeSet<(IpNet, Option<Until>)> {
                let sets = ruleset.sets.iter();
                let sets = sets.filter(|one| lines::set_word(&one.name.stem, one.owner.as_ref()) == set);
                sets.flat_map(|set| {
                    let ending = set.expiring.iter().map(|one| (one.net, Some(one.until)));
                    set.elements.iter().map(|net| (*net, None)).chain(ending)
                })
                .collect()
            };
            // Signalling and media of the same word are two sets.
            let twice = |set: &str| changes.sets.iter().filter(|c| {
                c.set == set && c.nodes.contains(pair.node)
            }).count() > 1 || set.starts_with("list:") || set.starts_with("provider")
                || set == "clients";
            for change in &changes.sets {
                if !change.nodes.contains(pair.node) || twice(&change.set) {
                    continue;
                }
                let mut made = members(pair.before.unwrap(), &change.set);
                for gone in &change.removed {
                    prop_assert!(made.remove(&(gone.net, gone.until)));
                }
                for come in &change.added {
                    prop_assert!(made.insert((come.net, come.until)));
                }
                prop_assert_eq!(made, members(pair.after, &change.set), "{}", change.set);
            }
        }
    }
}
