//! Dynamic sets that are damaged on disk: the node stays protected, with what is left.

use std::path::PathBuf;

use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::ledger::{KeptSets, SiteSets};
use voipfleet_proto::v1::NodeState;

use super::{elements, first, is_as_wanted, naming, takes, with};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, install, on_both_backends, sample};

fn file(place: &Place, name: &str) -> PathBuf {
    place.folder.path().join("ledger").join(name)
}

fn damage(place: &Place, name: &str) {
    let path = file(place, name);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    // Not in place: both names may be of one file.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

/// A node that is down, with the elements of its clients before that.
fn ran(place: &Place) -> Vec<String> {
    let agent = Agent::start(place, NEVER);
    takes(&agent, &first());
    let status = agent.answer_to(offer(1, 1, &naming(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    takes(&agent, &with(&first(), "block", &["203.0.113.9/32"]));
    elements(place, "vf-clients-4")
}

#[test]
fn damaged_dynamic_sets_fall_back_to_the_previous_ones() {
    on_both_backends(|place| {
        let cluster = ran(place);
        for gone in [false, true] {
            if gone {
                std::fs::remove_file(file(place, "dynamic-sets")).unwrap();
            } else {
                damage(place, "dynamic-sets");
            }
            let (mut system, ledger) = (place.system(), place.ledger());
            recovery::teardown(&mut system, &ledger, false).unwrap();
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.failed.is_none() && recovered.fallback.is_none());
            let why = recovered.dynamic_sets.damaged.unwrap();
            assert!(why.contains("enforces the previous ones"), "{why}");
            assert_eq!(elements(place, "vf-clients-4"), cluster);
            // It reports that, and takes what it is sent.
            let agent = Agent::start(place, NEVER);
            let status = agent.outbox.last_status();
            assert!(status.dynamic_error.contains("damaged"), "{status:?}");
            assert_eq!(status.dynamic_digest, b"");
            let blocked = with(&first(), "block", &["203.0.113.9/32"]);
            let status = takes(&agent, &blocked);
            assert_eq!(status.dynamic_error, "");
            is_as_wanted(place);
        }
    });
}

#[test]
fn lost_dynamic_sets_keep_the_kernels_elements_and_are_empty_at_boot() {
    on_both_backends(|place| {
        let cluster = ran(place);
        let before = place.everything();
        damage(place, "dynamic-sets");
        damage(place, "dynamic-sets-previous");
        // The agent alone was restarted.
        let agent = Agent::start(place, NEVER);
        crate::support::same(&before, &place.everything());
        let status = agent.outbox.last_status();
        assert!(status.dynamic_error.contains("lost"), "{status:?}");
        let words = "does not know the content of allow, block, cluster";
        assert!(status.dynamic_error.contains(words), "{status:?}");
        assert_eq!(status.state(), NodeState::Applied);
        drop(agent);
        // The machine was.
        let (mut system, ledger) = (place.system(), place.ledger());
        recovery::teardown(&mut system, &ledger, false).unwrap();
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none() && recovered.fallback.is_none());
        assert_eq!(
            elements(place, "vf-clients-4"),
            ["10.0.1.1", "203.0.113.0/24"]
        );
        for line in ["iptables-save", "ip6tables-save"] {
            assert!(place.tool(line).contains("vf:default"), "{line}");
        }
        let agent = Agent::start(place, NEVER);
        let status = takes(&agent, &first());
        assert_eq!(status.dynamic_error, "");
        assert_eq!(elements(place, "vf-clients-4"), cluster);
        is_as_wanted(place);
    });
}

#[test]
fn ledger_without_dynamic_sets_is_read() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        assert_eq!(ledger.dynamic_sets(), KeptSets::Never);
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none());
        assert_eq!(recovered.dynamic_sets.damaged, None);
        let agent = Agent::start(place, NEVER);
        let status = agent.outbox.last_status();
        assert_eq!(
            (status.dynamic_digest, status.dynamic_error),
            (vec![], String::new())
        );
    });
}

#[test]
fn previous_dynamic_sets_are_kept_beside_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = voipfleet_agent::ledger::Ledger::open(folder.path()).unwrap();
    let (one, two) = (
        SiteSets::new(first()),
        SiteSets::new(with(&first(), "block", &["203.0.113.9/32"])),
    );
    ledger.keep_dynamic_sets(&one).unwrap();
    ledger.keep_dynamic_sets(&two).unwrap();
    assert_eq!(ledger.dynamic_sets(), KeptSets::Last(two.clone()));
    for cut in [0, 30, 100] {
        let path = folder.path().join("dynamic-sets");
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &whole[..cut]).unwrap();
        let KeptSets::Earlier(dynamic, why) = ledger.dynamic_sets() else {
            panic!("{cut}");
        };
        assert_eq!(dynamic, one);
        assert!(why.contains("dynamic-sets.corrupt"), "{why}");
        ledger.keep_dynamic_sets(&one).unwrap();
        ledger.keep_dynamic_sets(&two).unwrap();
    }
}
