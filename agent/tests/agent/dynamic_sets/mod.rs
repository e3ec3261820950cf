//! Dynamic sets, from the announcement to the kernel.

mod clocks;
mod damaged_files;
mod denied_flows;
mod kernel;
mod large_feed;
mod read_only_disk;
mod session;
mod trial;

use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use voipfleet_agent::enforcement::dynamic_sets;
use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::host::clock;
use voipfleet_agent::kernel::Kernel;
use voipfleet_agent::ledger::{Confirmed, Ledger, SiteSets};
use voipfleet_agent::mailbox::ReceivedSets;
use voipfleet_proto::v1::NodeStatus;
use voipfleet_ruleset::ruleset::{
    DynamicSet, DynamicSetName, DynamicSets, Expiring, Ruleset, Until,
};

use crate::node::Node;
use crate::reconciler::Agent;
use crate::support::{Place, own, sample};

/// The sample, whose clients are a cluster and who is let in besides, and that denies what is
/// blocked and a feed.
pub(crate) fn naming(variant: u16) -> Ruleset {
    let mut ruleset = sample(variant);
    for set in &mut ruleset.sets {
        let names = if set.name.stem.as_str() == "clients" {
            ["allow", "cluster"]
        } else {
            ["block", "deny-feed:bad"]
        };
        set.dynamic = names.iter().map(|name| name.parse().unwrap()).collect();
    }
    Ruleset::decode(&ruleset.encode()).expect("a sound ruleset")
}

/// What those sources hold at first.
pub(crate) fn first() -> DynamicSets {
    let mut dynamic = DynamicSets::new(own().site);
    for (name, nets) in [
        ("allow", &[][..]),
        ("block", &[]),
        ("cluster", &["10.20.0.11/32", "2001:db8:20::11/128"]),
        ("deny-feed:bad", &["198.18.66.0/24", "2001:db8:66:1::/64"]),
    ] {
        dynamic = with(&dynamic, name, nets);
    }
    dynamic
}

/// The same, where a source holds these.
pub(crate) fn with(dynamic: &DynamicSets, name: &str, nets: &[&str]) -> DynamicSets {
    let nets = nets.iter().map(|net| net.parse::<IpNet>().unwrap());
    holding(dynamic, name, DynamicSet::new(nets, []))
}

fn holding(dynamic: &DynamicSets, name: &str, value: DynamicSet) -> DynamicSets {
    let mut dynamic = dynamic.clone();
    dynamic.insert(name.parse().unwrap(), value);
    dynamic
}

/// The same, where a source holds these until so many seconds from now.
fn ending(dynamic: &DynamicSets, name: &str, nets: &[&str], left: u64) -> DynamicSets {
    let until = Until::from_unix(clock::unix(clock::now()) + left).unwrap();
    let one = |net: &&str| Expiring {
        net: net.parse().unwrap(),
        until,
    };
    holding(dynamic, name, DynamicSet::new([], nets.iter().map(one)))
}

fn without(dynamic: &DynamicSets, name: &str) -> DynamicSets {
    let mut dynamic = dynamic.clone();
    let name: DynamicSetName = name.parse().unwrap();
    dynamic.sources.remove(&name).expect("a source");
    dynamic
}

/// Hands dynamic sets to the agent, as the link does.
fn give(agent: &Agent, dynamic: &DynamicSets) {
    agent.inbox.dynamic_sets(ReceivedSets {
        sets: Arc::new(SiteSets::new(dynamic.clone())),
        received: Instant::now(),
    });
}

/// The same, and waits until they are in force.
pub(crate) fn takes(agent: &Agent, dynamic: &DynamicSets) -> NodeStatus {
    give(agent, dynamic);
    let digest = dynamic.digest();
    let is = |status: &NodeStatus| status.dynamic_digest == digest.as_bytes();
    let statuses = agent.statuses_until(is);
    statuses.into_iter().find(is).unwrap()
}

/// What the kernel should hold by the ledger.
fn wanted(place: &Place) -> Confirmed {
    let ledger = place.ledger();
    let mut confirmed = ledger.confirmed().unwrap().expect("a confirmed ruleset");
    let found = dynamic_sets::load(&mut place.system(), &ledger, Some(&mut confirmed));
    assert_eq!(found.error(), None);
    confirmed
}

/// The kernel holds what that node's ledger has.
fn is_kept(node: &Node<'_>) {
    let ledger = Ledger::open_read_only(&node.state.ledger());
    let mut system = node.place.system();
    let mut confirmed = ledger.confirmed().unwrap().expect("a confirmed ruleset");
    dynamic_sets::load(&mut system, &ledger, Some(&mut confirmed));
    let found = inspect(&mut system, &confirmed);
    assert!(found.is_clean(), "{:#?}", found.differences);
}

/// The kernel holds what the ledger has.
#[track_caller]
fn is_as_wanted(place: &Place) {
    let found = inspect(&mut place.system(), &wanted(place));
    assert!(found.is_clean(), "{:#?}", found.differences);
}

/// The elements of a set, as the tool prints them.
fn elements(place: &Place, set: &str) -> Vec<String> {
    let saved = place.system().ipset_save_of(&[set.to_owned()]).unwrap();
    let start = format!("add {set} ");
    let nets = saved.lines().filter_map(|line| line.strip_prefix(&start));
    let mut nets: Vec<String> = nets.map(str::to_owned).collect();
    nets.sort();
    nets
}
