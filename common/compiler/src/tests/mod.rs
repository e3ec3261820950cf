//! What a site's documents mean on its nodes.

mod catalogue;
mod cluster;
mod deny;
mod dynamic_sets;
mod dynamic_values;
mod flows;
mod hosts;
mod oracle;
mod order;
mod properties;
mod refusals;
mod served;
mod sets;
mod wire;

use std::collections::BTreeSet;
use std::net::IpAddr;

use voipfleet_policy::{Documents, Site};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Family, Mode, Protocol, Rule, Ruleset, SetName};
use voipfleet_ruleset::simulate::{Decision, Outcome, Packet, simulate};

use super::dynamic_sets::at_rest;
use super::fixtures::{documents, effective, net, node};
use super::{CompileError, Compiled, NodeInput, compile};

/// What the nodes run when no dynamic set but the cluster holds anything.
fn compiled(documents: &Documents, nodes: &[NodeInput]) -> Compiled {
    effective(documents, nodes).expect("the documents compile")
}

/// What the nodes are sent.
fn emitted(documents: &Documents, nodes: &[NodeInput]) -> Compiled {
    let site = "site-a".parse().unwrap();
    let dynamic = at_rest(&site, documents, nodes);
    compile(&site, documents, nodes, &dynamic).expect("the documents compile")
}

fn refused(documents: &Documents) -> CompileError {
    let nodes = [all_roles()];
    effective(documents, &nodes).expect_err("they must not compile")
}

/// The documents of the fixture after `change`.
fn changed(change: impl FnOnce(&mut Site)) -> Documents {
    let mut documents = documents();
    change(documents.sites.values_mut().next().unwrap());
    documents
}

/// The same documents, enforced.
fn enforced(mut documents: Documents) -> Documents {
    for site in documents.sites.values_mut() {
        site.mode = Mode::Enforce;
    }
    documents
}

fn all_roles() -> NodeInput {
    node("all-1", 1, &Role::ALL)
}

fn ruleset<'a>(compiled: &'a Compiled, node: &str) -> &'a Ruleset {
    &compiled.rulesets[&node.parse().unwrap()]
}

/// A single node with every role under `documents`.
fn single(documents: &Documents) -> Ruleset {
    ruleset(&compiled(documents, &[all_roles()]), "all-1").clone()
}

fn send(ruleset: &Ruleset, from: &str, protocol: Protocol, port: u16) -> Outcome {
    simulate(ruleset, &Packet::new(address(from), protocol, port))
}

fn gets_through(ruleset: &Ruleset, from: &str, protocol: Protocol, port: u16) -> bool {
    send(ruleset, from, protocol, port).decision == Decision::Accept
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn labels(ruleset: &Ruleset, chain: &str) -> Vec<String> {
    rules(ruleset, chain)
        .iter()
        .map(|rule| rule.label.to_string())
        .collect()
}

fn rules<'a>(ruleset: &'a Ruleset, chain: &str) -> &'a [Rule] {
    let mut chains = ruleset.chains.iter();
    let chain = chains
        .find(|c| c.name.as_str() == chain)
        .expect("the chain is there");
    &chain.rules
}

fn elements(ruleset: &Ruleset, set: &str) -> Vec<String> {
    let name = SetName::from_kernel_name(set).unwrap();
    let set = ruleset.sets.iter().find(|set| set.name == name);
    let elements = set.map(|set| set.elements.clone()).unwrap_or_default();
    elements.iter().map(ToString::to_string).collect()
}

fn set_names(ruleset: &Ruleset) -> BTreeSet<String> {
    ruleset
        .sets
        .iter()
        .map(|set| set.name.kernel_name())
        .collect()
}

fn warns(compiled: &Compiled, text: &str) -> bool {
    compiled
        .warnings
        .iter()
        .any(|warning| warning.contains(text))
}
