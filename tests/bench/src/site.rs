//! Sites of a given size.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use voipfleet_compiler::{InterfaceAddress, NodeInput, Standing, compile, dynamic_sets};
use voipfleet_policy::{Documents, Severity, Source, check};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::Ruleset;

/// A site document with `rules` custom rules and a deny list of `denied` addresses.
///
/// `round` moves one port, so that a push of the next round changes something.
pub(crate) fn document(rules: usize, denied: usize, round: usize) -> String {
    let mut text = String::from(
        "kind: Site\nname: site-a\ntenants: []\nproviders: []\n\
         admins: [198.51.100.10, \"2001:db8:ad::/64\"]\ncluster: {interface: eth1, trust: full}\n",
    );
    if denied > 0 {
        text.push_str("deny: [\"list:denied\"]\n");
    }
    text.push_str("rules:\n");
    for index in 0..rules {
        let port = 20_000 + index * 2 + usize::from(index == 0) * (round % 2) * 40_000;
        let _infallible = writeln!(
            text,
            "  - {{name: r{index}, dangerous: true, accept: {{proto: tcp, ports: [{port}], from: [world]}}}}"
        );
    }
    if denied > 0 {
        text.push_str("---\nkind: List\nname: denied\naddresses:\n");
        for index in 0..denied {
            // Every other address of 203.0.0.0/8: prefixes that cannot be joined.
            let [_, b, c, d] = u32::try_from(index * 2).unwrap_or_default().to_be_bytes();
            let _infallible = writeln!(text, "  - 45.{b}.{c}.{d}");
        }
    }
    text
}

/// The ruleset of one SIP node under [`document`].
pub(crate) fn ruleset(rules: usize, denied: usize) -> Result<Ruleset> {
    let source = Source {
        path: "bench.yaml".to_owned(),
        text: document(rules, denied, 0),
    };
    let checked = check(&[source], &Documents::default());
    if let Some(mistake) = checked
        .diagnostics
        .iter()
        .find(|d| d.severity == Severity::Error)
    {
        bail!("the bench's own document: {}", mistake.message);
    }
    let mut documents = Documents::default();
    for document in checked.documents {
        documents.insert(document);
    }
    let node = NodeInput {
        name: "sip1".parse()?,
        roles: BTreeSet::from([Role::Sip]),
        addresses: vec![InterfaceAddress {
            interface: "eth1".to_owned(),
            net: "10.20.0.11/24".parse()?,
        }],
        lost: Vec::new(),
        standing: Standing::Member,
    };
    let (site, nodes) = ("site-a".parse()?, std::slice::from_ref(&node));
    let dynamic = dynamic_sets::at_rest(&site, &documents, nodes);
    let compiled = compile(&site, &documents, nodes, &dynamic)?;
    let ruleset = compiled.rulesets.get(&node.name);
    let ruleset = ruleset.context("the compiler forgot the node")?;
    Ok(ruleset.with_dynamic(&dynamic)?)
}
