//! Trials on a node whose ledger is lost, or takes no writes.

use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::enforcement::management_rules::Protection;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::Kernel;
use voipfleet_proto::v1::NodeState;

use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, install, on_both_backends, prepare, same, sample};

/// A ruleset is in the kernel, and its file in the ledger is damaged.
fn lose(place: &Place, files: &[&str]) {
    install(&mut place.system(), &place.ledger(), 4, sample(4));
    for file in files {
        let path = place.folder.path().join("ledger").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

fn assert_closed(place: &Place, foreign: &str) {
    for tool in ["iptables-save", "ip6tables-save"] {
        let saved = place.tool(tool);
        assert!(saved.contains("vf:management:default"), "{saved}");
        assert!(saved.contains("-A INPUT -j VF-INPUT"), "{saved}");
        assert!(!saved.contains("VF-SIP"), "{saved}");
    }
    assert!(!place.tool("ipset list -n").contains("vf-"));
    assert_eq!(place.foreign(), foreign);
    assert_eq!(place.ledger().journal().unwrap(), None);
}

/// The next push finds its way, as ever.
fn assert_takes_a_push(place: &Place) {
    let agent = Agent::start(place, NEVER);
    let status = agent.answer_to(offer(3, 10, &sample(9)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
}

#[test]
fn failed_trial_with_lost_ruleset_loads_management_rules() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        lose(place, &["confirmed"]);
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        // Rules that were confirmed once protect better than management rules.
        same(&before, &place.everything());
        let mut offered = offer(2, 9, &sample(9));
        offered.confirm_within = Duration::from_millis(300);
        let attempt = agent.try_out(offered);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
        for words in ["no new connection", "only its management rules"] {
            assert!(status.error.contains(words), "{}", status.error);
        }
        assert_closed(place, &foreign);
        drop(agent);
        // And so it stays over a boot, until the next push.
        let recovered = recovery::recover(&mut place.system(), &place.ledger());
        assert_eq!(
            recovered.fallback.unwrap().protection,
            Protection::Management
        );
        assert_closed(place, &foreign);
        assert_takes_a_push(place);
    });
}

#[test]
fn deleted_ruleset_file_counts_as_loss() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 4, sample(4));
        std::fs::remove_file(place.folder.path().join("ledger/confirmed")).unwrap();
        let before = place.everything();
        // Rules in the kernel stay; an empty kernel, as after a boot, gets management rules.
        for _ in 0..2 {
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.lost.is_some());
            same(&before, &place.everything());
        }
        voipfleet_agent::enforcement::write::clear(&mut system).unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert_eq!(
            recovered.fallback.unwrap().protection,
            Protection::Management
        );
        assert_closed(place, &foreign);
        assert_takes_a_push(place);
    });
}

#[test]
fn interrupted_first_push_does_not_count_as_loss() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        // As if it had been killed after the list of its admins was written.
        let prepared = prepare(&mut system, 1, sample(1)).unwrap();
        prepared
            .begin(&ledger, 1, std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let candidate = prepared.enforce(&mut system).unwrap();
        ledger.keep_management(&candidate).unwrap();
        for _ in 0..2 {
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.lost.is_none() && recovered.fallback.is_none());
            assert!(!place.has_ours());
        }
    });
}

#[test]
fn kill_during_apply_with_lost_ruleset_loads_management_rules() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        lose(place, &["confirmed"]);
        let (mut system, ledger) = (place.system(), place.ledger());
        // One family is the new one, the other the old one.
        let mut half = prepare(&mut system, 9, sample(9)).unwrap();
        half.begin(&ledger, 2, voipfleet_agent::host::clock::now())
            .unwrap();
        let mut kernel = crate::intercepted::failing_at(place, 3);
        assert!(half.write(&mut kernel as &mut dyn Kernel).is_err());
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.interrupted.is_some());
        assert_eq!(
            recovered.fallback.unwrap().protection,
            Protection::Management
        );
        assert_closed(place, &foreign);
    });
}

#[test]
fn failed_trial_without_admin_list_keeps_the_new_rules() {
    on_both_backends(|place| {
        lose(place, &["confirmed", "management"]);
        let agent = Agent::start(place, NEVER);
        let mut offered = offer(2, 9, &sample(9));
        offered.confirm_within = Duration::from_millis(300);
        let attempt = agent.try_out(offered);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Failed, "{}", status.error);
        assert!(
            status.error.contains("stay until the next push"),
            "{}",
            status.error
        );
        for tool in ["iptables-save", "ip6tables-save"] {
            let saved = place.tool(tool);
            assert!(saved.contains("-A VF-SITE9 "), "{saved}");
        }
    });
}

#[test]
fn full_disk_at_confirmation_rolls_back() {
    on_both_backends(|place| {
        // The mounts of this thread, and of those that it starts, are its own.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        place.tool("mount --make-rprivate /");
        let ledger = place.folder.path().join("ledger");
        std::fs::create_dir(&ledger).unwrap();
        place.tool(&format!(
            "mount -t tmpfs -o size=128k tmpfs {}",
            ledger.display()
        ));
        install(&mut place.system(), &place.ledger(), 4, sample(4));
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        let attempt = agent.try_out(offer(2, 9, &sample(9)));
        let filler = ledger.join("filler");
        std::fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        agent.inbox.confirm(attempt);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Failed);
        for words in [
            "the ruleset to boot with",
            "cannot be written",
            "No space left",
        ] {
            assert!(status.error.contains(words), "{}", status.error);
        }
        assert_eq!(status.confirmed_generation, 4);
        same(&before, &place.everything());
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert_eq!(confirmed.held.generation, 4);
        assert_eq!(place.ledger().journal().unwrap(), None);
        // Nor does an apply begin while the journal has no room.
        let more = ledger.join("more");
        std::fs::write(&more, vec![0; 1 << 20]).unwrap_err();
        let status = agent.answer_to(offer(3, 10, &sample(9)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("journal"), "{}", status.error);
        same(&before, &place.everything());
        std::fs::remove_file(&filler).unwrap();
        std::fs::remove_file(&more).unwrap();
        let status = agent.answer_to(offer(5, 11, &sample(9)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        drop(agent);
        place.tool(&format!("umount {}", ledger.display()));
    });
}
