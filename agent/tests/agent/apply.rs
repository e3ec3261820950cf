//! Apply, read back, go back, tear down: on the real kernel, with both backends.

use crate::intercepted::{failing_at, intercepted};
use crate::support::{
    Place, failsafe, held, in_namespace, install, on_both_backends, own, prepare, put_back, same,
    sample,
};
use voipfleet_agent::enforcement::apply::{Rejection, check_content};
use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::preflight::{Preflight, preflight};
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::host::clock;
use voipfleet_agent::host::exec::Runner;
use voipfleet_agent::kernel::{Backend, System};
use voipfleet_agent::ledger::{Journal, Ledger};

#[test]
fn ruleset_is_loaded_and_removed_without_touching_foreign_rules() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        let (mut system, ledger) = (place.system(), place.ledger());

        let first = install(&mut system, &ledger, 1, sample(1));
        assert!(inspect(&mut system, &first).is_clean());
        assert_eq!(place.foreign(), foreign);

        let second = install(&mut system, &ledger, 2, sample(2));
        assert!(inspect(&mut system, &second).is_clean());
        assert!(!inspect(&mut system, &first).is_clean());
        assert_eq!(place.foreign(), foreign);
        let saved = place.tool("iptables-save") + &place.tool("ipset save");
        assert!(
            !saved.contains("VF-SITE1") && !saved.contains("vf-list-1"),
            "{saved}"
        );

        // The jump is below rules that only drop, and above the first that accepts.
        let input: Vec<String> = saved
            .lines()
            .filter(|line| line.starts_with("-A INPUT"))
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(input, ["f2b-sshd", "DROP", "VF-INPUT", "ACCEPT"]);

        recovery::teardown(&mut system, &ledger, true).unwrap();
        assert!(!place.has_ours());
        assert_eq!(place.foreign(), foreign);
        assert!(ledger.confirmed().unwrap().is_none());
        recovery::teardown(&mut system, &ledger, false).unwrap();
    });
}

#[test]
fn apply_leaves_unchanged_chains_alone() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        // A counter that only a rewrite of the chain would reset.
        place.tool("iptables -I VF-SIP 1 -c 7 700 -p udp -j RETURN");
        let with_counter = place.tool("iptables-save -c");
        assert!(with_counter.contains("[7:700]"));
        place.tool("iptables -D VF-SIP 1");
        place.tool(
            "iptables -R VF-SIP 1 -c 7 700 -p udp -m set --match-set vf-clients-4 src \
             -m multiport --dports 5060 -m comment --comment vf:sip:clients -j ACCEPT",
        );
        install(&mut system, &ledger, 2, sample(2));
        assert!(place.tool("iptables-save -c").contains("[7:700]"));
    });
}

#[test]
fn boot_restores_from_disk_alone() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 4, sample(4));
        // As after a reboot: nothing of ours is in the kernel.
        recovery::teardown(&mut system, &ledger, false).unwrap();
        assert!(!place.has_ours());
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert_eq!(recovered.confirmed.unwrap(), confirmed);
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn interrupted_apply_is_rolled_back_at_the_next_start() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        let (mut system, ledger) = (place.system(), place.ledger());

        // The first ruleset of a node: back to nothing of ours.
        let prepared = prepare(&mut system, 1, sample(1)).unwrap();
        prepared.begin(&ledger, 9, clock::now()).unwrap();
        prepared.enforce(&mut system).unwrap();
        assert!(place.has_ours());
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.interrupted.is_some() && recovered.failed.is_none());
        assert!(!place.has_ours());
        assert!(ledger.journal().unwrap().is_none());

        // A later one: back to the confirmed.
        let confirmed = install(&mut system, &ledger, 2, sample(2));
        let prepared = prepare(&mut system, 3, sample(3)).unwrap();
        prepared.begin(&ledger, 10, clock::now()).unwrap();
        prepared.enforce(&mut system).unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.interrupted.is_some() && recovered.failed.is_none());
        assert!(inspect(&mut system, &confirmed).is_clean());
        assert_eq!(place.foreign(), foreign);

        // Nothing is left that would undo a later start again.
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.interrupted.is_none());
    });
}

#[test]
fn journal_of_the_confirmed_ruleset_undoes_nothing() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        ledger
            .begin(&Journal {
                held: confirmed.held,
                nonce: 1,
                begun: clock::now(),
            })
            .unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.interrupted.is_none() && recovered.failed.is_none());
        assert!(ledger.journal().unwrap().is_none());
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn corrupt_ledger_leaves_the_kernel_alone() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let file = place.folder.path().join("ledger/confirmed");
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        for _ in 0..2 {
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.lost.is_some(), "also at the second start");
            assert!(recovered.interrupted.is_none());
            assert!(inspect(&mut system, &confirmed).is_clean());
        }
        assert!(
            place
                .folder
                .path()
                .join("ledger/confirmed.corrupt")
                .exists()
        );
    });
}

#[test]
fn failed_preflight_touches_nothing() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let before = place.tool("iptables-save -t filter");

        // A machine without ipset.
        let tools = place.folder.path().join("no-ipset");
        std::fs::create_dir(&tools).unwrap();
        for family in ["iptables", "ip6tables"] {
            for verb in ["", "-restore", "-save"] {
                let tool = format!("{family}{verb}");
                let real = place.runner().find(&tool).unwrap();
                std::os::unix::fs::symlink(real, tools.join(tool)).unwrap();
            }
        }
        let mut bare = System::find(Runner::new(tools.to_str().unwrap())).unwrap();
        let refused = prepare(&mut bare, 2, sample(2)).unwrap_err().to_string();
        assert!(refused.contains("ipset is not installed"), "{refused}");

        // The node runs on as it did.
        let now = place.tool("iptables-save -t filter");
        let rules = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|l| l.starts_with('-'))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(rules(&before), rules(&now));
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

/// A machine whose iptables lacks one match.
fn without_match(place: &Place, name: &str) -> System {
    let folder = place.folder.path().join(format!("no-{name}"));
    let matches = folder.join("xtables");
    std::fs::create_dir_all(&matches).unwrap();
    let runner = place.runner();
    let known = std::fs::read_dir("/usr/lib/x86_64-linux-gnu/xtables")
        .or_else(|_| std::fs::read_dir("/usr/lib64/xtables"))
        .or_else(|_| std::fs::read_dir("/usr/lib/aarch64-linux-gnu/xtables"))
        .unwrap();
    for library in known {
        let library = library.unwrap();
        if library.file_name() != *format!("libxt_{name}.so") {
            std::os::unix::fs::symlink(library.path(), matches.join(library.file_name())).unwrap();
        }
    }
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-restore", "-save"] {
            let tool = format!("{family}{verb}");
            let script = format!(
                "#!/bin/sh\nXTABLES_LIBDIR={} exec {} \"$@\"\n",
                matches.display(),
                runner.find(&tool).unwrap().display()
            );
            let (written, path) = (folder.join("script"), folder.join(tool));
            std::fs::write(&written, script).unwrap();
            // Copied by another process: a program that another test starts meanwhile inherits
            // what this one has open for writing, and nothing can run a file that is.
            let (from, to) = (written.display(), path.display());
            place.tool(&format!("install -m 755 {from} {to}"));
        }
    }
    let path = format!("{}:{}", folder.display(), place.tool_path());
    System::find(Runner::new(&path)).unwrap()
}

#[test]
fn missing_match_is_named_by_the_preflight() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let before = place.everything();
        for name in ["hashlimit", "set", "multiport", "conntrack"] {
            let mut bare = without_match(place, name);
            let refused = prepare(&mut bare, 2, sample(2)).unwrap_err();
            assert!(matches!(refused, Rejection::Kernel(_)), "{refused}");
            let refused = refused.to_string();
            assert!(refused.contains(&format!("match `{name}'")), "{refused}");
            assert!(refused.contains("that line is: -A VF-"), "{refused}");
            same(&before, &place.everything());
        }
    });
}

#[test]
fn only_content_with_the_right_digest_and_node_is_accepted() {
    let ruleset = sample(1);
    let offered = held(1, &ruleset);
    let bytes = ruleset.encode();
    assert!(check_content(&own(), offered, &bytes).is_ok());
    let wrong = check_content(&own(), held(1, &sample(2)), &bytes).unwrap_err();
    assert!(
        wrong.to_string().contains("its content has digest"),
        "{wrong}"
    );
    let mut other = own();
    other.node = "sip2".parse().unwrap();
    let wrong = check_content(&other, offered, &bytes).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "it was compiled for another node: site-a/sip1"
    );
    let mut short = bytes.clone();
    short.pop();
    let mut offered = offered;
    offered.digest = voipfleet_ruleset::ruleset::Digest::of(&short);
    assert!(check_content(&own(), offered, &short).is_err());
}

#[test]
fn failure_at_any_step_rolls_back() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        let (mut system, ledger) = (place.system(), place.ledger());
        let mut confirmed = install(&mut system, &ledger, 1, sample(1));
        // Sets before, IPv4, IPv6; what goes from the sets after is tried again by itself.
        for fails_at in 1..=3 {
            let mut kernel = failing_at(place, fails_at);
            let prepared = prepare(&mut kernel, 2, sample(2)).unwrap();
            prepared.begin(&ledger, 1, clock::now()).unwrap();
            let error = prepared.enforce(&mut kernel).unwrap_err().to_string();
            assert!(error.contains("out of memory"), "{error}");
            put_back(&mut kernel, &ledger, Some(&mut confirmed));
            assert!(
                inspect(&mut system, &confirmed).is_clean(),
                "step {fails_at}"
            );
            assert!(ledger.journal().unwrap().is_none());
        }
        // And without an earlier ruleset.
        recovery::teardown(&mut system, &ledger, true).unwrap();
        for fails_at in 1..=3 {
            let mut kernel = failing_at(place, fails_at);
            let prepared = prepare(&mut kernel, 2, sample(2)).unwrap();
            prepared.begin(&ledger, 1, clock::now()).unwrap();
            prepared.enforce(&mut kernel).unwrap_err();
            put_back(&mut kernel, &ledger, None);
            assert!(!place.has_ours(), "step {fails_at}");
        }
        assert_eq!(place.foreign(), foreign);
    });
}

#[test]
fn read_back_is_canonical_without_a_scratch_namespace() {
    on_both_backends(|place| {
        let ledger = place.ledger();
        let mut kernel = intercepted(place);
        kernel.without_scratch = true;
        let confirmed = install(&mut kernel, &ledger, 1, sample(1));
        assert!(confirmed.canonical.read_back);
        assert!(inspect(&mut kernel, &confirmed).is_clean());
        // The same words as a scratch namespace gives.
        let Preflight::Passed(mut proved) =
            preflight(&place.system(), &confirmed.ruleset, &failsafe()).unwrap()
        else {
            panic!("no scratch namespace");
        };
        proved.keep_policies(&confirmed.canonical);
        assert_eq!(proved.tables, confirmed.canonical.tables);
        let second = install(&mut kernel, &ledger, 2, sample(2));
        assert!(inspect(&mut kernel, &second).is_clean());
    });
}

#[test]
fn canonical_form_is_refreshed_after_an_iptables_upgrade() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let mut confirmed = install(&mut system, &ledger, 1, sample(1));
        let right = confirmed.clone();
        confirmed.canonical.version = "1.8.2".to_owned();
        for chain in &mut confirmed.canonical.tables[0].table.chains {
            for rule in &mut chain.rules {
                *rule = rule.replace("-m conntrack --ctstate", "-m state --state");
            }
        }
        ledger.confirm(&confirmed).unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert_eq!(recovered.confirmed.unwrap(), right);
        let ledger = Ledger::open(&place.folder.path().join("ledger")).unwrap();
        assert_eq!(ledger.confirmed().unwrap().unwrap(), right);
    });
}
