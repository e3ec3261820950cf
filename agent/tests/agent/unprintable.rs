//! Rules and sets of other programs that the node's tools cannot print, beside ours.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::{self as pb, DriftClass, DriftRecord, DriftState, NodeState};
use voipfleet_ruleset::ruleset::Family;

use crate::dynamic_sets::{first, naming, takes, with};
use crate::reconciler::{Agent, NEVER, OFTEN, offer};
use crate::support::{Place, confirmed, in_namespace, install, on_both_backends, sample};

/// What rtpengine and others leave in the table of iptables.
const NFT_ONLY: &str = "ct state vmap { established : accept, related : accept, invalid : drop }";

/// The rules of a chain, as nft lists them.
fn listed(place: &Place, family: &str, chain: &str) -> Vec<String> {
    let listed = place.tool(&format!("nft -s -a list chain {family} filter {chain}"));
    let rules = listed
        .lines()
        .filter(|line| line.contains(" # handle ") && !line.contains('{'));
    let vmaps = listed.lines().filter(|line| line.contains(" vmap "));
    let mut rules: Vec<&str> = rules.chain(vmaps).map(str::trim).collect();
    rules.sort_by_key(|rule| listed.find(rule));
    rules.into_iter().map(str::to_owned).collect()
}

/// Deletes the rules of a chain of nft that hold these words.
fn delete(place: &Place, family: &str, chain: &str, words: &str) {
    for rule in listed(place, family, chain) {
        if rule.contains(words) {
            let handle = rule.rsplit(' ').next().unwrap();
            place.tool(&format!(
                "nft delete rule {family} filter {chain} handle {handle}"
            ));
        }
    }
}

fn running(place: &Place) -> Agent {
    let agent = Agent::start(place, OFTEN);
    takes(&agent, &first());
    let status = agent.answer_to(offer(1, 1, &naming(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    agent
}

fn repaired(agent: &Agent, line: &str, place: &Place, class: DriftClass, chain: &str) {
    place.tool(line);
    agent.records_until(|records| {
        let is = |record: &DriftRecord| {
            record.class() == class && record.chain == chain && record.repaired_after_ms.is_some()
        };
        records.iter().any(is)
    });
}

/// Push, block, drift, repair and restart of a node work, and it runs what is confirmed.
#[track_caller]
fn works(place: &Place, agent: Agent, generation: u64) {
    let variant = u16::try_from(generation).unwrap();
    let ruleset = naming(variant);
    let status = agent.answer_to(offer(generation, generation, &ruleset));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    let address = format!("203.0.113.{generation}/32");
    let blocked = with(&first(), "block", &[address.as_str()]);
    let status = takes(&agent, &blocked);
    assert_eq!(status.dynamic_error, "");
    let set = format!("vf-list-{variant}-4");
    place.tool(&format!("ipset test {set} 203.0.113.{generation}"));
    for tool in ["iptables", "ip6tables"] {
        repaired(
            &agent,
            &format!("{tool} -D VF-SIP 1"),
            place,
            DriftClass::Missing,
            "VF-SIP",
        );
        repaired(
            &agent,
            &format!("{tool} -F VF-INPUT"),
            place,
            DriftClass::Missing,
            "VF-INPUT",
        );
    }
    agent.drift_until(DriftState::Clean);
    drop(agent);
    let again = Agent::start(place, OFTEN);
    again.drift_until(DriftState::Clean);
    let status = again.outbox.last_status();
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    assert_eq!(
        (status.confirmed_generation, status.error.as_str()),
        (generation, "")
    );
    assert_eq!(confirmed(place), Some(generation));
    let sets = status.sets.unwrap();
    assert!(sets.wanted > 0 && sets.enforced == sets.wanted, "{sets:?}");
}

#[test]
fn push_block_drift_and_repair_work_beside_a_rule_that_only_nft_prints() {
    in_namespace(Backend::Nft, |place| {
        place.add_foreign_rules();
        let agent = running(place);
        for family in ["ip", "ip6"] {
            place.tool(&format!("nft add rule {family} filter INPUT {NFT_ONLY}"));
        }
        for family in ["IPv4", "IPv6"] {
            let warning = agent.warning_until(&format!("cannot print the {family} rules"));
            for words in [
                "established : accept",
                "INPUT",
                "--nftables-family=inet",
                "list chain",
            ] {
                assert!(warning.contains(words), "{warning}");
            }
        }
        let warnings = agent.outbox.hello().0.warnings;
        let named = warnings.iter().filter(|warning| warning.contains("vmap"));
        assert_eq!(named.count(), 2, "once for each family: {warnings:#?}");
        works(place, agent, 2);
        let agent = Agent::start(place, OFTEN);
        for tool in ["iptables", "ip6tables"] {
            let line = format!("{tool} -D INPUT -j VF-INPUT");
            repaired(&agent, &line, place, DriftClass::Missing, "INPUT");
        }
        for family in ["ip", "ip6"] {
            let rules = listed(place, family, "INPUT");
            let place_of = |words: &str| rules.iter().position(|rule| rule.contains(words));
            let (jump, foreign) = (
                place_of("jump VF-INPUT").unwrap(),
                place_of("vmap").unwrap(),
            );
            assert!(jump < foreign, "{rules:#?}");
            // It is mended.
            delete(place, family, "INPUT", "vmap");
        }
        agent.reports_until(|| {
            let warnings = agent.outbox.hello().0.warnings;
            !warnings
                .iter()
                .any(|warning| warning.contains("cannot print"))
        });
        agent.drift_until(DriftState::Clean);
        assert!(place.foreign().contains("f2b-sshd"));
    });
}

#[test]
fn rule_that_only_nft_prints_and_that_accepts_gets_a_guard() {
    in_namespace(Backend::Nft, |place| {
        place.add_foreign_rules();
        let agent = running(place);
        for (family, tool) in [("ip", "iptables"), ("ip6", "ip6tables")] {
            place.tool(&format!("nft insert rule {family} filter INPUT {NFT_ONLY}"));
            let records = agent.records_until(|records| {
                let is = |r: &DriftRecord| {
                    r.class() == DriftClass::Bypass && r.repaired_after_ms.is_some()
                };
                records.iter().any(is)
            });
            assert!(
                records
                    .iter()
                    .any(|record| record.observed.contains("vmap")),
                "{records:#?}"
            );
            // A guard above the rule, and the jump where it was, below what only drops.
            let rules = listed(place, family, "INPUT");
            let order: Vec<&str> = rules
                .iter()
                .filter_map(|rule| {
                    let words = ["jump VF-INPUT", "vmap", "f2b-sshd", "match set", "\"lo\""];
                    words.into_iter().find(|words| rule.contains(words))
                })
                .collect();
            let jump = "jump VF-INPUT";
            let mut wanted = vec![jump, "vmap", "f2b-sshd", jump];
            if family == "ip" {
                wanted.splice(3.., ["match set", jump, "\"lo\""]);
            }
            assert_eq!(order, wanted, "{rules:#?}");
            assert_eq!(order.len(), rules.len(), "nothing else: {rules:#?}");
            agent.drift_until(DriftState::Clean);
            // The guard is read back as one, and not made again: the handles stay.
            let repaired = Instant::now();
            while repaired.elapsed() < OFTEN * 8 {
                let more = agent.records_within(OFTEN);
                assert!(more.is_empty(), "{more:#?}");
            }
            assert_eq!(listed(place, family, "INPUT"), rules);
            place.tool(&format!(
                "{tool} -C INPUT -p tcp -m multiport --dports 22 -j f2b-sshd"
            ));
        }
        works(place, agent, 2);
        // When its cause is gone, the guard goes.
        let agent = Agent::start(place, OFTEN);
        for family in ["ip", "ip6"] {
            delete(place, family, "INPUT", "vmap");
            agent.reports_until(|| {
                let rules = listed(place, family, "INPUT");
                let jumps = rules.iter().filter(|rule| rule.contains("jump VF-INPUT"));
                jumps.count() == 1 && rules[0].contains("f2b-sshd")
            });
        }
        agent.drift_until(DriftState::Clean);
    });
}

#[test]
fn unprintable_rule_inside_our_chain_is_removed() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let running = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        for (family, of) in [("ip", pb::Family::V4), ("ip6", pb::Family::V6)] {
            place.tool(&format!(
                "nft insert rule {family} filter VF-INPUT ct count over 5 accept"
            ));
            let records = agent.records_until(|records| {
                let is = |record: &DriftRecord| record.repaired_after_ms.is_some();
                records.iter().any(is)
            });
            let record = records
                .iter()
                .find(|record| record.repaired_after_ms.is_some())
                .unwrap();
            assert_eq!((record.family(), record.class()), (of, DriftClass::Extra));
            assert_eq!(record.chain, "VF-INPUT");
            assert!(record.observed.contains("ct count over 5"), "{record:?}");
        }
        assert!(inspect(&mut system, &running).is_clean());
    });
}

/// Hides the library of an extension from the tools that this thread starts.
fn hide_library(place: &Place, name: &str) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    place.tool("mount --make-rprivate /");
    let folders = [
        "/usr/lib/x86_64-linux-gnu/xtables",
        "/usr/lib64/xtables",
        "/usr/lib/xtables",
    ];
    let folders = folders.map(|folder| Path::new(folder).join(name));
    let library = folders
        .into_iter()
        .chain(std::env::var_os("XTABLES_LIBDIR").map(|folder| Path::new(&folder).join(name)));
    let library = library
        .into_iter()
        .find(|file| file.exists())
        .expect("iptables' extensions");
    place.tool(&format!("mount --bind /dev/null {}", library.display()));
}

#[test]
fn push_block_drift_and_repair_work_beside_a_rule_without_its_library() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        place.tool("iptables -A INPUT -p udp -m string --algo bm --string vicious -j DROP");
        place.tool("ip6tables -I INPUT -p udp -m string --algo bm --string vicious -j DROP");
        let agent = running(place);
        hide_library(place, "libxt_string.so");
        drop(agent);
        // The threads of this agent see the library no more.
        let agent = Agent::start(place, OFTEN);
        for family in ["IPv4", "IPv6"] {
            let warning = agent.warning_until(&format!("cannot print the {family} rules"));
            assert!(warning.contains("libxt_string.so"), "{warning}");
        }
        works(place, agent, 2);
        let agent = Agent::start(place, OFTEN);
        for tool in ["iptables", "ip6tables"] {
            // iptables-nft cannot look for a rule there by its text.
            let numbers = |number: &usize| {
                let line = format!("{tool} -S INPUT {number}");
                let words: Vec<&str> = line.split(' ').collect();
                let printed = place.runner().run(words[0], &words[1..], "");
                printed.is_ok_and(|printed| printed.stdout.trim() == "-A INPUT -j VF-INPUT")
            };
            let number = (1..9).find(numbers).expect("our jump");
            let line = format!("{tool} -D INPUT {number}");
            repaired(&agent, &line, place, DriftClass::Missing, "INPUT");
            assert!((1..9).any(|number| numbers(&number)));
        }
        agent.drift_until(DriftState::Clean);
    });
}

/// A program in front of the real one on the tool path.
fn stand_in(place: &Place, name: &str, script: &str) -> String {
    let folder = place.folder.path().join("stand-ins");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), place.tool_path())
}

/// The place with other tools.
fn with_tools(path: &str) -> voipfleet_agent::kernel::System {
    let runner = voipfleet_agent::host::exec::Runner::new(path);
    voipfleet_agent::kernel::System::find(runner).unwrap()
}

#[test]
fn failing_iptables_save_does_not_stop_the_node() {
    on_both_backends(|place| {
        let script = "#!/bin/sh\nprintf '*filter\\n:INPUT ACCEPT [0:0]\\n-A INPUT -p udp\\n'\n\
                      echo 'Error: target extension not found' >&2\nexit 3\n";
        let path = stand_in(place, "iptables-save", script);
        let system = with_tools(&path);
        let own = system.own_processes();
        let agent = Agent::start_with(place, OFTEN, Box::new(system), own);
        takes(&agent, &first());
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let warning = agent.warning_until("cannot print the IPv4 rules");
        assert!(warning.contains("target extension not found"), "{warning}");
        repaired(
            &agent,
            "iptables -F VF-SIP",
            place,
            DriftClass::Missing,
            "VF-SIP",
        );
        repaired(
            &agent,
            "iptables -D INPUT -j VF-INPUT",
            place,
            DriftClass::Missing,
            "INPUT",
        );
        agent.drift_until(DriftState::Clean);
    });
}

/// As ipset fails where another program's set is of a newer revision.
const IPSET: &str = "#!/bin/sh\n\
    PATH=/usr/sbin:/sbin:/usr/bin:/bin; real=$(command -v ipset)\n\
    case \"$*\" in\n\
    save|list|'list -t'|'list -t newer'|'save newer')\n\
    echo 'ipset v7.15: Kernel and userspace incompatible: settype hash:ip,port with revision 7 \
    not supported by userspace.' >&2; exit 1;;\n\
    esac\nexec $real \"$@\"\n";

#[test]
fn foreign_set_that_ipset_cannot_list_does_not_stop_the_node() {
    on_both_backends(|place| {
        place.tool("ipset create newer hash:ip,port");
        place.tool("ipset create older hash:ip");
        let path = stand_in(place, "ipset", IPSET);
        let start = || {
            let system = with_tools(&path);
            let own = system.own_processes();
            Agent::start_with(place, OFTEN, Box::new(system), own)
        };
        let agent = start();
        takes(&agent, &first());
        for generation in [1, 2] {
            let ruleset = naming(generation);
            let nonce = u64::from(generation);
            let status = agent.answer_to(offer(nonce, nonce, &ruleset));
            assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        }
        let warning = agent.warning_until("ipset cannot save all sets");
        assert!(warning.contains("the foreign set newer,"), "{warning}");
        assert!(warning.contains("revision 7"), "{warning}");
        let status = takes(&agent, &with(&first(), "block", &["203.0.113.9/32"]));
        assert_eq!(status.dynamic_error, "");
        place.tool("ipset test vf-list-2-4 203.0.113.9");
        repaired(
            &agent,
            "ipset flush vf-list-2-6",
            place,
            DriftClass::Set,
            "vf-list-2-6",
        );
        agent.drift_until(DriftState::Clean);
        drop(agent);
        let again = start();
        again.drift_until(DriftState::Clean);
        let status = again.outbox.last_status();
        assert_eq!(
            (status.state(), status.confirmed_generation),
            (NodeState::Applied, 2)
        );
        drop(again);

        // A boot: nothing of ours is in the kernel.
        let mut system = with_tools(&path);
        recovery::teardown(&mut system, &place.ledger(), false).unwrap();
        assert!(!place.has_ours());
        let recovered = recovery::recover(&mut system, &place.ledger());
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert!(recovered.fallback.is_none());
        place.tool("ipset test vf-list-2-4 203.0.113.9");
        assert!(inspect(&mut system, &recovered.confirmed.unwrap()).is_clean());
        assert!(place.tool("ipset list -n").contains("newer"));
    });
}

#[test]
fn boot_beside_a_rule_that_only_nft_prints_puts_the_ruleset_in_force() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        recovery::teardown(&mut system, &ledger, false).unwrap();
        for family in ["ip", "ip6"] {
            place.tool(&format!("nft add rule {family} filter INPUT {NFT_ONLY}"));
        }
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert!(recovered.fallback.is_none());
        let found = inspect(&mut system, &recovered.confirmed.unwrap());
        assert!(found.is_clean(), "{:#?}", found.differences);
        for family in Family::BOTH {
            assert!(found.obstacles.has_unprintable(family));
        }
        // And it goes, as a whole.
        recovery::teardown(&mut system, &ledger, false).unwrap();
        for family in ["ip", "ip6"] {
            let left = place.tool(&format!("nft list table {family} filter"));
            assert!(!left.contains("VF-") && left.contains("vmap"), "{left}");
        }
    });
}
