//! What a plan of a large site costs: 2,000 tenants of 25 networks on 30 nodes. No process, no
//! kernel: compile, the encoding that gives the digest, the old rulesets read back, and the
//! comparison.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use voipfleet_compiler::plan::{Changes, NodeChange, Owners};
use voipfleet_compiler::{InterfaceAddress, NodeInput, Standing, compile, dynamic_sets};
use voipfleet_policy::{Documents, Source, check};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::Ruleset;

use crate::figures::{Series, say, show};

const TENANTS: u32 = 2_000;
const NETWORKS: u32 = 25;
const NODES: u8 = 30;

pub(crate) fn run(times: usize) -> Result<()> {
    say("plan of a site with 2,000 tenants of 25 networks, 30 nodes")?;
    let before = documents(0)?;
    let nodes = nodes()?;
    let site: SiteName = "site-a".parse()?;
    let owners = |documents: &Documents| -> Result<Owners> {
        let policy = documents.sites.get(&site).context("the site is there")?;
        Ok(Owners::of(policy, documents))
    };
    let rulesets = |documents: &Documents| -> Result<BTreeMap<NodeName, Ruleset>> {
        let dynamic = dynamic_sets::at_rest(&site, documents, &nodes);
        Ok(compile(&site, documents, &nodes, &dynamic)?.rulesets)
    };
    let stored: BTreeMap<NodeName, Vec<u8>> = rulesets(&before)?
        .into_iter()
        .map(|(name, ruleset)| (name, ruleset.encode()))
        .collect();
    for (what, changed) in [("one tenant moves", 1), ("every tenant moves", TENANTS)] {
        let after = documents(changed)?;
        let mut series: [Series; 4] = Default::default();
        for _ in 0..times {
            let mut at = Instant::now();
            let mut lap = || std::mem::replace(&mut at, Instant::now()).elapsed();
            let wanted = rulesets(&after)?;
            let compiled = lap();
            let mut bytes = 0;
            for ruleset in wanted.values() {
                bytes += ruleset.digest().as_bytes().len();
            }
            anyhow::ensure!(bytes > 0, "nothing was compiled");
            let digested = lap();
            let running: BTreeMap<&NodeName, Ruleset> = stored
                .iter()
                .map(|(name, bytes)| Ok((name, Ruleset::decode(bytes)?)))
                .collect::<Result<_>>()?;
            let read = lap();
            let pairs: Vec<NodeChange<'_>> = wanted
                .iter()
                .map(|(node, after)| NodeChange {
                    node,
                    before: running.get(node),
                    after,
                })
                .collect();
            let changes = Changes::of(&pairs, &owners(&before)?, &owners(&after)?);
            anyhow::ensure!(!changes.is_empty(), "nothing changed");
            let compared = lap();
            for (series, lap) in series.iter_mut().zip([compiled, digested, read, compared]) {
                series.add(lap);
            }
        }
        let medians: Vec<Duration> = series.iter().map(Series::median).collect();
        let whole: Duration = medians.iter().sum();
        let parts = ["compile", "digests", "old rulesets", "comparison"];
        let parts: Vec<String> = parts
            .iter()
            .zip(&medians)
            .map(|(part, median)| format!("{part} {}", show(*median)))
            .collect();
        say(&format!("  {what}: {} ({})", show(whole), parts.join(", ")))?;
    }
    Ok(())
}

/// The documents; so many tenants have their first network elsewhere.
fn documents(moved: u32) -> Result<Documents> {
    let mut text = String::from("kind: Site\nname: site-a\nadmins: [198.51.100.10]\ntenants: [");
    for tenant in 0..TENANTS {
        write!(text, "t{tenant}, ")?;
    }
    text.push_str("]\n");
    for tenant in 0..TENANTS {
        write!(
            text,
            "---\nkind: Tenant\nname: t{tenant}\nnetworks: {{offices: ["
        )?;
        for network in 0..NETWORKS {
            // Apart from each other, so that no two join in one wider network.
            let number = (tenant * NETWORKS + network) * 2;
            let number = number + u32::from(network == 0 && tenant < moved);
            let address = std::net::Ipv4Addr::from((20 << 24) + (number << 4));
            write!(text, "{address}/28, ")?;
        }
        text.push_str("]}\n");
    }
    let source = Source {
        path: "site.yaml".to_owned(),
        text,
    };
    let checked = check(&[source], &Documents::default());
    let errors = checked
        .diagnostics
        .first()
        .map(|found| found.message.clone());
    match errors {
        Some(message) if checked.documents.is_empty() => Err(anyhow!(message)),
        _ => Ok(checked.documents.into_iter().collect()),
    }
}

fn nodes() -> Result<Vec<NodeInput>> {
    let roles = [
        vec![Role::Sip, Role::Pbx],
        vec![Role::Http],
        vec![Role::Sql],
    ];
    (0..NODES)
        .zip(roles.iter().cycle())
        .map(|(number, roles)| {
            Ok(NodeInput {
                name: format!("n{number}").parse()?,
                roles: roles.iter().copied().collect(),
                addresses: vec![InterfaceAddress {
                    interface: "eth1".to_owned(),
                    net: format!("10.0.0.{}/24", number + 1).parse()?,
                }],
                lost: Vec::new(),
                standing: Standing::Member,
            })
        })
        .collect()
}
