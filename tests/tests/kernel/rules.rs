//! Random rulesets into the kernel and back.

use std::collections::BTreeSet;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use voipfleet_ruleset::drift::{DriftClass, Wanted, compare_rules, compare_sets};
use voipfleet_ruleset::iptables::{
    Failsafe, Slack, apply_input, as_read, read_rule, removal, restore_input, set_create_input,
    set_plan,
};
use voipfleet_ruleset::ruleset::{FAILSAFE_CHAIN, Family, INPUT_CHAIN, Rule, Ruleset, Verdict};

use crate::generate;
use crate::tools::{Backend, Kernel, in_namespace, ipset_restore, saved_sets};

#[test]
fn rules_come_back_from_nft_as_they_were() {
    in_namespace(|| round_trips(Backend::Nft));
}

#[test]
fn rules_come_back_from_legacy_as_they_were() {
    in_namespace(|| round_trips(Backend::Legacy));
}

fn round_trips(backend: Backend) {
    let kernel = Kernel::new(backend);
    let seen = std::cell::RefCell::new(BTreeSet::new());
    let config = Config {
        cases: 48,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&generate::ruleset(), |ruleset| {
            for chain in &ruleset.chains {
                seen.borrow_mut()
                    .extend(chain.rules.iter().flat_map(generate::features));
            }
            round_trip(&kernel, &ruleset).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .unwrap();
    // The rulesets were random; that nothing was left out is not left to chance.
    let seen = seen.into_inner();
    let untried: Vec<_> = generate::FEATURES
        .iter()
        .filter(|feature| !seen.contains(*feature))
        .collect();
    assert!(untried.is_empty(), "no rule tried {untried:?}");
}

fn round_trip(kernel: &Kernel, ruleset: &Ruleset) -> anyhow::Result<()> {
    anyhow::ensure!(
        &Ruleset::decode(&ruleset.encode())? == ruleset,
        "not a valid ruleset"
    );
    let failsafe = Failsafe {
        controllers: vec!["192.0.2.7:7443".parse()?, "[2001:db8::7]:7443".parse()?],
        ssh_ports: vec![42_422],
    };
    ipset_restore(&set_create_input(&ruleset.sets, 0))?;
    let sets = saved_sets()?;
    anyhow::ensure!(
        compare_sets(ruleset, &sets, 0, Slack::DRIFT).is_empty(),
        "{sets:?}"
    );
    for family in Family::BOTH {
        kernel.restore(family, &restore_input(ruleset, &failsafe, family))?;
        let table = kernel.table(family)?;
        for chain in &ruleset.chains {
            let wanted: Vec<Rule> = chain
                .rules
                .iter()
                .filter(|rule| rule.scope.covers(family))
                .map(|rule| as_read(rule, family))
                .collect();
            let saved = table
                .chain(chain.name.as_str())
                .expect("the chain was loaded");
            let mut lines = saved.rules.iter();
            if chain.name.as_str() == INPUT_CHAIN {
                let (_, first) = read_rule(lines.next().expect("a first rule"), family)?;
                anyhow::ensure!(first.verdict == Verdict::Jump(FAILSAFE_CHAIN.parse()?));
            }
            let mut read = Vec::new();
            for line in lines {
                let (name, rule) = read_rule(line, family)?;
                anyhow::ensure!(name == chain.name);
                read.push(rule);
            }
            anyhow::ensure!(
                read == wanted,
                "{family}: {read:#?}\nin place of {wanted:#?}"
            );
        }
        for line in &table.chain(FAILSAFE_CHAIN).expect("a failsafe chain").rules {
            let (_, rule) = read_rule(line, family)?;
            anyhow::ensure!(rule.label.as_str().starts_with("failsafe:"), "{line}");
        }
        // Loaded again, it is the same text again: what staging and drift stand on.
        let wanted = Wanted {
            family,
            table: table.ours(),
            policy: None,
        };
        kernel.restore(family, &apply_input(ruleset, &failsafe, family, &table))?;
        let differences = compare_rules(&wanted, &kernel.table(family)?);
        anyhow::ensure!(differences.is_empty(), "{differences:#?}");
        let differences = compare_rules(&wanted, &table);
        anyhow::ensure!(
            differences
                .iter()
                .map(|d| d.class)
                .eq([DriftClass::Missing]),
            "only the jump was missing: {differences:#?}"
        );
        let removal = removal(&kernel.table(family)?).expect("something of ours");
        kernel.restore(family, &removal)?;
        anyhow::ensure!(kernel.table(family)?.ours().chains.is_empty());
    }
    let nothing = Ruleset {
        sets: Vec::new(),
        ..ruleset.clone()
    };
    ipset_restore(&set_plan(&nothing, &sets, 0).after.to_string())?;
    anyhow::ensure!(saved_sets()?.is_empty());
    Ok(())
}
