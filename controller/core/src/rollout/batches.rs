//! The order of nodes: a canary, then batches in which no role changes as a whole, if possible.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::role::Role;

/// Swaps that are tried for one role in one batch.
const MAX_SWAPS: usize = 500;

/// A node that a rollout has to order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub roles: BTreeSet<Role>,
    /// A canary that is offline would prove nothing.
    pub connected: bool,
    /// The generation changes nothing on it but the number.
    pub unchanged: bool,
}

/// Batches, and what could not be avoided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchPlan {
    /// The canary first, if there is one.
    pub batches: Vec<Vec<NodeName>>,
    /// Roles all of whose nodes change in the same batch.
    pub together: BTreeSet<Role>,
}

/// Orders nodes: `canary` of them first (0: none), then `batch` at a time, and at last, all at
/// once, those that the generation changes nothing on.
pub fn plan_batches(
    nodes: &BTreeMap<NodeName, Candidate>,
    canary: usize,
    batch: usize,
) -> BatchPlan {
    let changing: BTreeMap<&NodeName, &Candidate> =
        nodes.iter().filter(|(_, node)| !node.unchanged).collect();
    let all: Vec<NodeName> = nodes.keys().cloned().collect();
    let batch = batch.max(1);
    if changing.is_empty() || (canary == 0 && batch >= nodes.len()) {
        let batches = if all.is_empty() { vec![] } else { vec![all] };
        let together = together(&batches, &changing);
        return BatchPlan { batches, together };
    }
    let mut spread = spread(&changing);
    let counts = counts(&changing);
    // A canary is connected, and leaves others of its roles as they are.
    let single = |name: &NodeName| {
        changing.get(name).is_some_and(|node| {
            let mut roles = node.roles.iter();
            roles.any(|role| counts.get(role).is_none_or(|count| *count < 2))
        })
    };
    let connected = |name: &NodeName| changing.get(name).is_some_and(|node| node.connected);
    let mut first: Vec<NodeName> = spread.clone();
    first.sort_by_key(|name| (!connected(name), single(name)));
    first.truncate(canary);
    spread.retain(|name| !first.contains(name));
    let mut batches = Vec::new();
    if !first.is_empty() {
        batches.push(first);
    }
    batches.extend(spread.chunks(batch).map(<[NodeName]>::to_vec));
    part(&mut batches, &changing);
    let together = together(&batches, &changing);
    let same: Vec<NodeName> = nodes
        .iter()
        .filter(|(_, node)| node.unchanged)
        .map(|(name, _)| name.clone())
        .collect();
    if !same.is_empty() {
        batches.push(same);
    }
    BatchPlan { batches, together }
}

/// How many nodes have each role.
fn counts(nodes: &BTreeMap<&NodeName, &Candidate>) -> BTreeMap<Role, usize> {
    let mut counts = BTreeMap::new();
    for role in nodes.values().flat_map(|node| &node.roles) {
        *counts.entry(*role).or_default() += 1;
    }
    counts
}

/// Nodes in an order that deals those with the same roles out evenly.
fn spread(nodes: &BTreeMap<&NodeName, &Candidate>) -> Vec<NodeName> {
    let mut groups: BTreeMap<&BTreeSet<Role>, Vec<&NodeName>> = BTreeMap::new();
    for (name, node) in nodes {
        groups.entry(&node.roles).or_default().push(name);
    }
    let mut placed = Vec::new();
    for (group, names) in groups.values().enumerate() {
        for (place, name) in names.iter().enumerate() {
            // The middle of its part of the whole, in parts of a million.
            let middle = (2 * place + 1) * 1_000_000 / (2 * names.len()).max(1);
            placed.push((middle, group, (*name).clone()));
        }
    }
    placed.sort();
    placed.into_iter().map(|(_, _, name)| name).collect()
}

/// Roles of two nodes and more that change as a whole in one of the batches.
fn together(batches: &[Vec<NodeName>], nodes: &BTreeMap<&NodeName, &Candidate>) -> BTreeSet<Role> {
    let all = counts(nodes);
    batches
        .iter()
        .flat_map(|batch| whole(batch, nodes, &all))
        .collect()
}

/// Roles of two nodes and more of which a batch has every node.
fn whole(
    batch: &[NodeName],
    nodes: &BTreeMap<&NodeName, &Candidate>,
    all: &BTreeMap<Role, usize>,
) -> Vec<Role> {
    let own: BTreeMap<&NodeName, &Candidate> = batch
        .iter()
        .filter_map(|name| nodes.get_key_value(name))
        .map(|(name, node)| (*name, *node))
        .collect();
    counts(&own)
        .into_iter()
        .filter(|(role, count)| *count >= 2 && all.get(role) == Some(count))
        .map(|(role, _)| role)
        .collect()
}

/// Swaps nodes between batches as long as that parts a role.
fn part(batches: &mut [Vec<NodeName>], nodes: &BTreeMap<&NodeName, &Candidate>) {
    let all = counts(nodes);
    let score = |batches: &[Vec<NodeName>]| -> usize {
        let wholes = batches.iter().map(|batch| whole(batch, nodes, &all).len());
        wholes.sum()
    };
    let connected = |name: &NodeName| nodes.get(name).is_some_and(|node| node.connected);
    let mut left = MAX_SWAPS;
    let mut now = score(batches);
    // The canary stays who it is: it was chosen because it is connected.
    let places: Vec<(usize, usize)> = batches
        .iter()
        .enumerate()
        .flat_map(|(at, batch)| (0..batch.len()).map(move |place| (at, place)))
        .collect();
    for (index, &one) in places.iter().enumerate() {
        for &other in places.iter().skip(index + 1) {
            if now == 0 || left == 0 {
                return;
            }
            if one.0 == other.0 {
                continue;
            }
            let name = |batches: &[Vec<NodeName>], (at, place): (usize, usize)| {
                batches.get(at).and_then(|batch| batch.get(place)).cloned()
            };
            let (Some(a), Some(b)) = (name(batches, one), name(batches, other)) else {
                continue;
            };
            if one.0 == 0 && connected(&a) && !connected(&b) {
                continue;
            }
            left -= 1;
            put(batches, one, b.clone());
            put(batches, other, a.clone());
            let then = score(batches);
            if then < now {
                now = then;
            } else {
                put(batches, one, a);
                put(batches, other, b);
            }
        }
    }
}

fn put(batches: &mut [Vec<NodeName>], (at, place): (usize, usize), name: NodeName) {
    if let Some(slot) = batches.get_mut(at).and_then(|batch| batch.get_mut(place)) {
        *slot = name;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(roles: &[&str], connected: bool) -> Candidate {
        Candidate {
            roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
            connected,
            unchanged: false,
        }
    }

    fn site(nodes: &[(&str, &[&str], bool)]) -> BTreeMap<NodeName, Candidate> {
        nodes
            .iter()
            .map(|(name, roles, connected)| (name.parse().unwrap(), node(roles, *connected)))
            .collect()
    }

    fn names(plan: &BatchPlan) -> Vec<Vec<String>> {
        let text = |batch: &Vec<NodeName>| batch.iter().map(ToString::to_string).collect();
        plan.batches.iter().map(text).collect()
    }

    #[test]
    fn a_canary_is_connected_and_batches_mix_roles() {
        let nodes = site(&[
            ("pbx1", &["pbx"], true),
            ("pbx2", &["pbx"], true),
            ("sip1", &["sip"], false),
            ("sip2", &["sip"], true),
            ("sql1", &["sql"], true),
        ]);
        let plan = plan_batches(&nodes, 1, 2);
        assert_eq!(
            names(&plan),
            [vec!["pbx1"], vec!["sip1", "sql1"], vec!["sip2", "pbx2"]]
        );
        assert!(plan.together.is_empty());
    }

    #[test]
    fn unchanged_nodes_come_last_and_at_once() {
        let mut nodes = site(&[("a", &["sip"], true), ("b", &["sip"], true)]);
        for name in ["c", "d", "e"] {
            let same = Candidate {
                unchanged: true,
                ..node(&["sip"], true)
            };
            nodes.insert(name.parse().unwrap(), same);
        }
        let plan = plan_batches(&nodes, 1, 1);
        assert_eq!(names(&plan), [vec!["a"], vec!["b"], vec!["c", "d", "e"]]);
    }

    #[test]
    fn roles_that_change_at_once_are_named() {
        let nodes = site(&[("a", &["sip"], true), ("b", &["sip"], true)]);
        let plan = plan_batches(&nodes, 0, 100);
        assert_eq!(names(&plan), [vec!["a", "b"]]);
        assert_eq!(plan.together, BTreeSet::from(["sip".parse().unwrap()]));
    }

    proptest! {
        /// Every node has one place, no batch is too big, and with two batches or more of nodes
        /// that have one role each, no role of two nodes changes as a whole.
        #[test]
        fn every_node_is_in_one_batch(
            roles in prop::collection::vec((0_usize..3, any::<bool>(), any::<bool>()), 0..14),
            canary in 0_usize..3,
            batch in 1_usize..6,
        ) {
            let words = ["sip", "pbx", "sql"];
            let nodes: BTreeMap<NodeName, Candidate> = roles
                .iter()
                .enumerate()
                .map(|(at, (role, connected, unchanged))| {
                    let candidate = Candidate {
                        unchanged: *unchanged,
                        ..node(&[words[*role]], *connected)
                    };
                    (format!("n{at}").parse().unwrap(), candidate)
                })
                .collect();
            let plan = plan_batches(&nodes, canary, batch);
            let mut placed: Vec<NodeName> = plan.batches.concat();
            placed.sort();
            prop_assert_eq!(placed, nodes.keys().cloned().collect::<Vec<_>>());
            let changing = |batch: &[NodeName]| {
                batch.iter().filter(|name| !nodes[*name].unchanged).count()
            };
            for (at, names) in plan.batches.iter().enumerate() {
                let most = if at == 0 && canary > 0 { canary } else { batch };
                prop_assert!(changing(names) <= most.max(1));
                prop_assert!(!names.is_empty());
            }
            if let Some(first) = plan.batches.first().filter(|_| canary > 0)
                && changing(first) > 0
                && first.iter().any(|name| !nodes[name].connected)
            {
                // Only where no other node could have gone first.
                for later in plan.batches.iter().skip(1).flatten() {
                    prop_assert!(nodes[later].unchanged || !nodes[later].connected);
                }
            }
            let batches = plan.batches.iter().filter(|names| changing(names) > 0).count();
            let most = plan.batches.iter().map(|names| changing(names)).max().unwrap_or(0);
            let here = nodes.values().all(|node| node.connected);
            if here && batches >= 2 && most <= 2 {
                prop_assert!(plan.together.is_empty(), "{:?}", plan);
            }
        }
    }
}
