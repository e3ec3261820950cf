//! A node that cannot run what is confirmed: closed but for its management rules, and healed.

use std::os::unix::fs::symlink;

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::management_rules::Protection;
use voipfleet_agent::enforcement::recovery::{self, Recovered};
use voipfleet_agent::host::clock::unix_ms;
use voipfleet_agent::host::exec::Runner;
use voipfleet_agent::kernel::System;
use voipfleet_proto::v1::{DriftState, NodeState};
use voipfleet_ruleset::ruleset::{Mode, Ruleset};
use voipfleet_testkit::Intercept;
use voipfleet_testkit::kernel::Call;

use crate::intercepted::{announcing, await_call};
use crate::offers::answer;
use crate::reconciler::{Agent, NEVER, OFTEN, offer};
use crate::support::{Place, install, on_both_backends, sample};

/// Confirms a ruleset, and empties the kernel as a reboot does.
fn reboot_with(place: &Place, ruleset: Ruleset) {
    let (mut system, ledger) = (place.system(), place.ledger());
    install(&mut system, &ledger, 4, ruleset);
    recovery::teardown(&mut system, &ledger, false).unwrap();
}

fn damage(place: &Place, file: &str) {
    let path = place.folder.path().join("ledger").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The tools of a machine from which the package ipset was removed.
fn without_ipset(place: &Place) -> System {
    let tools = place.folder.path().join("no-ipset");
    if !tools.exists() {
        std::fs::create_dir(&tools).unwrap();
        for family in ["iptables", "ip6tables"] {
            for verb in ["", "-restore", "-save"] {
                let tool = format!("{family}{verb}");
                symlink(place.runner().find(&tool).unwrap(), tools.join(&tool)).unwrap();
            }
        }
    }
    System::find(Runner::new(tools.to_str().unwrap())).unwrap()
}

/// Our rules of both families, as people read them.
fn ours(place: &Place) -> String {
    let saved = place.tool("iptables-save -t filter") + &place.tool("ip6tables-save -t filter");
    saved
        .lines()
        .filter(|line| line.starts_with("-A") && line.contains("VF-"))
        .map(|line| line.replace(['"', '\''], "") + "\n")
        .collect()
}

fn assert_only_management(place: &Place, recovered: &Recovered) {
    let fallback = recovered.fallback.as_ref().expect("a fallback");
    assert_eq!(fallback.protection, Protection::Management);
    let words = fallback.describe();
    assert!(
        words.contains("only its management rules since 20"),
        "{words}"
    );
    let ours = ours(place);
    for rule in [
        "-A INPUT -j VF-INPUT",
        "-A VF-FAILSAFE -i lo ",
        "-A VF-FAILSAFE -s 198.51.100.10/32 -p tcp -m multiport --dports 22 ",
        "-A VF-FAILSAFE -s 2001:db8:ad::/64 -p tcp -m multiport --dports 22 ",
        "-A VF-FAILSAFE -s 198.51.100.7/32 -p tcp -m multiport --sports 7443 ",
    ] {
        assert!(ours.contains(rule), "{rule} is not in\n{ours}");
    }
    // Last in both families, and nothing of the policy beside.
    assert_eq!(ours.matches("management:default -j DROP").count(), 2);
    assert!(
        !ours.contains("VF-SIP") && !ours.contains("match-set"),
        "{ours}"
    );
}

#[test]
fn lost_ruleset_loads_management_rules_until_the_next_push() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let foreign = place.foreign();
        reboot_with(place, sample(4));
        damage(place, "confirmed");
        let mut since = None;
        for start in 1..=2 {
            let recovered = recovery::recover(&mut place.system(), &place.ledger());
            assert_only_management(place, &recovered);
            assert_eq!(place.foreign(), foreign);
            let note = recovered.fallback.unwrap().note;
            assert!(
                note.reason.contains("lost"),
                "start {start}: {}",
                note.reason
            );
            // The second start does not move the time.
            let at = unix_ms(note.since);
            assert_eq!(*since.get_or_insert(at), at);
        }

        let agent = Agent::start(place, NEVER);
        let status = agent.outbox.last_status();
        assert_eq!(status.state(), NodeState::Failed);
        assert_eq!(status.confirmed_generation, 0);
        assert!(
            status.error.contains("management rules"),
            "{}",
            status.error
        );
        let status = answer(&agent, 3, 5, &sample(5));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(status.confirmed_generation, 5);
        drop(agent);
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
        assert_eq!(place.ledger().fallback(), None);
        assert_eq!(place.foreign(), foreign);
    });
}

#[test]
fn missing_ipset_loads_management_rules_until_it_returns() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        let recovered = recovery::recover(&mut without_ipset(place), &place.ledger());
        assert_only_management(place, &recovered);
        let reason = recovered.fallback.unwrap().note.reason;
        assert!(reason.contains("ipset is not installed"), "{reason}");

        let recovered = recovery::recover(&mut place.system(), &place.ledger());
        assert!(recovered.fallback.is_none() && recovered.failed.is_none());
        let confirmed = recovered.confirmed.unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
        assert_eq!(place.ledger().fallback(), None);
    });
}

#[test]
fn management_rules_are_repaired_without_drift_records() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        let system = without_ipset(place);
        let own = system.own_processes();
        let kernel = Intercept::new(Box::new(system));
        let (kernel, restored) = announcing(kernel, |call| matches!(call, Call::Restore(..)));
        let agent = Agent::start_with(place, OFTEN, Box::new(kernel), own);
        let wanted = ours(place);
        assert!(wanted.contains("management:default"), "{wanted}");
        place.tool("iptables -F VF-INPUT");
        place.tool("ip6tables -D INPUT -j VF-INPUT");
        await_call(&restored, || ours(place) == wanted);
        // The same content again does not count as applied while it is not in force.
        let status = answer(&agent, 7, 4, &sample(4));
        assert_eq!(status.state(), NodeState::Rejected);
        assert_eq!(status.confirmed_generation, 0);
        assert_eq!(status.drift(), DriftState::Drifted);
        let records = agent.outbox.take().into_iter().filter(|message| {
            use voipfleet_proto::v1::agent_message::Kind;
            matches!(message, Kind::Drift(_))
        });
        assert_eq!(records.count(), 0);
        drop(agent);

        // The package is back: the next poll puts the confirmed ruleset in force.
        let agent = Agent::start(place, OFTEN);
        let status = agent.outbox.last_status();
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(status.confirmed_generation, 4);
    });
}

#[test]
fn confirmed_ruleset_returns_once_ipset_is_installed_again() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        let system = without_ipset(place);
        let own = system.own_processes();
        let agent = Agent::start_with(place, OFTEN, Box::new(system), own);
        let real = place.runner().find("ipset").unwrap();
        symlink(real, place.folder.path().join("no-ipset/ipset")).unwrap();
        agent.statuses_until(|status| {
            status.state() == NodeState::Applied
                && status.confirmed_generation == 4
                && status.drift() == DriftState::Clean
        });
        let confirmed = place.ledger().confirmed().unwrap().unwrap();
        assert!(inspect(&mut place.system(), &confirmed).is_clean());
    });
}

#[test]
fn failed_offer_leaves_the_management_rules_in_place() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        damage(place, "confirmed");
        recovery::recover(&mut place.system(), &place.ledger());
        let closed = ours(place);
        // The rules of IPv6 are the third change after the sets and those of IPv4.
        let kernel = crate::intercepted::failing_at(place, 3);
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        let status = answer(&agent, 2, 9, &sample(9));
        assert_eq!(status.state(), NodeState::Failed);
        assert!(status.error.contains("out of memory"), "{}", status.error);
        assert_eq!(ours(place), closed);
        assert!(place.ledger().journal().unwrap().is_none());
    });
}

#[test]
fn lost_admin_list_opens_ssh_to_everyone() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        damage(place, "confirmed");
        damage(place, "management");
        for _start in 1..=2 {
            let recovered = recovery::recover(&mut place.system(), &place.ledger());
            let fallback = recovered.fallback.unwrap();
            assert_eq!(fallback.protection, Protection::ManagementFromAnywhere);
            let ours = ours(place);
            let ssh = "-A VF-FAILSAFE -p tcp -m multiport --dports 22 ";
            assert_eq!(ours.matches(ssh).count(), 2, "{ours}");
            assert_eq!(ours.matches("management:default -j DROP").count(), 2);
        }
    });
}

#[test]
fn unconfirmed_node_is_left_open_at_boot() {
    on_both_backends(|place| {
        let recovered = recovery::recover(&mut place.system(), &place.ledger());
        assert!(recovered.fallback.is_none() && recovered.failed.is_none());
        assert!(!place.has_ours());
    });
}

#[test]
fn observing_site_never_loads_management_rules() {
    on_both_backends(|place| {
        let mut observing = sample(4);
        observing.mode = Mode::Observe;
        reboot_with(place, observing);
        damage(place, "confirmed");
        let recovered = recovery::recover(&mut place.system(), &place.ledger());
        assert_eq!(recovered.fallback.unwrap().protection, Protection::Nothing);
        assert!(!place.has_ours());
    });
}

#[test]
fn refusal_of_one_family_keeps_the_other_in_force() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        damage(place, "confirmed");
        let mut kernel = crate::intercepted::failing_at(place, 1);
        let recovered = recovery::recover(&mut kernel, &place.ledger());
        let Protection::Refused(why) = recovered.fallback.unwrap().protection else {
            panic!("not refused");
        };
        assert!(
            why.contains("IPv4") && why.contains("out of memory"),
            "{why}"
        );
        assert_eq!(ours(place).matches("management:default").count(), 1);
    });
}

#[test]
fn unconfirmed_trial_rolls_back_to_management_rules() {
    on_both_backends(|place| {
        reboot_with(place, sample(4));
        damage(place, "confirmed");
        recovery::recover(&mut place.system(), &place.ledger());
        let closed = ours(place);
        let agent = Agent::start(place, NEVER);
        let mut offered = offer(2, 9, &sample(9));
        offered.confirm_within = std::time::Duration::from_millis(300);
        let attempt = agent.try_out(offered);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
        assert!(
            status.error.contains("only its management rules"),
            "{}",
            status.error
        );
        assert_eq!(ours(place), closed);
        assert!(place.ledger().fallback().is_some());
    });
}
