//! Starts and ends under bad conditions: a disk that takes no writes, a ledger that cannot be
//! read, sets that others hold.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::host::state_dir::{StateDir, StateError};
use voipfleet_agent::inventory::node_facts;
use voipfleet_agent::kernel::Backend;
use voipfleet_agent::ledger::Ledger;
use voipfleet_agent::mailbox::{Content, Offered};
use voipfleet_proto::v1::{NodeState, NodeStatus};
use voipfleet_ruleset::ruleset::Family;

use crate::intercepted::{failing_at, intercepted, refusing};
use crate::reconciler::{Agent, NEVER};
use crate::support::{held, in_namespace, install, on_both_backends, sample};

#[test]
fn read_only_disk_does_not_prevent_restore() {
    in_namespace(Backend::Nft, |place| {
        // The mounts of this thread are its own.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        place.tool("mount --make-rprivate /");
        let disk = place.folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let disk = disk.to_str().unwrap();
        place.tool(&format!("mount -t tmpfs tmpfs {disk}"));

        let state = StateDir::open(Path::new(disk)).unwrap();
        let ledger = Ledger::open(&state.ledger()).unwrap();
        let mut system = place.system();
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        recovery::teardown(&mut system, &ledger, false).unwrap();

        place.tool(&format!("mount -o remount,ro {disk}"));
        let state = StateDir::open(Path::new(disk)).unwrap();
        let lock = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(StateError::Busy(_))));
        let ledger = Ledger::open(&state.ledger()).unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert!(inspect(&mut system, &confirmed).is_clean());
        drop(lock);
        place.tool(&format!("umount {disk}"));
    });
}

/// Damages the file of the confirmed ruleset.
fn damage(ledger: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let file = ledger.join("confirmed");
    let mut bytes = std::fs::read(&file).unwrap();
    change(&mut bytes);
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn failed_apply_with_lost_ledger_leaves_the_new_rules() {
    on_both_backends(|place| {
        let ledger = place.ledger();
        install(&mut place.system(), &ledger, 1, sample(1));
        let folder = place.folder.path().join("ledger");
        damage(&folder, |bytes| bytes[30] ^= 1);
        std::fs::remove_file(folder.join("management")).unwrap();
        let kernel = failing_at(place, 3); // sets, IPv4, and then not IPv6
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        let ruleset = sample(2);
        agent.inbox.offer(Offered {
            nonce: 1,
            held: held(2, &ruleset),
            content: Content::Bytes(ruleset.encode()),
            confirm_within: Duration::from_secs(30),
            received: Instant::now(),
        });
        agent.statuses_until(|status: &NodeStatus| status.state() == NodeState::Failed);
        for line in ["iptables-save", "ip6tables-save"] {
            let saved = place.tool(line);
            assert!(saved.contains("-A INPUT -j VF-INPUT"), "{line}: {saved}");
            assert!(saved.contains("vf:default"), "{line}: {saved}");
        }
    });
}

#[test]
fn ledger_of_a_later_version_is_left_alone() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let folder = place.folder.path().join("ledger");
        damage(&folder, |bytes| bytes[12] = 2);
        for _ in 0..2 {
            let lost = recovery::recover(&mut system, &ledger).lost.unwrap();
            assert!(lost.contains("install a newer agent"), "{lost}");
        }
        assert!(inspect(&mut system, &confirmed).is_clean());
        damage(&folder, |bytes| bytes[12] = 1);
        assert_eq!(ledger.confirmed().unwrap(), Some(confirmed));
    });
}

#[test]
fn set_in_foreign_use_is_named_and_blocks_nothing_else() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        place.tool("iptables -I INPUT 1 -m set --match-set vf-clients-4 src -j DROP");
        place.tool("iptables -A FORWARD -j VF-SIP");
        let error = recovery::teardown(&mut system, &ledger, false).unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains("set vf-clients-4 cannot be removed"),
            "{words}"
        );
        let saved = place.tool("iptables-save") + &place.tool("ip6tables-save");
        assert!(!saved.contains("VF-"), "{saved}");
        assert!(saved.contains("--match-set vf-clients-4 src -j DROP"));
        let sets = place.tool("ipset list -n");
        assert_eq!(sets.trim(), "vf-clients-4");
        place.tool("iptables -D INPUT 1");
        recovery::teardown(&mut system, &ledger, false).unwrap();
        assert!(!place.has_ours());
    });
}

#[test]
fn kernel_without_ipv6_gets_ipv4_rules_only() {
    on_both_backends(|place| {
        let ledger = place.ledger();
        for scratch in [true, false] {
            let mut kernel = intercepted(place);
            (kernel.without_ipv6, kernel.without_scratch) = (true, !scratch);
            let confirmed = install(&mut kernel, &ledger, 1, sample(1));
            assert!(inspect(&mut kernel, &confirmed).is_clean());
            assert!(place.tool("iptables-save").contains("-A INPUT -j VF-INPUT"));
            assert!(!place.tool("ip6tables-save").contains("VF-"));
            place.tool("iptables -F VF-SIP");
            assert!(!inspect(&mut kernel, &confirmed).is_clean());
            let recovered = recovery::recover(&mut kernel, &ledger);
            assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
            assert!(inspect(&mut kernel, &confirmed).is_clean());
            let warnings = node_facts::warnings(&kernel);
            assert!(
                warnings
                    .iter()
                    .any(|text| text.starts_with("IPv6 is disabled"))
            );
            recovery::teardown(&mut kernel, &ledger, false).unwrap();
            assert!(!place.has_ours());
        }
        // Switched on again at a later boot, IPv6 gets its rules; and off again, none.
        let mut kernel = intercepted(place);
        for without_ipv6 in [false, true] {
            kernel.without_ipv6 = without_ipv6;
            let recovered = recovery::recover(&mut kernel, &ledger);
            assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
            let confirmed = recovered.confirmed.unwrap();
            assert!(inspect(&mut kernel, &confirmed).is_clean());
            let wanted = &confirmed.canonical.tables[1].table.chains;
            assert_eq!(wanted.is_empty(), without_ipv6);
            assert!(place.tool("ip6tables-save").contains("VF-SIP"));
        }
    });
}

#[test]
fn state_lock_of_an_ending_process_is_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let lock = state.lock().unwrap();
    let (sender, thread) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        sender.send(nix::unistd::gettid()).unwrap();
        state.lock()
    });
    // Like a killed agent's child, it holds the lock while another start waits for it, and
    // sleeps before it asks again. The kernel announces no sleeping thread.
    let thread = thread.recv().unwrap();
    let asked = format!("/proc/self/task/{thread}/wchan");
    let deadline = Instant::now() + crate::reconciler::LIMIT;
    while !std::fs::read_to_string(&asked)
        .unwrap()
        .contains("nanosleep")
    {
        assert!(Instant::now() < deadline, "it does not wait");
        std::thread::yield_now();
    }
    drop(lock);
    waiting.join().unwrap().unwrap();
}

#[test]
fn refusal_of_one_family_still_loads_the_other() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        recovery::teardown(&mut system, &ledger, false).unwrap();
        let mut kernel = refusing(place, Family::V4);
        let failed = recovery::recover(&mut kernel, &ledger).failed.unwrap();
        let words = failed.to_string();
        assert!(words.starts_with("loading the IPv4 rules"), "{words}");
        assert!(!place.tool("iptables-save").contains("VF-INPUT"));
        assert!(
            place
                .tool("ip6tables-save")
                .contains("-A INPUT -j VF-INPUT")
        );
    });
}

#[test]
fn transient_refusal_at_boot_is_retried() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        for fails_at in 1..=3 {
            recovery::teardown(&mut system, &ledger, false).unwrap();
            let recovered = recovery::recover(&mut failing_at(place, fails_at), &ledger);
            assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
            assert!(inspect(&mut system, &confirmed).is_clean());
        }
    });
}
